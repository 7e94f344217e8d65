"""The forms in which a model can be handed over, told apart without importing anybody's library."""

from __future__ import annotations

import os
from enum import StrEnum

from graphopt.errors import UsageError, nearest


class Kind(StrEnum):
    """A form of a model; the values are what `as_=` takes."""

    MODEL = "model"
    PATH = "path"
    BYTES = "bytes"
    PROTO = "proto"
    IR = "ir"
    TORCH = "torch"
    GRAPHSURGEON = "graphsurgeon"


# The package that a class comes from, and its name.
_CLASSES = {
    ("graphopt", "Model"): Kind.MODEL,
    ("onnx", "ModelProto"): Kind.PROTO,
    ("onnx_ir", "Model"): Kind.IR,
    ("torch", "ONNXProgram"): Kind.TORCH,
    ("onnx_graphsurgeon", "Graph"): Kind.GRAPHSURGEON,
}
_ACCEPTED = (
    "a path, bytes, graphopt.Model, onnx.ModelProto, onnx_ir.Model, torch.onnx.ONNXProgram or onnx_graphsurgeon.Graph"
)


def kind_of(model: object) -> Kind:
    """The form that `model` has. Raises `UsageError` for anything that is no model."""
    if isinstance(model, str | os.PathLike):
        return Kind.PATH
    if isinstance(model, bytes | bytearray | memoryview):
        return Kind.BYTES
    names = [(cls.__module__.partition(".")[0], cls.__name__) for cls in type(model).__mro__]
    for name in names:
        if name in _CLASSES:
            return _CLASSES[name]
    hint = f"give {_ACCEPTED}"
    if ("torch", "Module") in names:
        hint = "export it first: torch.onnx.export(module, args, dynamo=True)"
    cls = type(model)
    raise UsageError(f"a {cls.__module__}.{cls.__qualname__} is not a model", hint=hint)


def parse_kind(name: str) -> Kind:
    """The kind called `name`. Raises `UsageError` that suggests the nearest."""
    try:
        return Kind(name)
    except ValueError:
        known = [kind.value for kind in Kind]
        raise UsageError(f"unknown kind of model {name!r}", hint=nearest(name, known)) from None
