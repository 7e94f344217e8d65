"""Values for attributes: those a rule declares, and valid ones chosen by what the operator's schema says."""

from __future__ import annotations

import functools
from random import Random
from typing import Any

import onnx.defs
from onnx import helper

from graphopt.check.choose import Rejected
from graphopt.check.opsets import Schema

Attribute = onnx.defs.OpSchema.Attribute
_Type = onnx.defs.OpSchema.AttrType
_KINDS = {
    getattr(_Type, name): onnx.AttributeProto.AttributeType.Value(name)
    for name in ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS")
}

# Numbers between which an attribute of this name lies, and words that it may be; by operator where they differ.
_NUMBERS: dict[str, tuple[float, ...]] = {
    "epsilon": (1e-5, 1e-3, 0.1), "momentum": (0.9, 0.5), "alpha": (1.0, 0.5, 2.0, 0.01, -1.5),
    "beta": (1.0, 0.5, 2.0, -1.5), "gamma": (1.05, 0.5, 2.0), "lambd": (0.5, 1.0, 0.1), "bias": (0.0, 0.5, -0.5),
    "threshold": (0.5,), "ratio": (0.5, 0.1), "value": (0.0, 1.0, -2.5), "min": (-1.0, 0.0), "max": (1.0, 6.0, 2.5),
    "scale": (1.0, 0.5, 0.125), "softcap": (0.0, 5.0), "cubic_coeff_a": (-0.75, -0.5), "low": (0.0,), "high": (1.0,),
    "extrapolation_value": (0.0, 1.5),
}  # fmt: skip
_INTEGERS: dict[str, tuple[int, ...]] = {
    "axis": (-1, 0, 1, -2, 2), "keepdims": (0, 1), "transA": (0, 1), "transB": (0, 1), "saturate": (1, 0),
    "allowzero": (0, 1), "ceil_mode": (0, 1), "count_include_pad": (0, 1), "select_last_index": (0, 1),
    "exclusive": (0, 1), "reverse": (0, 1), "upper": (0, 1), "largest": (0, 1), "sorted": (1,), "fmod": (0, 1),
    "noop_with_empty_axes": (0, 1), "storage_order": (0, 1), "training_mode": (0,), "stash_type": (1,),
    "is_causal": (0, 1), "start": (0, 1, -1), "end": (1, 2, -1), "p": (1, 2), "blocksize": (1, 2), "batch_dims": (0,),
    "k": (0, 1, -1),
    "align_corners": (0, 1), "antialias": (0, 1), "exclude_outside": (0, 1), "lower": (0, 1), "size": (1, 3),
    "seed": (1,), "is_test": (1, 0), "detect_negative": (0, 1), "detect_positive": (0, 1), "group": (1, 2),
}  # fmt: skip
_WORDS: dict[str, tuple[str, ...]] = {
    "approximate": ("none", "tanh"), "direction": ("LEFT", "RIGHT"), "reduction": ("none", "add", "mul"),
    "auto_pad": ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), "mode": ("constant", "reflect", "edge"),
    "nearest_mode": ("round_prefer_floor", "floor", "ceil", "round_prefer_ceil"),
    "coordinate_transformation_mode": ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"),
}  # fmt: skip
_WORDS_OF: dict[str, dict[str, tuple[str, ...]]] = {
    "Resize": {"mode": ("nearest", "linear", "cubic")},
    "Upsample": {"mode": ("nearest", "linear")},
    "DepthToSpace": {"mode": ("DCR", "CRD")},
    "GridSample": {"mode": ("linear", "nearest"), "padding_mode": ("zeros", "border", "reflection")},
    "ScatterElements": {"reduction": ("none", "add")},
}


@functools.cache
def _defaults(schema: Schema) -> dict[str, Any]:
    found = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            value = helper.get_attribute_value(attribute.default_value)
            found[name] = value.decode() if isinstance(value, bytes) else value
    return found


def default_of(schema: Schema, name: str) -> Any:
    """The default of an attribute, None without one."""
    return _defaults(schema).get(name)


def attribute_proto(schema: Schema | None, name: str, value: Any) -> onnx.AttributeProto:
    """An attribute of the type that the schema gives it, else of that of its value. Raises `Rejected` if it cannot."""
    kind = None if schema is None or name not in schema.attributes else _KINDS.get(schema.attributes[name].type)
    try:
        return helper.make_attribute(name, value, attr_type=kind)
    except (TypeError, ValueError) as error:
        raise Rejected(f"the attribute {name} cannot be {value!r}: {error}") from None


def possible_value(declared: Any, attribute: Attribute, rng: Random) -> Any:
    """A value that a rule declares for a captured attribute: the one value, or one of a list of values."""
    if not isinstance(declared, list | tuple):
        return declared
    several = attribute.type in (_Type.INTS, _Type.FLOATS, _Type.STRINGS)
    if several and not (declared and isinstance(declared[0], list | tuple)):
        return list(declared)
    return rng.choice(list(declared))


def anything(op: str, attribute: Attribute, rng: Random) -> Any:
    """A value for an attribute that nothing else decides; None if there is no telling what it may be."""
    name = attribute.name
    if attribute.type == _Type.FLOAT:
        return rng.choice(_NUMBERS.get(name, (0.5, 1.0, 2.0)))
    if attribute.type == _Type.INT:
        return rng.choice(_INTEGERS[name]) if name in _INTEGERS else None if not attribute.required else 1
    if attribute.type == _Type.STRING:
        words = _WORDS_OF.get(op, {}).get(name) or _WORDS.get(name)
        return rng.choice(words) if words else None
    if attribute.type == _Type.INTS and attribute.required:
        return [rng.choice((0, 1, -1))]
    return None
