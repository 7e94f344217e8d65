"""What ONNX Runtime's quantizer can be asked, in terms of the pass `quant`; and why it is refused where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import UsageError, nearest

__all__ = ["Wanted", "dynamic_options", "static_options"]

_METHODS = {"minmax": "minmax", "entropy": "entropy", "percentile": "percentile"}
_TYPES = {
    "qint8": "int8", "quint8": "uint8", "qint16": "int16", "quint16": "uint16", "qint4": "int4", "quint4": "uint4",
    "qfloat8e4m3fn": "float8e4m3fn",
}  # fmt: skip
_PERCENTILE = 99.999  # ONNX Runtime's, where CalibPercentile does not say otherwise

# Operators that the quantizer of ONNX Runtime 1.31 lists and that never get scales of their own here: they hand on the
# scale of what they read, or have no integer kernel.
_CARRIED = frozenset(
    ["ArgMax", "BatchNormalization", "Clip", "ConvTranspose", "CumSum", "EmbedLayerNormalization", "Flatten", "Gather",
     "GatherElements", "InstanceNormalization", "LayerNormalization", "MaxPool", "Pad", "Relu", "Reshape", "Resize",
     "Slice", "Softmax", "Split", "Squeeze", "TopK", "Transpose", "Unsqueeze", "Where"]
)  # fmt: skip
_STATIC = frozenset(
    ["Add", "AveragePool", "Concat", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "Mul", "Sigmoid"]
)
_DYNAMIC = frozenset(["Attention", "Gemm", "LSTM", "MatMul"])
_NO_DYNAMIC = frozenset(["Conv", "EmbedLayerNormalization", "Gather", "Transpose"])

# Extra options that have one value here: that value, and why no other.
_ONLY: dict[str, tuple[Any, str]] = {
    "ActivationRestrictedAsymmetric": (False, "zero points follow from the range"),
    "AddQDQPairToWeight": (False, "weights are stored as integers"),
    "BlockSize": (0, "a scale for each block of a weight is what quant{kind=weights} gives"),
    "DedicatedQDQPair": (False, "runtimes take a pair that several operators share"),
    "ForceQuantizeNoInputCheck": (False, "a pair that no integer kernel uses only costs time"),
    "MinimumRealRange": (None, "scales have a lower bound of their own"),
    "OpTypesToExcludeOutputQuantization": ([], "the target's table says which outputs are quantized: give target="),
    "QDQDisableWeightAdjustForInt32Bias": (False, "a bias that does not fit 32 bits gives wrong results"),
    "QDQOpTypePerChannelSupportToAxis": ({}, "channels are those of the operator"),
    "SmoothQuant": (False, "say it as an option of the pass quant, with graphopt.optimize"),
    "TensorQuantOverrides": ({}, "scales come from the data; leave nodes out with nodes_to_exclude"),
    "UseQDQContribOps": (False, "the standard's own operators are written wherever they suffice"),
    "WeightSymmetric": (True, "integer kernels are fast with symmetric weights only"),
    "extra.Sigmoid.nnapi": (False, "the target's table says where Q and DQ stand"),
}
# Extra options that change nothing here, whatever they are.
_NO_EFFECT = {
    "ActivationSymmetric": "the target's type says whether ranges are symmetric",
    "CalibMaxIntermediateOutputs": "calibration has a budget of memory",
    "CalibMovingAverageConstant": "the average is over all batches alike",
    "CalibStridedMinMax": "calibration streams",
    "CalibTensorRangeSymmetric": "the target's type says whether ranges are symmetric",
    "DefaultTensorType": "types are inferred",
    "EnableSubgraph": "bodies are quantized where the kind of quantization can",
    "MatMulConstBOnly": "the target says whether products of activations are quantized",
    "QDQKeepRemovableActivations": "a Relu or Clip always stays, and the runtime merges it",
    "SmoothQuantAlpha": "SmoothQuant is off",
    "SmoothQuantFolding": "SmoothQuant is off",
}
_HANDLED = frozenset(["CalibMovingAverage", "CalibPercentile", "QuantizeBias"])


@dataclass
class Wanted:
    """Options of the pass `quant`, the type that was asked for activations, and notes for the report."""

    options: dict[str, Any] = field(default_factory=dict)
    activation: str | None = None
    float_bias: bool = False
    notes: list[str] = field(default_factory=list)


def static_options(
    *,
    quant_format: Any,
    op_types: Sequence[str] | None,
    per_channel: bool | None,
    reduce_range: bool | None,
    activation_type: Any,
    weight_type: Any,
    method: Any,
    providers: Sequence[str] | None,
    extra: Mapping[str, Any],
    cache: Any,
) -> Wanted:
    """What `quantize_static` is asked. Raises `UsageError` for what cannot be honoured."""
    wanted = _common(op_types, _STATIC, _CARRIED, per_channel, reduce_range, extra)
    _set_format(wanted, quant_format)
    _set_method(wanted, method, extra)
    _set_activation(wanted, activation_type)
    weight = _type("weight_type", weight_type)
    if weight not in (None, "int8"):
        raise UsageError(f"weight_type cannot be {weight}: kernels that read calibrated activations want int8 weights",
                         hint="leave it out, or take quantize_dynamic or quant{kind=weights}")  # fmt: skip
    wanted.float_bias = not extra.get("QuantizeBias", True)
    if cache is not None:
        raise UsageError("calibration_cache_path is not read: its ranges are of another quantizer",
                         hint="graphopt keeps statistics in files of its own: see docs/quantization.md")  # fmt: skip
    if providers is not None and list(providers) != ["CPUExecutionProvider"]:
        raise UsageError(f"calibration_providers cannot be {list(providers)!r}: calibration runs on the CPU",
                         hint="leave it out")  # fmt: skip
    return wanted


def dynamic_options(
    *,
    op_types: Sequence[str] | None,
    per_channel: bool | None,
    reduce_range: bool | None,
    weight_type: Any,
    extra: Mapping[str, Any],
) -> Wanted:
    """What `quantize_dynamic` is asked. Raises `UsageError` for what cannot be honoured."""
    wanted = _common(op_types, _DYNAMIC, _NO_DYNAMIC, per_channel, reduce_range, extra)
    for name in sorted(_HANDLED & set(extra)):
        if name != "QuantizeBias" and extra[name]:
            raise UsageError(f"extra_options[{name!r}] is for calibration, and there is none", hint="leave it out")
    weight = _type("weight_type", weight_type)
    if weight not in (None, "int8", "uint8"):
        raise UsageError(f"weight_type cannot be {weight} where activations are quantized at run time",
                         hint="for weights of 4 bits, use quant{kind=weights,weight=int4}")  # fmt: skip
    wanted.options.update({"kind": "dynamic"}, **({} if weight is None else {"weight": weight}))
    return wanted


def _common(
    op_types: Sequence[str] | None,
    known: frozenset[str],
    carried: frozenset[str],
    per_channel: bool | None,
    reduce_range: bool | None,
    extra: Mapping[str, Any],
) -> Wanted:
    wanted = Wanted()
    _check_extra(wanted, extra)
    if per_channel is not None:
        wanted.options["per_channel"] = _truth("per_channel", per_channel)
    if reduce_range is not None:
        wanted.options["reduce_range"] = "true" if _truth("reduce_range", reduce_range) else "false"
    if op_types:
        wanted.options["ops"] = _operators(wanted, op_types, known, carried)
    return wanted


def _operators(
    wanted: Wanted, op_types: Sequence[str], known: frozenset[str], carried: frozenset[str]
) -> tuple[str, ...]:
    if isinstance(op_types, str):
        raise UsageError(f"op_types_to_quantize cannot be {op_types!r}", hint=f"give a list: [{op_types!r}]")
    for op in op_types:
        if op not in known | carried:
            raise UsageError(f"op_types_to_quantize cannot have {op!r}", hint=nearest(str(op), known | carried))
    chosen = {op for op in op_types if op in known}
    if "MatMul" in chosen:
        chosen.add("Gemm")  # which a MatMul with its bias becomes
    if not chosen:
        raise UsageError("op_types_to_quantize has no operator with an integer kernel of its own",
                         hint=f"those are: {', '.join(sorted(known))}")  # fmt: skip
    left = sorted(set(op_types) - chosen)
    if left:
        wanted.notes.append(f"{', '.join(left)}: no scales of their own; they hand on those of others, or stay float")
    return tuple(sorted(chosen))


def _check_extra(wanted: Wanted, extra: Mapping[str, Any]) -> None:
    known = {*_ONLY, *_NO_EFFECT, *_HANDLED}
    for name, value in extra.items():
        if name in _ONLY:
            only, why = _ONLY[name]
            if value != only and (value or only):  # None and what is empty say nothing
                raise UsageError(f"extra_options[{name!r}] cannot be {value!r}: {why}", hint="leave it out")
        elif name in _NO_EFFECT:
            if value:
                wanted.notes.append(f"{name} has no effect: {_NO_EFFECT[name]}")
        elif name not in known:
            raise UsageError(f"unknown extra option {name!r}", hint=nearest(str(name), known))


def _set_format(wanted: Wanted, quant_format: Any) -> None:
    name = _name(quant_format)
    if name not in ("qdq", "qoperator"):
        raise UsageError(f"quant_format cannot be {quant_format!r}", hint=nearest(name, ("QDQ", "QOperator")))
    if name == "qoperator":
        wanted.options["format"] = "qoperator"


def _set_method(wanted: Wanted, method: Any, extra: Mapping[str, Any]) -> None:
    name = None if method is None else _name(method)
    if name == "distribution":
        raise UsageError("calibrate_method cannot be Distribution, which is for 8-bit floats",
                         hint="take MinMax, Entropy or Percentile")  # fmt: skip
    if name is not None and name not in _METHODS:
        raise UsageError(f"calibrate_method cannot be {method!r}", hint=nearest(name, _METHODS))
    if name is not None:
        wanted.options["method"] = _METHODS[name]
    if name == "percentile":
        wanted.options["percentile"] = float(extra.get("CalibPercentile", _PERCENTILE))
    elif "CalibPercentile" in extra:
        raise UsageError("extra_options['CalibPercentile'] needs calibrate_method Percentile", hint="give both")
    if extra.get("CalibMovingAverage"):
        if name not in (None, "minmax"):
            raise UsageError("extra_options['CalibMovingAverage'] needs calibrate_method MinMax", hint="give both")
        wanted.options["method"] = "average"


def _set_activation(wanted: Wanted, activation_type: Any) -> None:
    kind = _type("activation_type", activation_type)
    if kind not in (None, "int8", "uint8"):
        raise UsageError(f"activation_type cannot be {kind}: no CPU kernel takes it, and it would run in floats",
                         hint="take QUInt8, or leave it out")  # fmt: skip
    wanted.activation = kind


def _type(argument: str, value: Any) -> str | None:
    """A quantized type, given as a member of an enumeration, as its name, or as ours; None for None."""
    if value is None:
        return None
    name = _name(value)
    found = _TYPES.get(name) or (name if name in _TYPES.values() else None)
    if found is None:
        raise UsageError(f"{argument} cannot be {value!r}", hint=nearest(name, _TYPES.values()))
    return found


def _name(value: Any) -> str:
    """The name of a member of an enumeration, or a text, in small letters and without the enumeration's name."""
    name = value if isinstance(value, str) else getattr(value, "name", None)
    return (name if isinstance(name, str) else repr(value)).rpartition(".")[2].lower()


def _truth(argument: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{argument} cannot be {value!r}", hint="give True or False, or leave it out")
    return value
