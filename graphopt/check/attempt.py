"""One rule on one model, by the real driver; and what is wrong with the result that needs no running to see."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import onnx

from graphopt.engine.driver import Driver, RuleStats
from graphopt.errors import RuleError
from graphopt.interop.convert import from_ir, to_ir
from graphopt.interop.kinds import Kind
from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.rules.rule import Rule

__all__ = ["Attempt", "Fault", "attempt"]

_ROUNDS = 4  # runs on its own result after which a rule that still fires is taken to go on for ever


@dataclass(frozen=True)
class Fault:
    """What is wrong with a rule.

    `kind`: raises, loops, invalid (no valid model results), interface (outputs have other names or types), refused
    (the result does not run), differs (it computes something else), dies (running it ends the process).
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Attempt:
    """What a rule did to a model: how often it fired, why it declined, the model after, and a fault that is plain."""

    before: onnx.ModelProto
    after: onnx.ModelProto | None
    fired: int = 0
    declined: Counter[str] = field(default_factory=Counter)
    fault: Fault | None = None


def attempt(rule: Rule[Any], name: str, before: onnx.ModelProto) -> Attempt:
    """Apply a rule until it no longer fires. Raises ModelError if `before` is no model to begin with."""
    ir, source = to_ir(before)
    model = Model(ir, source)
    stats = RuleStats()
    try:
        count = Driver([(name, rule)], Editor(model), stats=stats).run()
    except RuleError as error:
        return Attempt(before, None, 1, _declined(stats, name), _raised(error))
    if not count:
        return Attempt(before, None, 0, _declined(stats, name))
    after = from_ir(model.ir, Kind.PROTO)
    fault = _invalid(after) or _interface(before, after)
    if fault is None and not rule.once:
        fault = _endless(rule, name, after)
    return Attempt(before, after, count, _declined(stats, name), fault)


def _declined(stats: RuleStats, name: str) -> Counter[str]:
    return Counter(stats.declined.get(name, {}))


def _raised(error: RuleError) -> Fault:
    loops = "did not end" in error.what or "each other" in error.what
    return Fault("loops" if loops else "raises", str(error))


def _invalid(after: onnx.ModelProto) -> Fault | None:
    try:
        onnx.checker.check_model(after, full_check=True)
    except Exception as error:
        return Fault("invalid", f"the result is no valid model: {_first_line(error)}")
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__


def _interface(before: onnx.ModelProto, after: onnx.ModelProto) -> Fault | None:
    """Whether the graph's outputs keep their names, dtypes and shapes, and nothing more must be fed."""
    wanted, got = ([_port(value) for value in m.graph.output] for m in (before, after))
    for old, new in zip(wanted, got, strict=False):
        if old != new:
            return Fault("interface", f"the graph's output was {_spelled(old)}, and is {_spelled(new)}")
    if len(wanted) != len(got):
        return Fault("interface", f"the graph had {len(wanted)} outputs, and has {len(got)}")
    if [v.name for v in before.graph.input] != [v.name for v in after.graph.input]:
        return Fault("interface", "the graph has other inputs than before")
    return None


_Dim = int | str | None
_Port = tuple[str, int, tuple[_Dim, ...] | None]


def _port(value: onnx.ValueInfoProto) -> _Port:
    tensor = value.type.tensor_type
    shape = tuple(_dim(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
    return value.name, tensor.elem_type, shape


def _dim(dim: onnx.TensorShapeProto.Dimension) -> _Dim:
    kind = dim.WhichOneof("value")
    return None if kind is None else getattr(dim, kind)


def _spelled(port: _Port) -> str:
    name, dtype, shape = port
    dims = "" if shape is None else f"[{', '.join('?' if d is None else str(d) for d in shape)}]"
    return f"{name!r}, {onnx.TensorProto.DataType.Name(dtype).lower()}{dims}"


def _endless(rule: Rule[Any], name: str, after: onnx.ModelProto) -> Fault | None:
    """Whether the rule fires on its own result again and again."""
    for _ in range(_ROUNDS):
        try:
            ir, source = to_ir(after)
            model = Model(ir, source)
            if not Driver([(name, rule)], Editor(model)).run():
                return None
        except RuleError as error:
            return _raised(error)
        after = from_ir(model.ir, Kind.PROTO)
    return Fault("loops", f"the rule still fires on its own result after {_ROUNDS} more runs")
