"""The fuzzer finds nothing; and what there is to be found, it finds, names and makes small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from graphopt import Const, Tensor, op, rule
from graphopt.check.finding import Example
from graphopt.check.golden_file import parse_golden
from graphopt.engine.catalog import all_rules
from tests.fuzz.__main__ import Run
from tests.fuzz.blame import blame
from tests.fuzz.examine import Examiner, Fault, Setting, reduces_nan, unsteady
from tests.fuzz.generate import Generator
from tests.fuzz.kernels import Kernels

LEVELS = [Setting("O1"), Setting("O2"), Setting("O3"), Setting("O3", "ort-cpu")]
GRAPHS = 200

UNTIDY = ("again", "grown")  # right, but not as good as can be: printed, and for `make fuzz` to report

KERNELS = Kernels()


@rule(lambda x, c: op.Reshape(op.Transpose(x, perm=[1, 0]), c), single_use=False)
def forgotten_transpose(x: Tensor, c: Tensor) -> Tensor:
    """Wrong: a Transpose before a Reshape matters."""
    return op.Reshape(x, c)


@rule(lambda x, c: x + c, accuracy="exact", bounded=True)
def sums_are_differences(x: Tensor, c: Const) -> Tensor:
    """Wrong for all constants but zero."""
    return op.Sub(x, c)


def _generator(*more: object) -> Generator:
    return Generator([named.rule for named in all_rules()] + list(more), KERNELS)


def _faults(run: Run, seeds: Iterator[str]) -> list[str]:
    return [f"{seed}: {fault.setting}: {fault.kind}: {fault.text}" for seed in seeds for fault in run.graph(seed) if fault.kind not in UNTIDY]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_nothing_is_found(part: int, tmp_path: Path) -> None:
    run = Run(_generator(), Examiner(LEVELS), tmp_path)
    assert _faults(run, (f"ci:{number}" for number in range(part, GRAPHS, 4))) == []
    assert run.graphs > GRAPHS / 8 and len(run.examiner.fired) > 20


@pytest.mark.parametrize(("wrong", "level"), [(forgotten_transpose, "O2"), (sums_are_differences, "O1")])
def test_a_wrong_rule_is_found_and_named(wrong: object, level: str) -> None:
    generator = Generator([wrong] * 4, KERNELS)
    examiner = Examiner([Setting(level, rules=(wrong,))])
    fault = _first(generator, examiner)
    blamed = blame(fault)
    name = f"rules.{wrong.name}"
    assert blamed.rule == name
    assert len(blamed.fault.example.model.graph.node) <= 4
    (case,) = parse_golden(blamed.text, Path("found.onnxtxt"))
    assert name in case.title
    onnx.checker.check_model(blamed.fault.example.model, full_check=True)


def test_what_drops_out_is_the_same_in_each_run() -> None:
    """Without a seed two runs of one model differ, and a difference says nothing of the optimizer."""
    rules = [named.rule for named in all_rules() if named.name == "simplify.dropout_inference"]
    made = map(Generator(rules, KERNELS).example, (f"drop:{number}" for number in range(200)))
    training = [n for example in made if example is not None for n in _training(example.model.graph)]
    assert len(training) > 2
    assert all(any(a.name == "seed" for a in node.attribute) for node in training)


def test_what_differs_from_itself_is_no_fault() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> g (float[64] x) => (float[64] y, float[64] z)
        { r = RandomUniformLike (x)  y = Add (r, x)  z = Neg (x) }""")
    assert unsteady(Example(model, {"x": np.ones(64, np.float32)})) == {"y"}


def test_the_largest_of_nan_is_no_fault() -> None:
    """ONNX Runtime finds another one when two reductions have become one; the reference evaluator finds NaN."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> g (float[4,7] x) => (float[1,1] y)
        { a = ReduceMax <axes = [0]> (x)  y = ReduceMax (a) }""")
    numbers = np.arange(28, dtype=np.float32).reshape(4, 7)
    assert not reduces_nan(Example(model, {"x": numbers}))
    numbers[1, 2] = np.nan
    assert reduces_nan(Example(model, {"x": numbers}))


def test_a_seed_is_a_model() -> None:
    first, second = (_generator().example("same:3") for _ in range(2))
    assert first is not None and second is not None
    assert first.model == second.model


def _training(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Each Dropout that drops something."""
    true = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.BOOL and numpy_helper.to_array(t).all()}
    return [n for n in graph.node if n.op_type == "Dropout" and len(n.input) > 2 and n.input[2] in true]


def _first(generator: Generator, examiner: Examiner) -> Fault:
    for number in range(300):
        example = generator.example(f"wrong:{number}")
        if example is not None:
            found = [f for f in examiner.examine(example) if f.kind == "differs"]
            if found:
                return found[0]
    raise AssertionError("a wrong rule was not found")
