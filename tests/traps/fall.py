"""Does an optimizer fall into a trap? Its result is checked, loaded, run and compared, at the edge and inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from graphopt.check.execute import run_groups
from graphopt.check.finding import Example, is_doubtful
from graphopt.check.inputs import inputs_for
from graphopt.check.judge import judge
from graphopt.check.modest import tame
from graphopt.check.truth import is_as_true
from graphopt.errors import GraphoptError
from graphopt.rules.rule import Accuracy
from tests.rules.helpers import interior
from tests.traps.read import Trap

Arrays = dict[str, np.ndarray]


def placed(trap: Trap) -> Iterator[tuple[str, onnx.ModelProto, dict[str, np.ndarray]]]:
    """The model as it is, and between other operators, with the inputs that make of it what was meant."""
    yield "at the edge", trap.model, trap.feeds
    within = interior(trap.model)
    names = {v.name for v in within.graph.input}
    feeds = {name if name in names else f"{name}_in": _turned(array, name in names) for name, array in trap.feeds.items()}
    if within.graph.node != trap.model.graph.node:
        yield "inside", within, feeds


def _turned(array: np.ndarray, same: bool) -> np.ndarray:
    """What a Neg in front makes the array of."""
    return array if same else -array


def wrong(
    trap: Trap, before: onnx.ModelProto, after: onnx.ModelProto, feeds: Arrays, accuracy: Accuracy, *, named: bool = True
) -> str | None:
    """What is wrong with a result; None if nothing is. `named`: inputs must keep their names."""
    try:
        onnx.checker.check_model(after, full_check=True)
    except Exception as error:
        return f"no valid model: {' '.join(str(error).split())[:120]}"
    if named and (lost := {v.name for v in before.graph.input} - {v.name for v in after.graph.input}):
        return f"input {', '.join(sorted(lost))} is lost"
    if [v.name for v in before.graph.output] != [v.name for v in after.graph.output]:
        return "other outputs"
    count = Counter(_operators(after))
    for op, least in trap.keeps.items():
        if count[op] < least:
            return f"{count[op]} {op} left, of {least}"
    return _differs(before, after, _feeds(trap, before, feeds, accuracy), accuracy)


def _feeds(trap: Trap, model: onnx.ModelProto, given: Arrays, accuracy: Accuracy) -> list[Arrays]:
    if (accuracy >= Accuracy.FAST and not trap.finite) or (accuracy is not Accuracy.EXACT and trap.zeros):
        return []
    defaults = {t.name for t in model.graph.initializer}
    made = inputs_for(model, given, special=accuracy < Accuracy.FAST)
    if defaults & set(given):  # once as it is, once overridden
        made += [{name: array for name, array in feeds.items() if name not in defaults} for feeds in made]
    return [tame(feeds, infinite=True) for feeds in made] if accuracy >= Accuracy.FAST else made


def _differs(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Sequence[Arrays], accuracy: Accuracy) -> str | None:
    ran = 0
    for inputs in feeds:
        try:
            found = run_groups([((before, after), inputs)])
        except GraphoptError as error:
            return f"cannot be run: {error}"
        pair = found[0][0], found[0][1]
        verdict = judge(*pair, accuracy, doubtful=is_doubtful(Example(before, inputs)))
        if verdict.kind == "different" and not is_as_true(before, inputs, pair, accuracy):
            return verdict.reason
        if verdict.kind in ("refused", "dies"):
            return verdict.reason
        ran += verdict.kind == "same"
    return None if ran or not feeds else "the trap itself does not run"


def _operators(model: onnx.ModelProto) -> Iterator[str]:
    graphs = [model.graph]
    for graph in graphs:
        for node in graph.node:
            yield node.op_type
            graphs.extend(a.g for a in node.attribute if a.HasField("g"))
