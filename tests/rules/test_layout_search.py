"""The search for orders of axes: its algebra, its cuts, what it costs, and when it leaves things alone."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import onnx
import pytest
from graphopt_passes.layout import Layout
from graphopt_passes.layout.carry import Spread, broadcast, whole
from graphopt_passes.layout.flow import ENDLESS, SINK, SOURCE, Network
from graphopt_passes.layout.orders import NEW, between, compose, inverse, price
from graphopt_passes.layout.shapes import blocks
from onnx import helper

import graphopt
from graphopt import Accuracy, Dim
from graphopt.engine.pipeline import Pipeline
from graphopt.engine.selection import Selection
from tests.rules.helpers import assert_same, build, rewrite, weight


class TestOrders:
    def test_composition_is_what_two_transposes_do(self) -> None:
        array = np.arange(24).reshape(2, 3, 4)
        for first, then in itertools.product(itertools.permutations(range(3)), repeat=2):
            expected = array.transpose(first).transpose(then)
            np.testing.assert_array_equal(array.transpose(compose(first, then)), expected)

    def test_what_leads_from_one_layout_to_another(self) -> None:
        array = np.arange(24).reshape(2, 3, 4)
        for stored, wanted in itertools.product(itertools.permutations(range(3)), repeat=2):
            there = array.transpose(stored).transpose(between(stored, wanted))
            np.testing.assert_array_equal(there, array.transpose(wanted))
            assert compose(stored, inverse(stored)) == (0, 1, 2)

    def test_price(self) -> None:
        assert price((2, 3), (0, 1), (0, 1)) == (0, 0)
        assert price((2, 3), (0, 1), (1, 0)) == (24, 1)
        assert price((1, 3), (0, 1), (1, 0)) == (0, 1)
        assert price((1, 1), (0, 1), (1, 0)) == (0, 0)
        assert price((3,), (0,), (0, NEW)) == (0, 1)
        assert price((2, 3), (0, 1), (1, NEW, 0)) == (24, 2)
        n = Dim.symbol("N")
        assert price((n, 3), (0, 1), (1, 0)).moved == price((n, 3, 1), (0, 1, 2), (1, 0, 2)).moved
        assert price((2 * n, 3), (0, 1), (1, 0)).moved == 2 * price((n, 3), (0, 1), (1, 0)).moved


class TestSpread:
    def test_an_operand_of_lower_rank(self) -> None:
        spread = broadcast(1, 4)
        assert spread.layout((0, 3, 1, 2)) == (0, NEW, NEW)
        assert spread.layout((0, 2, 1, 3)) == (0,)
        assert broadcast(2, 4).layout((0, 1, 3, 2)) == (1, 0)

    def test_there_and_back(self) -> None:
        groups = Spread(((0,), (1, 2), (), (3,)))
        for order in itertools.permutations(range(4)):
            layout = groups.layout(order)
            found = groups.order(layout, (0, 1, 2, 3))
            assert found is not None and groups.layout(found) == layout
            assert found[2] == 2  # what the tensor does not have stays
            assert whole(4).order(order, (0, 1, 2, 3)) == order

    def test_a_group_stays_together(self) -> None:
        assert Spread(((0,), (1, 2))).order((1, 0, 2), (0, 1)) is None


class TestBlocks:
    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ((2, 3, 4), (2, 12), [((0,), (0,)), ((1, 2), (1,))]),
            ((2, 12), (2, 3, 4), [((0,), (0,)), ((1,), (1, 2))]),
            ((2, 3), (2, 1, 3), [((0,), (0,)), ((), (1,)), ((1,), (2,))]),
            ((1, 2, 3), (2, 3), [((0,), ()), ((1,), (0,)), ((2,), (1,))]),
            ((4, 6), (8, 3), [((0, 1), (0, 1))]),
            ((), (1,), [((), (0,))]),
        ],
    )
    def test_axes_of_the_same_product(self, before: object, after: object, expected: object) -> None:
        assert blocks(before, after) == expected  # type: ignore[arg-type]

    def test_open_sizes(self) -> None:
        n, m = Dim.symbol("N"), Dim.symbol("M")
        assert blocks((n, m, 4), (n * m, 4)) == [((0, 1), (0,)), ((2,), (1,))]
        with pytest.raises(graphopt.Decline):
            blocks((n, 4), (m, 4))


class TestCut:
    def test_against_all_cuts(self) -> None:
        rng = random.Random(0)
        for _ in range(200):
            network, edges, inner = Network(), [], range(2, 2 + rng.randint(1, 5))
            for _ in inner:
                network.node()
            for _ in range(rng.randint(1, 12)):
                a, b = rng.choice([SOURCE, *inner]), rng.choice([SINK, *inner])
                edges.append((a, b, rng.choice([1, 2, 5, 9])))
                network.edge(*edges[-1])
            found = network.sink_side()

            def cost(side: set[int], edges: list[tuple[int, int, int]] = edges) -> int:
                return sum(c for a, b, c in edges if a not in side and b in side)

            every = [{SINK, *chosen} for n in range(len(inner) + 1) for chosen in itertools.combinations(inner, n)]
            best = min(cost(side) for side in every)
            assert cost(found) == best
            assert len(found) == min(len(side) for side in every if cost(side) == best)

    def test_an_endless_edge_is_not_cut(self) -> None:
        network = Network()
        a, b = network.node(), network.node()
        network.edge(SOURCE, a, 5)
        network.edge(a, b, ENDLESS)
        network.edge(b, SINK, 9)
        assert network.sink_side() == {SINK, a, b}


X, Y = "float[1,3,4,5] x", "float[1,3,4,5] y"
THERE, BACK = "a = Transpose<perm=[0,2,3,1]>(x) ", " y = Transpose<perm=[0,3,1,2]>(b)"


def _run(model: onnx.ModelProto, **selection: object) -> list[str]:
    loaded = graphopt.load(model)
    chosen = Selection(**selection)  # type: ignore[arg-type]
    Pipeline([Layout()], target=graphopt.load_target("onnx"), accuracy=Accuracy.CLOSE, selection=chosen).run(loaded)
    return sorted(node.op for node in loaded.main.nodes)


class TestLeftAlone:
    def test_what_the_user_ignores(self) -> None:
        model = build(f"({X}) => ({Y})", f"{THERE} b = Relu(a) {BACK}")
        assert _run(model) == ["Relu"]
        assert _run(model, ignore=("layout.order",)) == ["Relu", "Transpose", "Transpose"]

    def test_what_the_user_protects(self) -> None:
        model = build(f"({X}) => ({Y})", f"{THERE} c = Relu(a) b = Exp(c) {BACK}")
        assert _run(model, protect=("op:Relu",)) == ["Exp", "Relu", "Transpose", "Transpose"]

    def test_what_is_moved_once_instead_of_twice(self) -> None:
        body = "w = Relu(z) a = Transpose(x) b = Transpose(w) y = Add(a, b)"
        model = build("(float[2,3] x, float[2,3] z) => (float[3,2] y)", body)
        outcome = rewrite(model, Layout())
        assert outcome.ops == ["Add", "Relu", "Transpose"]
        assert_same(outcome)

    def test_a_large_constant_that_others_read_is_not_there_twice(self) -> None:
        large = weight(3, 100, 200)
        model = build(
            "(float[3,100,200] x) => (float[3,100,200] y, float[100,200,3] z)",
            "a = Transpose<perm=[1,2,0]>(x) z = Add(a, k) b = Transpose<perm=[2,0,1]>(z) y = Relu(b)",
            k=np.ascontiguousarray(large.transpose(1, 2, 0)),
        )
        assert sum(len(i.raw_data) for i in rewrite(model, Layout()).after.graph.initializer) <= large.nbytes + 64

    def test_in_a_function_nothing_breaks(self) -> None:
        model = onnx.parser.parse_model("""
            <ir_version: 10, opset_import: ["" : 18, "own" : 1]>
            g (float[2,3] x) => (float[2,3] y) { y = own.f (x) }
            <domain: "own", opset_import: ["" : 18]>
            f (u) => (v) { a = Transpose <perm = [1, 0]> (u)  b = Relu (a)  v = Transpose <perm = [1, 0]> (b) }
        """)
        assert _run(model) == ["f"]


def _chain(count: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Transpose", ["x"], ["v0"], perm=[0, 2, 3, 1])]
    nodes += [helper.make_node("Abs" if i % 2 else "Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    nodes.append(helper.make_node("Conv", [f"v{count}", "w"], ["y"]))
    types = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in
             (("x", [1, 4, 5, 6]), ("y", [1, 2, 6, 4]))]  # fmt: skip
    graph = helper.make_graph(nodes, "g", types[:1], types[1:], [onnx.numpy_helper.from_array(weight(2, 5, 1, 1), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_one_transpose_does_not_make_it_look_at_the_whole_of_a_large_graph() -> None:
    def seconds(count: int) -> float:
        loaded = graphopt.load(_chain(count))
        assert loaded.facts is not None
        pipeline = Pipeline([Layout()], target=graphopt.load_target("onnx"))
        start = time.process_time()
        pipeline.run(loaded)
        return time.process_time() - start

    seconds(100)
    assert seconds(8000) < 4 * seconds(1000) + 0.05
