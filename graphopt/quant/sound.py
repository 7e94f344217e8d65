"""Does ONNX Runtime, with its own optimizations, compute what the Q/DQ graph says? If not, which pair is to blame?

It rewrites Q/DQ around operators when it loads a model, and some valid graphs come out broken: they do not load, give
zeros, or read beyond an axis. So the quantized model is run once as it stands and once as it will be used. If the
second fails, or is much further from what the model computes without rounding, pairs are taken out until it is not:
the first k pairs alone are good up to some k, which bisection finds in log2(n) probes, and that pair is removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.interop.clone import clone
from graphopt.ir.draft import Decline
from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.quant.within import in_order
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model
from graphopt.verify.bisect import first_bad

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value

__all__ = ["AROUND", "place_around"]

AROUND = "quant.around"

_MOST = 8  # pairs that are taken out before giving up
_NEAR = 1e-3  # noise by signal: closer than this, nothing is wrong
_LARGE = 1e100  # stands for infinity, and can be squared
_FACTOR = 4.0  # how much more noise than the rounding itself is no rounding any more

Arrays = dict[str, np.ndarray[Any, Any]]


def place_around(model: Model, edit: Editor, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[str]:
    """Remove the pairs of `model` with which ONNX Runtime computes something else; a remark for each.

    Costs two runs if there are none, and a few times log2(number of pairs) otherwise. What goes wrong without any pair
    is not judged here. At most eight pairs are removed: then the last remark says that it still goes wrong.
    """
    probe = _Probe(feeds)
    why = probe.judge(model)
    remarks: list[str] = []
    if why is None:
        return remarks
    count = len(_pairs(model))
    if not count or probe.judge(_first(model, 0)) is not None:
        return remarks
    while why is not None and len(remarks) < _MOST:
        found = _culprit(model, probe, len(_pairs(model)))
        q = _pairs(model)[found - 1]
        value = q.inputs[0]
        assert value is not None
        name = value.name
        try:
            _take_out(edit, q)
        except Decline as declined:
            return [*remarks, f"{why}, because {name!r} is quantized, which stays: {declined.reason}"]
        remarks.append(f"{name!r} is left float, because with its Q and DQ {why}")
        why = probe.judge(model)
    return remarks if why is None else [*remarks, f"with other pairs, too, {why}"]


def _culprit(model: Model, probe: _Probe, count: int) -> int:
    """The number k, from 1 on, of a pair with which the first k go wrong, while the first k - 1 do not."""
    return first_bad(
        0,
        count,
        lambda wanted: {k: _first(model, k) for k in wanted},
        lambda _, candidate: probe.judge(candidate) is not None,
        stops=1,
    )


def _pairs(model: Model) -> list[Node]:
    """The QuantizeLinear nodes of the main graph and its bodies whose readers are all DequantizeLinear, in order."""
    return [n for n in in_order(model) if n.op == "QuantizeLinear" and _readers(n)]


def _readers(q: Node) -> list[Node]:
    """The DequantizeLinear nodes behind a Q; none if something else reads it, or it is a constant that is rounded."""
    value = q.inputs[0]
    readers = [node for node, _ in q.outputs[0].uses()]
    plain = all(n.op == "DequantizeLinear" and (n.graph == q.graph or not n.outputs[0].is_output) for n in readers)
    return readers if plain and not q.outputs[0].is_output and value is not None and not value.is_const else []


def _first(model: Model, count: int) -> Model:
    """A copy of `model` with its first `count` pairs only."""
    copy = Model(clone(model.ir))
    edit = Editor(copy)
    for q in _pairs(copy)[count:]:
        _take_out(edit, q)
    return copy


def _take_out(edit: Editor, q: Node) -> None:
    value: Value | None = q.inputs[0]
    assert value is not None
    readers = _readers(q)
    with edit.rewrite(AROUND, at=q, sources=readers) as rewrite:
        for dq in readers:
            rewrite.replace(dq.outputs[0], value)


class _Probe:
    """Runs candidates on the same inputs, and compares each with itself and with the model without pairs."""

    def __init__(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._feeds = feeds
        self._exact: Arrays | None = None

    def judge(self, model: Model) -> str | None:
        """What goes wrong in the runtime with its optimizations, None if nothing does, or if it does not run at all."""
        packed = package(model.ir)
        try:
            plain = run_model(packed, self._feeds)
        except ExecutorError:
            return None
        try:
            used = run_model(packed, self._feeds, optimized=True)
        except ExecutorError as error:
            return f"ONNX Runtime's optimizations break the model: {error.what}"
        names = [name for name, array in plain.items() if array.dtype.kind == "f"]
        if any(np.isfinite(plain[n]).all() and not np.isfinite(used[n]).all() for n in names):
            return "ONNX Runtime's optimizations give NaN or Inf"
        if _distance(used, plain, names) <= _NEAR:
            return None
        if self._exact is None:
            self._exact = run_model(package(_first(model, 0).ir), self._feeds)
        if _distance(used, self._exact, names) <= _FACTOR * _distance(plain, self._exact, names):
            return None
        return "ONNX Runtime's optimizations give something else than the model says"


def _distance(found: Arrays, expected: Arrays, names: Sequence[str]) -> float:
    """The power of the difference by that of what is expected, over all outputs; of finite numbers."""
    noise = signal = 0.0
    for name in names:
        a, b = (np.nan_to_num(x[name].astype(np.float64), posinf=_LARGE, neginf=-_LARGE) for x in (found, expected))
        scale = float((b**2).sum())
        if a.shape != b.shape:
            return float("inf")
        noise += float(((a - b) ** 2).sum()) / scale if scale else float((a != b).any())
        signal += 1.0
    return noise / signal if signal else 0.0
