"""Tests of rules that keep every bit: at the graph's boundary, in its interior, and for special values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from graphopt_passes.simplify import Simplify
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tests.rules.helpers import Outcome, build, compare, declines, feeds_for, rewrite, run

SIMPLIFY = Simplify()
Dims = Mapping[str, int]


def inside(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with an Identity before each input and after each output: no rule of `simplify` sees them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    known = {i.name for i in graph.initializer}
    before = [v for v in graph.input if v.name not in known]
    nodes = [helper.make_node("Identity", [f"{v.name}_in"], [v.name]) for v in before]
    nodes += graph.node
    nodes += [helper.make_node("Identity", [v.name], [f"{v.name}_out"]) for v in graph.output]
    for value in before:
        value.name += "_in"
    for value in graph.output:
        value.name += "_out"
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def fires(
    rule: str,
    signature: str,
    body: str,
    ops: str,
    *,
    opset: int = 18,
    accuracy: str = "exact",
    dims: Iterable[Dims] = ({},),
    by: str = "ort",
    **constants: Any,
) -> Outcome:
    """Assert that `rule` fires, leaves the operators `ops` (Identities aside), and changes no bit.

    `dims`: sizes of the dynamic dims, one run for each. With another accuracy than exact, within tolerance only.
    `by`: what runs both: `ort`, or `reference` where ONNX Runtime itself is not exact.
    Returns the outcome at the graph's boundary.
    """
    model = build(signature, body, opset=opset, **constants)
    outcomes = [rewrite(m, SIMPLIFY, accuracy) for m in (model, inside(model))]
    for outcome in outcomes:
        assert outcome.fired[rule], f"{rule} did not fire; declined: {outcome.declined}; left: {outcome.ops}"
        assert [o for o in outcome.ops if o != "Identity"] == sorted(ops.split()), outcome.ops
        for sizes in dims:
            for special in (False, True):
                feeds = feeds_for(outcome.before, sizes, special=special)
                check = same_bits if accuracy == "exact" else compare
                execute = run if by == "ort" else _reference
                check(execute(outcome.before, feeds), execute(outcome.after, feeds))
    assert [o.name for o in outcomes[0].after.graph.output] == [o.name for o in model.graph.output]
    return outcomes[0]


def _reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, feeds))


def stays(
    rule: str,
    reason: str | None,
    signature: str,
    body: str,
    *,
    opset: int = 18,
    accuracy: str = "exact",
    **constants: Any,
) -> Outcome:
    """Assert that `rule` does not fire, for this reason; None if its pattern does not even match."""
    return declines(SIMPLIFY, build(signature, body, opset=opset, **constants), rule, reason, accuracy=accuracy)


def same_bits(expected: list[Any], got: list[Any]) -> None:
    """Equal in every bit but those of a NaN."""
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, b.shape, a.dtype, b.dtype)
        if a.dtype.kind == "f":
            words = np.dtype(f"u{a.dtype.itemsize}")
            equal = (a.view(words) == b.view(words)) | (np.isnan(a) & np.isnan(b))
            assert equal.all(), (a[~equal], b[~equal])
        else:
            np.testing.assert_array_equal(a, b)
