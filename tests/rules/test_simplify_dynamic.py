"""Models with sizes that are not fixed end up with no more nodes than those in which they are, but for a few Shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import pytest

import graphopt
from tests.rules.decomposed import PLACES, WORDS, transformer
from tests.rules.exact import SIMPLIFY, fires, stays
from tests.rules.helpers import build, compare, feeds_for, rewrite, run

NEEDED = Counter({"Shape": 1, "Gather": 2, "Range": 1})
"""The positions: as many as there are words in a sentence, looked up in a table."""
NAMED = [("N", 7), (2, "S"), ("N", "S")]


BY_COST = ["fuse.parallel_matmul"]
"""Rewrites that are made only where sizes are fixed, because they pay for some sizes alone."""


def optimized(model: onnx.ModelProto, passes: str = "O2", ignore: Sequence[str] = ()) -> onnx.ModelProto:
    result: onnx.ModelProto = graphopt.optimize(model, passes, verify=False, ignore=ignore).model
    return result


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("level", [("simplify", []), ("O2", BY_COST)])
@pytest.mark.parametrize(("batch", "length"), NAMED)
def test_a_transformer_costs_no_more_with_open_sizes(
    batch: int | str, length: int | str, level: tuple[str, list[str]]
) -> None:
    fixed = ops(optimized(transformer(2, 7), *level))
    result = optimized(transformer(batch, length), *level)
    extra = ops(result) - fixed
    assert not fixed - ops(result)
    assert extra == (NEEDED if length == "S" else Counter())


@pytest.mark.parametrize(("batch", "length"), [*NAMED, (2, 7)])
def test_no_pass_adds_nodes(batch: int | str, length: int | str) -> None:
    model = transformer(batch, length, layers=1)
    plain = len(optimized(model, "cleanup,fold").graph.node)
    assert len(optimized(model, "simplify").graph.node) < plain


def test_interfaces_keep_their_names() -> None:
    result = optimized(transformer("N", "S"))
    assert [sizes(v) for v in result.graph.input] == [["N", "S"], ["N", "S"]]
    assert [sizes(v) for v in result.graph.output] == [["N", 16]]


def test_sizes_of_outputs_are_never_expressions() -> None:
    model = build(
        "(float[N,S,4] x) => (float[M,4] y, float[?,?] z)",
        "y = Reshape(x, to) s = Shape(x) n = Gather(s, zero) w = Gather(s, one) t = Concat<axis=0>(n, w) "
        "f = Mul(n, w) c = ConstantOfShape(f) z = Expand(c, t) ",
        to=np.array([-1, 4]), zero=np.array([0]), one=np.array([1]),
    )  # fmt: skip
    for level in ("O1", "O2", "O3"):
        assert [sizes(v) for v in optimized(model, level).graph.output] == [["M", 4], [0, 0]]


@pytest.mark.parametrize("size", [{"N": 3, "S": 5}, {"N": 1, "S": 1}, {"N": 0, "S": 4}])
def test_a_transformer_computes_the_same_for_all_sizes(size: dict[str, int]) -> None:
    before = transformer("N", "S", layers=1)
    after = optimized(before)
    random = np.random.default_rng(1)
    shape = size["N"], size["S"]
    assert size["S"] <= PLACES
    feeds = {"ids": random.integers(0, WORDS, shape), "mask": random.integers(0, 2, shape)}
    compare(run(before, feeds), run(after, feeds))


DIMS = ({"N": 2, "S": 3}, {"N": 1, "S": 1}, {"N": 0, "S": 3}, {"N": 2, "S": 0})
CONSTANTS = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "first": np.array(0), "second": np.array(1)}


def test_target_of_expand_keeps_what_the_operand_has() -> None:
    fires(
        "spelled_size", "(float[N,1,S] x) => (float[N,4,S] y)",
        "s = Shape(x) n = Gather(s, zero) m = Gather(s, two) t = Concat<axis=0>(n, four, m) y = Expand(x, t)",
        "Expand", dims=DIMS, four=np.array([4]), **CONSTANTS,
    )  # fmt: skip


def test_sizes_side_by_side_are_read_at_once() -> None:
    fires(
        "spelled_size", "(float[N,S,2] x) => (float[N,S,5] y)",
        "s = Shape(x) a = Gather(s, first) b = Gather(s, second) n = Unsqueeze(a, zero) m = Unsqueeze(b, zero) "
        "t = Concat<axis=0>(n, m, five) y = ConstantOfShape(t)",
        "Shape Concat ConstantOfShape", dims=DIMS, five=np.array([5]), **CONSTANTS,
    )  # fmt: skip


def test_a_product_of_sizes_side_by_side() -> None:
    fires(
        "spelled_size", "(float[N,S,2] x) => (float[M] y)",
        "s = Shape(x) a = Gather(s, first) b = Gather(s, second) m = Mul(a, b) t = Unsqueeze(m, zero) "
        "y = ConstantOfShape(t)",
        "Shape ReduceProd ConstantOfShape", dims=DIMS, **CONSTANTS,
    )  # fmt: skip


def test_before_opset_15_the_shape_is_read_as_a_whole() -> None:
    fires(
        "spelled_size", "(float[N,S,2] x) => (float[S,N] y)",
        "s = Shape(x) a = Gather(s, first) b = Gather(s, second) n = Unsqueeze(a, zero) m = Unsqueeze(b, zero) "
        "t = Concat<axis=0>(m, n) y = ConstantOfShape(t)",
        "Shape Gather ConstantOfShape", opset=13, dims=DIMS, **CONSTANTS,
    )  # fmt: skip


def test_the_end_of_an_axis_need_not_be_known() -> None:
    fires(
        "spelled_size", "(float[N,S] x) => (float[N,?] y)",
        "s = Shape(x) e = Gather(s, one) y = Slice(x, one, e, one)",
        "Slice", dims=({"N": 2, "S": 3}, {"N": 1, "S": 1}), **CONSTANTS,
    )  # fmt: skip


def test_a_shape_is_taken_from_the_first_tensor() -> None:
    outcome = fires(
        "earlier_shape", "(float[N,S] x) => (float[N,S] y, int64[2] z)", "y = Relu(x) z = Shape(y)", "Relu Shape",
        dims=DIMS,
    )  # fmt: skip
    (shape,) = [node for node in outcome.after.graph.node if node.op_type == "Shape"]
    assert shape.input == ["x"]


def shape_reads(outcome: object) -> str:
    """What the only Shape reads."""
    graph = outcome.after.graph  # type: ignore[attr-defined]
    (shape,) = [node for node in graph.node if node.op_type == "Shape"]
    return next(node.op_type for node in graph.node if shape.input[0] in node.output)


def test_what_is_merged_is_left_to_what_alone_reads_it() -> None:
    # Runtimes merge a product and a Relu, and either with the Q behind, as long as nobody else reads what is between.
    weight = np.ones((3, 4), np.float32)
    outcome = fires(
        "earlier_shape", "(float[N,3] x) => (float[N,4] d, int64[2] z)",
        "a = MatMul(x, w) y = Relu(a) d = Exp(y) z = Shape(d)", "MatMul Relu Exp Shape", dims=DIMS, w=weight,
    )  # fmt: skip
    assert shape_reads(outcome) == "Relu"
    outcome = fires(
        "earlier_shape", "(float[N,3] x) => (float[N,4] d, int64[2] z)",
        "a = MatMul(x, w) y = Relu(a) q = QuantizeLinear(y, s, o) d = DequantizeLinear(q, s, o) z = Shape(d)",
        "MatMul Relu QuantizeLinear DequantizeLinear Shape", dims=DIMS, w=weight, s=np.float32(0.5), o=np.uint8(3),
    )  # fmt: skip
    assert shape_reads(outcome) == "QuantizeLinear"


def test_nothing_is_computed_for_its_shape_alone() -> None:
    fires(
        "earlier_shape", "(float[N,S] x) => (int64[2] z)", "y = Exp(x) z = Shape(y)", "Shape", dims=DIMS
    )  # fmt: skip
    fires(
        "spelled_size", "(float[N,S] x) => (float[S] z)",
        "y = Transpose(x) s = Shape(y) n = Slice(s, zero, one) z = ConstantOfShape(n)", "Shape ConstantOfShape",
        dims=DIMS, **CONSTANTS,
    )  # fmt: skip


def test_chains_that_others_need_stay() -> None:
    stays(
        "spelled_size", None, "(float[N,S] x) => (float[N,5] y, int64[2] t)",
        "s = Shape(x) n = Slice(s, zero, one) t = Concat<axis=0>(n, five) y = ConstantOfShape(t)",
        five=np.array([5]), **CONSTANTS,
    )  # fmt: skip


def test_an_axis_of_size_1_is_put_in_for_all_sizes() -> None:
    fires(
        "reshape_to_constant", "(float[N,S] x) => (float[N,1,S] y)",
        "s = Shape(x) n = Slice(s, zero, one) m = Slice(s, one, two) t = Concat<axis=0>(n, one, m) y = Reshape(x, t)",
        "Unsqueeze", dims=({"N": 2, "S": 3}, {"N": 1, "S": 1}, {"N": 0, "S": 3}), **CONSTANTS,
    )  # fmt: skip


def test_axes_are_joined_for_all_sizes() -> None:
    fires(
        "reshape_to_constant", "(float[N,S,4] x) => (float[N,?] y)",
        "s = Shape(x) n = Slice(s, zero, one) m = Slice(s, one, two) p = Mul(m, four) t = Concat<axis=0>(n, p) "
        "y = Reshape(x, t)", "Flatten", dims=({"N": 2, "S": 3}, {"N": 0, "S": 3}), four=np.array([4]), **CONSTANTS,
    )  # fmt: skip


def test_a_cast_of_a_constant_of_shape() -> None:
    signature, body = "(float[N,3] x) => (int64[N,3] y)", "s = Shape(x) z = ConstantOfShape<value=float[1]{%s}>(s) "
    dims = ({"N": 2}, {"N": 0})
    fires("cast_filled", signature, body % 2.7 + "y = Cast<to=7>(z)", "Shape ConstantOfShape", dims=dims)
    reason = "a number beyond the range of an integer has no defined result"
    stays("cast_filled", reason, signature, body % 1e30 + "y = Cast<to=7>(z)")
    both = "(float[N,3] x) => (int64[N,3] y, float[N,3] z)"
    stays("cast_filled", "it is read as it is, too", both, body % 2.7 + "y = Cast<to=7>(z)")


# -- Expand before what broadcasts by itself ---------------------------------------------------------------------


def test_expand_before_a_broadcasting_operator() -> None:
    fires(
        "implicit_broadcast", "(float[N,1] x, float[N,S] z) => (float[N,S] y)",
        "s = Shape(z) e = Expand(x, s) n = Neg(e) y = Mul(n, z)", "Neg Mul", dims=DIMS,
    )  # fmt: skip


def test_expanded_indices_of_a_gather() -> None:
    fires(
        "implicit_broadcast", "(int64[1,S] i, float[N,S,3] z) => (float[N,S,3] y)",
        "s = Shape(z) t = Slice(s, zero, two) e = Expand(i, t) w = Gather(table, e) y = Add(w, z)", "Gather Add",
        dims=({"N": 2, "S": 3}, {"N": 0, "S": 3}), table=np.ones((4, 3), np.float32), **CONSTANTS,
    )  # fmt: skip


def test_two_readers_far_apart() -> None:
    fires(
        "implicit_broadcast", "(float[N,1] x, float[N,S] z) => (float[N,S] y)",
        "s = Shape(z) e = Expand(x, s) n = Exp(e) a = Mul(n, z) b = Tanh(a) y = Add(b, n)", "Exp Mul Tanh Add",
        dims=DIMS, accuracy="close",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("a reader needs the shape", "n = Neg(e) m = Mul(n, z) c = Concat<axis=0>(n, m) y = Relu(c)"),
        ("a result of the model has the shape", "y = Neg(e)"),
    ],
)
def test_expand_whose_shape_is_needed(reason: str, body: str) -> None:
    stays(
        "implicit_broadcast", reason, "(float[N,1] x, float[N,S] z) => (float[?,S] y)",
        f"s = Shape(z) e = Expand(x, s) {body}",
    )  # fmt: skip


def test_expand_to_a_size_that_no_operand_has() -> None:
    signature = "(float[N,1] x, float[N,1] z) => (float[N,4] y)"
    stays("implicit_broadcast", "a result of the model has the shape", signature, "e = Expand(x, t) y = Add(e, z)",
          t=np.array([1, 4]))  # fmt: skip


# -- Reshapes around what does not mind the shape ----------------------------------------------------------------


def test_reshapes_around_a_linear_layer() -> None:
    fires(
        "reshape_around", "(float[N,S,4] x) => (float[N,S,3] y)",
        "a = Reshape(x, flat) b = MatMul(a, w) c = Add(b, bias) d = Relu(c) s = Shape(x) t = Slice(s, zero, two) "
        "u = Concat<axis=0>(t, three) e = Reshape(d, u) z = MatMul(x, w) y = Add(e, z)", "MatMul Add Relu MatMul Add",
        dims=({"N": 2, "S": 3}, {"N": 0, "S": 3}), accuracy="close", flat=np.array([-1, 4]),
        w=np.ones((4, 3), np.float32), bias=np.ones(3, np.float32), three=np.array([3]), **CONSTANTS,
    )  # fmt: skip


def test_reshapes_around_a_gemm() -> None:
    fires(
        "reshape_around", "(float[N,5,4] x) => (float[N,5,3] y)",
        "a = Reshape(x, flat) b = Gemm<transB=1>(a, w, bias) y = Reshape(b, back)", "MatMul Add",
        dims=({"N": 2}, {"N": 0}), accuracy="close", flat=np.array([-1, 4]), back=np.array([-1, 5, 3]),
        w=np.arange(12, dtype=np.float32).reshape(3, 4), bias=np.ones(3, np.float32),
    )  # fmt: skip


def test_reshapes_around_two_gemms_go_where_their_shape_is_computed() -> None:
    body = (
        "a = Reshape(x, flat) b = Gemm(a, w, bias) c = Gemm(b, w, bias) s = Shape(x) %s "
        "e = Reshape(c, u) y = Add(e, x)"
    )
    weights = {"flat": np.array([-1, 4]), "w": np.eye(4, dtype=np.float32), "bias": np.ones(4, np.float32)}
    signature, after = "(float[N,S,4] x) => (float[N,S,4] y)", "MatMul Add MatMul Add Add"
    dims = ({"N": 2, "S": 3}, {"N": 1, "S": 1}, {"N": 0, "S": 3})
    computed = "t = Slice(s, zero, two) u = Concat<axis=0>(t, four)"
    fires("reshape_around", signature, body % computed, after, dims=dims, accuracy="close", four=np.array([4]),
          **weights, **CONSTANTS)  # fmt: skip
    reason = "as many nodes would be left"
    stays("reshape_around", reason, signature.replace("S", "3"), body % "u = Identity(back)", accuracy="close",
          back=np.array([-1, 3, 4]), **weights)  # fmt: skip


def test_reshapes_around_elementwise_operators() -> None:
    fires(
        "reshape_around", "(float[N,6,4] x) => (float[N,6,4] y)",
        "a = Reshape(x, flat) b = Mul(a, two) c = Sqrt(b) y = Reshape(c, back)", "Mul Sqrt",
        dims=({"N": 2}, {"N": 0}), flat=np.array([-1, 24]), back=np.array([-1, 6, 4]), two=np.float32(2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("an operand has the shape in between", "a = Reshape(x, flat) b = Add(a, each) y = Reshape(b, back)"),
        ("other axes matter", "a = Reshape(x, flat) b = Softmax<axis=0>(a) y = Reshape(b, back)"),
    ],
)
def test_reshapes_whose_shape_matters(reason: str, body: str) -> None:
    stays(
        "reshape_around", reason, "(float[2,6,4] x) => (float[2,6,4] y)", body, accuracy="close",
        flat=np.array([12, 4]), back=np.array([2, 6, 4]), each=np.arange(12, dtype=np.float32).reshape(12, 1),
    )  # fmt: skip


def test_products_stay_where_every_bit_counts() -> None:
    stays(
        "reshape_around", "a product may be rounded in another way", "(float[2,6,4] x) => (float[2,6,4] y)",
        "a = Reshape(x, flat) b = MatMul(a, w) y = Reshape(b, back)", flat=np.array([12, 4]),
        back=np.array([2, 6, 4]), w=np.ones((4, 4), np.float32),
    )  # fmt: skip


def test_a_rewrite_settles() -> None:
    once = rewrite(transformer("N", "S", layers=1), SIMPLIFY).after
    assert ops(rewrite(once, SIMPLIFY).after) == ops(once)
    feeds = {n: a.astype(np.int64) % 2 for n, a in feeds_for(once, {"N": 2, "S": 3}).items()}
    compare(run(once, feeds), run(rewrite(once, SIMPLIFY).after, feeds))
