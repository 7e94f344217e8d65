"""The Q/DQ placement table of a target: which operators run on integers, and under which conditions.

[quant]                         types, and what holds for all operators
[quant.weighted.Conv]           operators with a constant weight
[quant.elementwise.Add]         operators with an integer kernel of their own
[quant.data_movement]           operators that only move data: one scale before and after
[quant.float]                   operators that are left alone, with the reason
[quant.fixed]                   operators whose output has a scale of its own, as [scale, zero point]
[quant.types.float8e4m3fn]      another type of activations and weights that can be asked for, and what differs with it
[quant.refused]                 types that cannot be asked for, with the reason

With `extends = "NAME"` the section says only in what it differs from that of a built-in target.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from graphopt.errors import UsageError, nearest

__all__ = ["Elementwise", "QuantTable", "Weighted", "check_keys", "merged", "read_quant_table"]

Cost = float
Style = Literal["integer-flow", "tensorrt", "openvino", "node-units"]
_STYLES = ("integer-flow", "tensorrt", "openvino", "node-units")
Output = Literal["always", "never", "if-wanted", "through-redundant-activation"]
_OUTPUTS = ("always", "never", "if-wanted", "through-redundant-activation")
_FLOATS = ("float8e4m3fn", "float8e5m2")
_ACTIVATIONS = ("uint8", "int8", "uint16", "int16", *_FLOATS)


@dataclass(frozen=True)
class Weighted:
    """How an operator with a constant weight is quantized.

    `axis`: the weight's output-channel axis (negative: from the end), `axis_if` another one when an attribute
    has a value, such as `{transB = [1, 0]}` for axis 0 where transB is 1. `output`: whether a Q stands on the
    output: `always` directly; `through-redundant-activation` behind a Relu or Clip that the Q makes
    redundant, else directly; `if-wanted`: directly if nobody reads it but operators that run on integers, be it behind
    data movement, so that nothing is rounded that would not be; `never`: not for its own sake. `output_before`:
    operators that, as the only reader, make the runtime fall back to float unless the output is quantized all the same
    (behind them if the Q makes them redundant, else directly). `bias_add`: whether a bias may be a separate Add.
    `pairs`: the second operand may be an activation; its type is `pair_dtype`, and it
    has at least `pair_min_k` rows, and no more than `pair_max` rows or columns (0: any number), as far as is known.
    `min_k`, `min_n`: weights with fewer
    rows or columns stay float, and so do products with fewer than `min_m` rows. `per_channel`: False for one scale per
    weight. Of the following, 0 is no limit. `spatial`: only with that many spatial axes. `min_channels`: fewer input
    or output channels stay float, with the exceptions that the placement's style makes if `narrow`. `max_kernel`: so
    do convolutions with more elements in their window. `max_length`: attention over longer sequences stays float.
    `head`: the least and the largest size of the heads of an attention that does not, unless it is empty; nor does what
    has more between its products than a factor, a mask and Softmax.
    """

    axis: int = 0
    axis_if: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    output: Output = "never"
    output_before: tuple[str, ...] = ()
    bias_add: bool = False
    pairs: bool = False
    pair_dtype: str = "int8"
    pair_min_k: int = 1
    pair_max: int = 0
    min_k: int = 1
    min_n: int = 1
    min_m: int = 1
    per_channel: bool = True
    spatial: int = 0
    min_channels: int = 0
    narrow: bool = True
    max_kernel: int = 0
    max_length: int = 0
    head: tuple[int, ...] = ()


@dataclass(frozen=True)
class Elementwise:
    """How an operator with an integer kernel but no weight is quantized: all inputs and the output, or not at
    all.

    It is, if its inputs are integer already (small ones, which broadcast, need not be) and something that
    runs on integers reads the output. `output` as in `Weighted`.
    `unless_set`: attributes that the integer kernel does not know; with one of them no Q may follow at all.
    """

    output: Output = "through-redundant-activation"
    unless_set: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuantTable:
    """Types and placement rules of one target.

    `style`: how pairs are placed. `integer-flow`: an operator runs on integers if a Q follows it (ONNX Runtime).
    `tensorrt`, `openvino`: the inputs of weighted operators, with the runtime's own rules for what lies between.
    `node-units`: every operator between DQ and Q.
    `activation`, `weight`: what they are stored as; `symmetric`: activations have zero point 0.
    `wide`: the type of activations of 16 bits, "" if its kernels take none. `wide_cost`, `float_cost`: how many times
    as long a multiply-accumulate takes with these, and in float, as with 8 bits.
    `bias`: `int32` (stored as integers of scale x_scale × w_scale) or `float`.
    `rest`: the precision of what is not quantized, where a runtime takes it from the file.
    `reduce_range_without_vnni`: weights are kept where processors that saturate multiply them exactly (saturation.py),
    if this machine is one; `reduce_range`: whether to do so whatever this machine is, None if it is to be asked.
    `opset`, `opset_per_channel`: oldest opsets for Q/DQ at all, and for a scale per channel.
    `fixed`: scale and zero point behind operators whose range is known. `least_range`: of an activation.
    `bodies`: the operators, such as If, inside of whose bodies there are integer kernels, too.
    `per_channel_domain`: the domain whose DequantizeLinear has a scale per channel before that, if any.
    `types`: the tables for other types, by their names; `refused`: why there is none, by names of types.
    `requantized`: operators that the runtime quantizes though they are float, between DQ and Q (keep_float.py).
    """

    style: Style = "integer-flow"
    activation: str = "uint8"
    symmetric: bool = False
    wide: str = ""
    wide_cost: Cost = 2.0
    float_cost: Cost = 3.0
    weight: str = "int8"
    per_channel: bool = True
    bias: Literal["int32", "float"] = "int32"
    rest: Literal["float32", "float16", "bfloat16"] = "float32"
    reduce_range_without_vnni: bool = False
    reduce_range: bool | None = None
    opset: int = 10
    opset_per_channel: int = 13
    per_channel_domain: str = ""
    bodies: tuple[str, ...] = ()
    weighted: Mapping[str, Weighted] = field(default_factory=dict)
    elementwise: Mapping[str, Elementwise] = field(default_factory=dict)
    data_movement: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    float: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, tuple[builtins.float, int]] = field(default_factory=dict)
    least_range: builtins.float = 0.0
    types: Mapping[str, QuantTable] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    requantized: tuple[str, ...] = ()

    def centred(self, dtype: str) -> bool:
        """Whether activations of a type have zero point 0: all, or those that are second operands of products."""
        return self.symmetric or dtype not in (self.activation, self.wide)


def read_quant_table(data: Mapping[str, Any], where: str) -> QuantTable:
    """Build the table from TOML, and those for its other types. Raises `UsageError` that names the key at fault."""
    known = {f.name for f in fields(QuantTable)}
    check_keys(data, known, where)
    tables = ("weighted", "elementwise", "data_movement", "float", "fixed", "types", "refused")
    plain = {k: v for k, v in data.items() if k not in tables}
    base = {k: v for k, v in data.items() if k not in ("types", "refused")}
    check_keys(data.get("types", {}), _ACTIVATIONS, f"{where}, types")
    plain["requantized"] = tuple(data.get("requantized", ()))
    _one_of(plain, "style", _STYLES, where)
    _one_of(plain, "activation", _ACTIVATIONS, where)
    _one_of(plain, "weight", ("uint8", "int8", *_FLOATS), where)
    _one_of(plain, "bias", ("int32", "float"), where)
    _one_of(plain, "rest", ("float32", "float16", "bfloat16"), where)
    bodies = tuple(map(str, plain.pop("bodies", ())))
    return QuantTable(
        **plain,
        bodies=bodies,
        weighted={op: _weighted(row, f"{where}, weighted.{op}") for op, row in data.get("weighted", {}).items()},
        elementwise={
            op: _elementwise(row, f"{where}, elementwise.{op}") for op, row in data.get("elementwise", {}).items()
        },
        data_movement={op: dict(row) for op, row in data.get("data_movement", {}).items()},
        float={op: str(reason) for op, reason in data.get("float", {}).items()},
        fixed={op: (builtins.float(pair[0]), int(pair[1])) for op, pair in data.get("fixed", {}).items()},
        types={
            name: read_quant_table({**merged(base, row), "activation": name}, f"{where}, types.{name}")
            for name, row in data.get("types", {}).items()
        },
        refused={name: str(reason) for name, reason in data.get("refused", {}).items()},
    )


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables of a file, table by table; where both have a value, that of `over`. `false` leaves a table out."""
    both = {**under, **over}
    for key, value in under.items():
        if isinstance(value, dict) and key in over:
            if over[key] is False:
                del both[key]
            elif isinstance(over[key], dict):
                both[key] = merged(value, over[key])
    return both


def check_keys(data: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raises `UsageError` for the first key that is not known, with the nearest one that is."""
    names = set(known)
    for key in data:
        if key not in names:
            raise UsageError(f"unknown key {key!r}", where=where, hint=nearest(key, names))


def _weighted(row: Mapping[str, Any], where: str) -> Weighted:
    check_keys(row, {f.name for f in fields(Weighted)}, where)
    _one_of(row, "output", _OUTPUTS, where)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    if "axis_if" in values:
        values["axis_if"] = {name: (int(pair[0]), int(pair[1])) for name, pair in row["axis_if"].items()}
    return Weighted(**values)


def _elementwise(row: Mapping[str, Any], where: str) -> Elementwise:
    check_keys(row, {f.name for f in fields(Elementwise)}, where)
    _one_of(row, "output", _OUTPUTS, where)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return Elementwise(**values)


def _one_of(row: Mapping[str, Any], key: str, choices: tuple[str, ...], where: str) -> None:
    if key in row and row[key] not in choices:
        raise UsageError(f"{key} is {row[key]!r}", where=where, hint=nearest(str(row[key]), choices))
