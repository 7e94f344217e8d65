"""Operator schemas: which operators exist at which opset, and what their attributes default to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import onnx
import onnx.defs
import onnx.helper

from graphopt.errors import GraphoptError

# The inference functions of these read symbolic sizes as 0, or are wrong: their shapes are not believed.
_MISJUDGED = frozenset({"Attention", "STFT"})
_MISJUDGED_AT = frozenset({("Slice", 10)})  # keeps symbolic sizes that are cut, and sizes cut by what is not constant


_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_DECIDED = 22  # the opset from which on it is said what becomes of a window that starts in the padding


def misjudged(op_type: str, version: int, attribute: Callable[[str], Any]) -> bool:
    """Whether onnx's inference of a standard operator at this opset is not to be believed.

    `attribute` gives the value of an attribute of the node, None if it is not there, a text if nobody knows.
    """
    if op_type in _POOLS and version < _DECIDED and attribute("ceil_mode"):
        return _may_start_in_padding(attribute)
    return op_type in _MISJUDGED or (op_type, version) in _MISJUDGED_AT


def _may_start_in_padding(attribute: Callable[[str], Any]) -> bool:
    """Whether the last window of a pooling that rounds up may see nothing but padding behind the elements.

    Inference counts it, ONNX Runtime does not. The last window starts less than a stride behind the last that fits.
    """
    kernel, strides, dilations, pads = (attribute(n) for n in ("kernel_shape", "strides", "dilations", "pads"))
    if kernel is None or any(isinstance(known, str) for known in (kernel, strides, dilations, pads)):
        return True
    if str(attribute("auto_pad")).startswith("SAME"):
        return False
    strides, dilations = (known or [1] * len(kernel) for known in (strides, dilations))
    behind = (pads or [0] * 2 * len(kernel))[len(kernel):]
    return any(s - 1 + p >= (k - 1) * d + 1 for k, s, d, p in zip(kernel, strides, dilations, behind, strict=False))


class Inconsistent(GraphoptError):
    """A node that ONNX does not allow: no such operator at this opset, or types and shapes it refuses."""


@functools.cache
def lookup(domain: str, op_type: str, version: int) -> onnx.defs.OpSchema | None:
    """The schema in force for an operator at opset `version` of its domain; None if there is none."""
    try:
        schema = onnx.defs.get_schema(op_type, max_inclusive_version=version, domain=domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


@functools.cache
def defaults(domain: str, op_type: str, version: int) -> dict[str, Any]:
    """The attributes that have a default, as Python values."""
    schema = lookup(domain, op_type, version)
    if schema is None:
        return {}
    values = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    return {name: _python(v) for name, v in values.items() if v.type != onnx.AttributeProto.UNDEFINED}


def _python(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value


@functools.cache
def _history() -> dict[tuple[str, str], list[onnx.defs.OpSchema]]:
    found: dict[tuple[str, str], list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


def is_standard(domain: str, op_type: str) -> bool:
    """Whether ONNX defines such an operator at any opset."""
    return (domain, op_type) in _history()


def refusal(domain: str, op_type: str, version: int | None) -> str | None:
    """Why a standard operator may not be used at opset `version`; None if it may, or is not standard."""
    name = f"{domain}.{op_type}" if domain else op_type
    history = _history().get((domain, op_type))
    if history is None:
        return f"{name} is no operator of ONNX" if domain == "" else None
    if version is None:
        return f"{name} needs the domain {domain or 'ai.onnx'!r}, which the model does not import"
    if lookup(domain, op_type, version) is not None:
        return None
    began = min(s.since_version for s in history)
    if version < began:
        return f"{name} does not exist at opset {version} of the model; it came with {began}"
    ended = [s.since_version for s in history if s.deprecated and s.since_version <= version]
    return f"{name} does not exist at opset {version} of the model; it was withdrawn with {max(ended)}"


def check_arity(schema: onnx.defs.OpSchema, inputs: int, outputs: int) -> None:
    """Raise `Inconsistent` if a node has too few or too many inputs or outputs."""
    for what, count, low, high in (
        ("inputs", inputs, schema.min_input, schema.max_input),
        ("outputs", outputs, schema.min_output, schema.max_output),
    ):
        if not low <= count <= high:
            wanted = f"{low}" if low == high else f"{low} to {high}" if high < 2**31 - 1 else f"at least {low}"
            raise Inconsistent(f"{schema.name} takes {wanted} {what}, not {count}")


@functools.cache
def misuse(
    domain: str,
    op_type: str,
    version: int,
    given: tuple[bool, ...],
    outputs: int,
    attributes: frozenset[tuple[str, int]],
) -> str | None:
    """Why a node cannot be what its operator's schema says; None if it can, or if there is no schema.

    `given`: for each input whether it is there; `attributes`: names and `AttributeProto` types of those that are set.
    """
    schema = lookup(domain, op_type, version)
    if schema is None:
        return None
    try:
        check_arity(schema, len(given), outputs)
    except Inconsistent as error:
        return error.what
    for position, present in enumerate(given):
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        if not present and formal.option == onnx.defs.OpSchema.FormalParameterOption.Single:
            return f"{op_type} needs its input {formal.name!r}"
    for name, kind in attributes:
        if name not in schema.attributes:
            return f"{op_type} has no attribute {name!r} at opset {version}"
        wanted: object = schema.attributes[name].type
        if wanted != kind:
            return f"the attribute {name!r} of {op_type} has another type"
    present_names = {name for name, _ in attributes}
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in present_names:
            return f"{op_type} needs the attribute {name!r}"
    return None
