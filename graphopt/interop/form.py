"""The form that a model is given before anything is optimized: joined with others, in parts, with other names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as oir

from graphopt.interop.convert import to_ir
from graphopt.ir.interface import InterfaceRequest, change_interface
from graphopt.ir.join import join

__all__ = ["Form", "apply_form"]


@dataclass(frozen=True)
class Form:
    """What the caller asks for.

    `before`, `after`: models of any kind that `to_ir` takes, None for none; `connect`: which output goes to which
    input, where their names do not say so. `interface`: inputs, outputs and names of the whole.
    """

    before: Any = None
    after: Any = None
    connect: Mapping[str, str] = field(default_factory=dict)
    interface: InterfaceRequest = field(default_factory=InterfaceRequest)

    def __bool__(self) -> bool:
        return self.before is not None or self.after is not None or bool(self.interface)


def apply_form(model: oir.Model, form: Form, *, allow_links: bool) -> oir.Model:
    """The model in that form; `model` may not be used any more. Raises `UsageError` and `ModelError`."""
    if form.before is not None:
        first = to_ir(form.before, allow_links=allow_links)[0]
        join(first, model, _of(form, first, model), where=_name(form.before))
        model = _with_metadata_of(first, model)
    if form.after is not None:
        last = to_ir(form.after, allow_links=allow_links)[0]
        join(model, last, _of(form, model, last), where=_name(form.after))
    change_interface(model, form.interface)
    return model


def _of(form: Form, first: oir.Model, second: oir.Model) -> dict[str, str]:
    """What concerns these two of what is to be connected, if there are two joins."""
    if form.before is None or form.after is None:
        return dict(form.connect)
    outputs, inputs = ({v.name for v in ends} for ends in (first.graph.outputs, second.graph.inputs))
    return {out: into for out, into in form.connect.items() if out in outputs and into in inputs}


def _with_metadata_of(joined: oir.Model, model: oir.Model) -> oir.Model:
    """The joined model speaks of itself as the one that was given, not as what was put in front of it."""
    joined.graph.name, joined.graph.doc_string = model.graph.name, model.graph.doc_string
    joined.producer_name, joined.producer_version = model.producer_name, model.producer_version
    joined.domain, joined.model_version, joined.doc_string = model.domain, model.model_version, model.doc_string
    joined.metadata_props.clear()
    joined.metadata_props.update(model.metadata_props)
    return joined


def _name(source: Any) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the other model"
