"""`graphopt.bisect`: the search itself, and what it finds in runs that go wrong in different ways."""

from __future__ import annotations

import math
import random
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import Context, DataError, GraphoptError, Pass, UsageError, op, rule
from graphopt.verify.bisect import first_bad, stops_between
from tests.unit.engine import model

F = np.float32


class TestSearch:
    @pytest.mark.parametrize("last", [1, 2, 3, 4, 5, 17, 100, 2500])
    def test_it_finds_the_first_bad_one_in_few_replays(self, last: int) -> None:
        for first in {1, min(2, last), last // 3 + 1, last - 1 or 1, last}:
            replays: list[list[int]] = []
            judged: list[int] = []

            def replay(stops: Any, replays: list[list[int]] = replays) -> dict[int, int]:
                replays.append(list(stops))
                return {stop: stop for stop in stops}

            def is_bad(number: int, state: int, judged: list[int] = judged, first: int = first) -> bool:
                judged.append(number)
                return state >= first

            assert first_bad(0, last, replay, is_bad) == first
            assert len(replays) <= math.ceil(math.log(last, 4) - 1e-9)
            assert len(judged) <= math.ceil(math.log2(last))

    @pytest.mark.parametrize("seed", range(20))
    def test_where_good_and_bad_alternate_it_finds_a_place_where_things_go_bad(self, seed: int) -> None:
        rng = random.Random(seed)
        bad = [False, *(rng.random() < 0.5 for _ in range(40)), True]
        found = first_bad(0, 41, lambda stops: dict.fromkeys(stops), lambda number, _: bad[number])
        assert bad[found] and not bad[found - 1]

    def test_stops_divide_what_is_left(self) -> None:
        assert stops_between(0, 8, 3) == [2, 4, 6]
        assert stops_between(4, 7, 3) == [5, 6]
        assert stops_between(0, 100, 3) == [25, 50, 75]


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def twice(x):  # type: ignore[no-untyped-def]
    """-(-x) = x"""
    return x


@rule(lambda x: op.Relu(op.Relu(x)), accuracy="exact")
def relus(x):  # type: ignore[no-untyped-def]
    """Relu(Relu(x)) = Relu(x)"""
    return op.Relu(x)


@rule(lambda x: op.Sin(op.Cos(x)))
def wrong(x):  # type: ignore[no-untyped-def]
    """Not true."""
    return op.Sin(x)


@rule(lambda x: op.Abs(op.Abs(x)))
def raising(x):  # type: ignore[no-untyped-def]
    """Cannot."""
    raise ZeroDivisionError("one by zero")


@rule(lambda x: op.Sigmoid(x))
def dropped(x):  # type: ignore[no-untyped-def]
    """Not true, and as wrong the second time as it is the first time."""
    return x


CHAIN = """g (float[N,4] x) => (float[N,4] y) {
    a = Neg(x) b = Neg(a) c = Relu(b) d = Relu(c) [cosine] e = Cos(d) [sine] f = Sin(e)
    h = Neg(f) i = Neg(h) j = Relu(i) k = Relu(j) y = Neg(k) }"""


class TestFindings:
    def test_the_rule_the_node_and_the_region(self, tmp_path: Path) -> None:
        lines: list[str] = []
        found = graphopt.bisect(model(CHAIN), [twice, relus, wrong], tell=lines.append)
        culprit = found.culprit
        assert culprit is not None
        assert (culprit.rule, culprit.node, culprit.matched) == ("rules.wrong", "sine", ("sine", "cosine"))
        assert culprit.ordinal == 3 and found.rewrites == 5
        # To execute this file for a test would be to run whatever program defines a rule.
        assert culprit.test is None and culprit.no_test == "the rule is in no rules file"
        assert str(culprit.where).startswith("wrong (test_bisect.py:")
        assert culprit.reason.startswith("output 'y': relative error")
        assert str(culprit.alone).startswith("the region alone shows it, on inputs of the model: output 'f'")
        assert "[sine] f = Sin (e)" in str(culprit.before) and "(float[N,4] d) => (float[N,4] f)" in str(culprit.before)
        assert "f = Sin (d)" in str(culprit.after) and "Cos" not in str(culprit.after)
        assert lines[0].startswith("rewrites 1 to 5: bad: output 'y'") and "rewrites 1 to 2: good" in lines
        assert found.replays == 3 and found.probes == len(lines)

    def test_the_culprit_is_where_the_run_with_stop_after_says(self) -> None:
        good = graphopt.optimize(model(CHAIN), [twice, relus, wrong], stop_after=2)
        assert good.verification is not None and good.verification.status == "ok"
        with pytest.raises(graphopt.VerificationError):
            graphopt.optimize(model(CHAIN), [twice, relus, wrong], stop_after=3)

    def test_a_run_that_is_bad_good_and_bad_again(self) -> None:
        text = "g (float[4] x) => (float[4] y) { a = Neg(x) b = Abs(a) c = Neg(b) d = Exp(c) y = Neg(d) }"

        @rule(lambda x: op.Neg(x))
        def no_sign(x):  # type: ignore[no-untyped-def]
            """Not true."""
            return x

        found = graphopt.bisect(model(text), [no_sign])
        assert found.culprit is not None and found.rewrites == 3
        # Without the first Neg nothing is wrong, because of the Abs behind it.
        assert found.culprit.ordinal == 2 and found.culprit.removed

    def test_nothing_to_find(self) -> None:
        found = graphopt.bisect(model(CHAIN), [twice, relus])
        assert found.culprit is None and (found.rewrites, found.replays, found.probes) == (4, 1, 1)

    def test_no_rewrites(self) -> None:
        found = graphopt.bisect(model("g (float[4] x) => (float[4] y) { y = Exp(x) }"), [wrong])
        assert found.culprit is None and found.rewrites == 0

    def test_a_rule_that_raises(self) -> None:
        text = "g (float[4] x) => (float[4] y) { a = Neg(x) b = Neg(a) [p] c = Abs(b) [q] d = Abs(c) y = Neg(d) }"
        found = graphopt.bisect(model(text), [twice, raising])
        culprit = found.culprit
        assert culprit is not None and culprit.failed and found.rewrites == 1
        assert (culprit.rule, culprit.node, culprit.ordinal) == ("rules.raising", "q", 2)
        assert "ZeroDivisionError: one by zero" in culprit.reason and set(culprit.matched) == {"p", "q"}
        assert "Abs" in str(culprit.before) and culprit.after is None

    def test_a_wrong_rewrite_is_found_before_the_rule_that_raises_behind_it(self) -> None:
        text = "g (float[4] x) => (float[4] y) { a = Cos(x) b = Sin(a) c = Abs(b) d = Abs(c) y = Neg(d) }"
        found = graphopt.bisect(model(text), [wrong, raising])
        assert found.culprit is not None and found.culprit.rule == "rules.wrong" and not found.culprit.failed

    def test_a_pass_that_raises(self) -> None:
        @dataclass(frozen=True)
        class Broken(Pass):
            """Raises."""

            name = "broken"

            def run(self, ctx: Context) -> None:
                raise KeyError("lost")

        found = graphopt.bisect(model(CHAIN), [twice, Broken()])
        culprit = found.culprit
        assert culprit is not None and culprit.failed and culprit.rule == "broken"
        assert culprit.reason == "KeyError: 'lost'" and culprit.ordinal == 3

    def test_a_model_that_no_longer_loads(self) -> None:
        @dataclass(frozen=True)
        class Spoil(Pass):
            """Gives an Exp an operand that ONNX does not know."""

            name = "spoil"

            def run(self, ctx: Context) -> None:
                for node in ctx.model.main.nodes:
                    if node.op == "Exp":
                        with ctx.edit.rewrite("spoil", at=node, same_type=False) as rewrite:
                            (new,) = rewrite.node("Nonsense", node.inputs, domain="nowhere", assume=node.inputs[0])
                            rewrite.replace(node.outputs[0], new)

        text = "g (float[4] x) => (float[4] y) { a = Neg(x) b = Neg(a) c = Exp(b) y = Relu(c) }"
        found = graphopt.bisect(model(text), [twice, Spoil()])
        assert found.culprit is not None and found.culprit.rule == "spoil"
        assert "Nonsense" in found.culprit.reason
        assert found.culprit.no_test == "a pass made the rewrite, not a rule"

    def test_a_rewrite_whose_region_alone_is_right(self) -> None:
        """The oracle minds that a node is gone; numbers are as they were."""
        code = "import onnx, sys; sys.exit(len(onnx.load(sys.argv[1]).graph.node) < 9)"
        command = shlex.join([sys.executable, "-c", code, "{model}"])
        found = graphopt.bisect(model(CHAIN), [twice, relus], oracle=command)
        assert found.culprit is not None and found.culprit.ordinal == 2
        assert found.culprit.reason == "the command ended with exit code 1"
        assert "does not show it" in str(found.culprit.alone) and "surroundings" in str(found.culprit.alone)

    def test_lossy_passes_are_judged_as_the_run_judges_them(self) -> None:
        @dataclass(frozen=True)
        class Coarse(Pass):
            """Multiplies by something near one: wrong by rounding only."""

            name = "coarse"
            settles = False
            accuracy = graphopt.Accuracy.APPROX
            by: float = 1.01

            def run(self, ctx: Context) -> None:
                for node in ctx.model.main.nodes:
                    if node.op == "Exp":
                        with ctx.edit.rewrite("coarse", at=node) as rewrite:
                            (new,) = rewrite.node("Exp", node.inputs)
                            (scaled,) = rewrite.node("Mul", [new, rewrite.constant(np.array(self.by, F))])
                            rewrite.replace(node.outputs[0], scaled)

        text = "g (float[4] x) => (float[4] y) { a = Neg(x) b = Neg(a) c = Exp(b) y = Relu(c) }"
        assert graphopt.bisect(model(text), [twice, Coarse()]).culprit is None
        found = graphopt.bisect(model(text), [twice, Coarse(by=9.0)])
        assert found.culprit is not None and found.culprit.rule == "coarse"
        assert "signal-to-noise" in found.culprit.reason


class TestRefusals:
    def test_an_original_that_is_bad_itself(self) -> None:
        with pytest.raises(UsageError) as caught:
            graphopt.bisect(model(CHAIN), [wrong], oracle="false {model}")
        assert caught.value.what == "the original itself fails: the command ended with exit code 1"

    def test_a_command_without_a_place_for_the_model(self) -> None:
        with pytest.raises(UsageError, match="does not say where the model goes"):
            graphopt.bisect(model(CHAIN), [wrong], oracle="python check.py")

    def test_a_command_that_is_not_there(self) -> None:
        with pytest.raises(UsageError, match="cannot run 'no-such-command'"):
            graphopt.bisect(model(CHAIN), [wrong], oracle="no-such-command {model}")

    def test_a_command_that_does_not_end(self) -> None:
        with pytest.raises(UsageError, match=r"the original itself fails: the command took longer than 0\.2 s"):
            graphopt.bisect(model(CHAIN), [wrong], oracle="sh -c 'sleep 30' {model}", timeout=0.2)

    def test_a_metric_without_a_gate(self) -> None:
        with pytest.raises(UsageError, match="a metric needs the fall that is too much"):
            graphopt.bisect(model(CHAIN), [wrong], evaluate=lambda run: 1.0)

    def test_a_model_that_nothing_can_be_fed_to(self) -> None:
        text = "g (seq(float[4]) x) => (float[4] y) { z = Constant<value_int = 0>() y = SequenceAt(x, z) }"
        with pytest.raises(DataError, match="values cannot be compared: input 'x' is not a tensor"):
            graphopt.bisect(model(text), [wrong])

    def test_a_run_that_is_different_each_time(self) -> None:
        choices = iter([1, 3, 2, 4] * 20)

        @dataclass(frozen=True)
        class Whim(Pass):
            """Rewrites another node each time."""

            name = "whim"
            settles = False

            def run(self, ctx: Context) -> None:
                start = next(choices)
                nodes = list(ctx.model.main.nodes)
                for i in range(len(nodes)):
                    node = nodes[(start + i) % len(nodes)]
                    with ctx.edit.rewrite("whim", at=node) as rewrite:
                        rewrite.replace(node.outputs[0], rewrite.node("Neg", node.inputs)[0])

        with pytest.raises(GraphoptError, match="a replay takes another course at rewrite 1"):
            graphopt.bisect(model(CHAIN), [Whim()])


class TestFiles:
    def culprit(self) -> graphopt.Culprit:
        found = graphopt.bisect(model(CHAIN), [twice, relus, wrong]).culprit
        assert found is not None
        return found

    def test_both_sides_are_models(self, tmp_path: Path) -> None:
        from graphopt.ir.text import from_text

        files = self.culprit().save(tmp_path / "new" / "folder")
        assert [file.name for file in files] == ["before.onnxtxt", "after.onnxtxt"]
        ops = [[node.op_type for node in from_text(file.read_text()).graph.node] for file in files]
        assert ops == [["Cos", "Sin"], ["Sin"]]

    def test_earlier_findings_are_replaced_and_nothing_else(self, tmp_path: Path) -> None:
        culprit = self.culprit()
        assert culprit.save(tmp_path) == culprit.save(tmp_path)
        (tmp_path / "after.onnxtxt").write_text("mine\n")
        (tmp_path / "before.onnxtxt").unlink()
        with pytest.raises(UsageError, match=r"after\.onnxtxt: would be written over"):
            culprit.save(tmp_path)
        assert not (tmp_path / "before.onnxtxt").exists()


# -- a large model -------------------------------------------------------------------------------------------------

ROOTS = [
    "Tanh", "Sin", "Cos", "Sigmoid", "Softsign", "Erf", "Atan", "Relu", "Abs", "Neg", "HardSigmoid", "HardSwish",
    "Elu", "Selu", "Celu", "LeakyRelu", "Softplus", "Mish", "Exp", "Sqrt",
]  # fmt: skip
NEUTRAL = {"Mul": 1.0, "Add": 0.0, "Div": 1.0, "Sub": 0.0, "Pow": 1.0}
PAIRS = [(root, other) for root in ROOTS for other in NEUTRAL]
BAD = 57


def hundred_rules(path: Path) -> None:
    """A rules file: 99 operations with a neutral element are dropped, and one rule does something else as well."""
    lines = ["from graphopt import op, rule"]
    for i, (root, other) in enumerate(PAIRS):
        result = "Floor" if i == BAD else root
        lines += ["", "", f"@rule(lambda x: op.{root}(op.{other}(x, {NEUTRAL[other]})))", f"def rule_{i}(x):"]
        lines += [f'    """{other} does nothing."""', f"    return op.{result}(x)"]
    path.write_text("\n".join(lines) + "\n")


def large_model(path: Path, branches: int = 1000) -> int:
    """Branches of five nodes, the first two of which a rule matches; the number of the first for the bad rule."""
    rng = random.Random(3)
    constants = [numpy_helper.from_array(F(value), f"c_{name}") for name, value in NEUTRAL.items()]
    chosen = [rng.randrange(len(PAIRS)) for _ in range(branches)]
    nodes = []
    for n, i in enumerate(chosen):
        root, other = PAIRS[i]
        nodes.append(helper.make_node(other, ["x", f"c_{other}"], [f"u{n}"], name=f"/{n}/{other}"))
        nodes.append(helper.make_node(root, [f"u{n}"], [f"v{n}"], name=f"/{n}/{root}"))
        nodes += [helper.make_node("Asinh", [f"{a}{n}"], [f"{b}{n}"]) for a, b in ("vw", "wp", "pq")]
    groups = range(0, branches, 50)
    for start in groups:
        names = [f"q{n}" for n in range(start, start + 50)]
        nodes.append(helper.make_node("Concat", names, [f"g{start}"], axis=0))
    nodes.append(helper.make_node("Concat", [f"g{start}" for start in groups], ["y"], axis=0))
    # ONNX Runtime takes a minute to load this with sizes that have no name.
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, 4]) for name, size in ("xN", "yM"))
    graph = helper.make_graph(nodes, "large", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return chosen.index(BAD)


@pytest.mark.slow
def test_one_bad_rule_among_a_hundred_in_a_model_of_5000_nodes(tmp_path: Path) -> None:
    hundred_rules(tmp_path / "hundred.py")
    first = large_model(tmp_path / "large.onnx")
    assert len(onnx.load(tmp_path / "large.onnx").graph.node) == 5021
    found = graphopt.bisect(tmp_path / "large.onnx", "hundred", rules=[tmp_path / "hundred.py"])
    culprit = found.culprit
    assert culprit is not None and found.replays <= 12
    root, _ = PAIRS[BAD]
    assert (culprit.rule, culprit.node) == (f"hundred.rule_{BAD}", f"/{first}/{root}")
    assert culprit.test is not None
