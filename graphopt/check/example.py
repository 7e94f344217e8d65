"""An example of a rule: a small model that it matches, and what it makes of it."""

from __future__ import annotations

from random import Random
from typing import Any

import onnx

from graphopt.check.attempt import attempt
from graphopt.check.sample import Rejected, Sample, SampleOptions, draw
from graphopt.errors import ModelError
from graphopt.ir.text import to_text
from graphopt.rules.rule import Rule

__all__ = ["example"]

_TRIES = 60
_ENOUGH = 6  # examples of which the plainest is taken
# Some rules do nothing at the edge of a graph, and some only with symbolic sizes or unusual attributes.
_OPTIONS = (
    SampleOptions(plain=True),
    SampleOptions(dynamic=False, special=False, variety=False),
    SampleOptions(special=False),
)
_LIMIT = 8  # elements of a constant that are written out


def example(rule: Rule[Any]) -> tuple[str, str] | None:
    """A model before and after, as ONNX text; None if the rule fires on none of the samples that are tried.

    It is always the same for the same rule: the plainest of several, in float32 and in the written order if possible.
    """
    for options in _OPTIONS:
        found = _found(rule, options)
        if found:
            _, before, after = min(found, key=lambda item: item[0])
            return _text(before), _text(after)
    return None


def _found(rule: Rule[Any], options: SampleOptions) -> list[tuple[tuple[Any, ...], onnx.ModelProto, onnx.ModelProto]]:
    """Models before and after, each behind what makes it more or less plain."""
    found: list[tuple[tuple[Any, ...], onnx.ModelProto, onnx.ModelProto]] = []
    rng = Random(0)
    for _ in range(_TRIES):
        try:
            sample = draw(rule, rng, options=options)
            made = attempt(rule, rule.name, sample.model)
        except (Rejected, ModelError):
            continue
        if made.fired and made.after is not None and made.fault is None:
            found.append((_plainness(sample, len(found)), sample.model, made.after))
        if len(found) == _ENOUGH:
            break
    return found


def _plainness(sample: Sample, number: int) -> tuple[Any, ...]:
    """Lower is plainer; the number decides between equals."""
    graph = sample.model.graph
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    dtypes = sample.traits["dtypes"].split()
    return "float" not in dtypes, "order" in sample.traits, not graph.input, len(nodes), number


def _text(model: onnx.ModelProto) -> str:
    return to_text(model, limit=_LIMIT, names=False, types=False, metadata=False)
