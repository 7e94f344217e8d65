"""Conv and Gemm with the activation and the sum behind them, in one operator.

The kernels clamp and compare in another order than the activations themselves, so that NaN may become a number: the
rules are for finite numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from graphopt_passes.contrib.operators import ms, require_float

from graphopt import Const, Node, Tensor, op, require, rule

_CONV = {"x": "f32: N C H W", "w": "K C 3 3", "b": "K"}
_ATTRS = {"alpha": 0.1, "beta": 0.5}
_BOUNDS = {"low": "", "high": ""}
_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}


def _activation(y: Tensor, low: Const, high: Const, act: Node) -> Tensor:
    simple = op.any("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")
    clipped = act.bind(op.Clip(y, low, high, ...)) | act.bind(op.Clip(y, low, ...)) | act.bind(op.Clip(y, ...))
    return act.bind(simple(y, ...)) | clipped | act.bind(op.Clip(y, None, high, ...))


def _conv_activation(
    x: Tensor, w: Tensor, b: Tensor | None, z: Tensor, low: Const, high: Const, act: Node, conv: Node
) -> Tensor:
    summed = conv.bind(ms.FusedConv(x, w, b, z, ...))
    return _activation(conv.bind(op.Conv(x, w, b, ...)) | summed, low, high, act)


@rule(_conv_activation, accuracy="fast", shapes={**_CONV, **_BOUNDS}, bounded=True)
def conv_activation(
    x: Tensor, w: Tensor, b: Tensor | None, z: Tensor | None, low: Tensor | None, high: Tensor | None, act: Node,
    conv: Node,
) -> Tensor:  # fmt: skip
    """An activation behind Conv, or behind its sum with a tensor, is part of FusedConv."""
    require_float(x)
    require("activation" not in conv.attrs, "there is an activation already")
    given = {"activation": act.op, "activation_params": _parameters(act, low, high)}
    return ms.FusedConv(x, w, b, z, **conv.attrs, **given)


def _conv_sum(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor, conv: Node) -> Tensor:
    return conv.bind(op.Conv(x, w, b, ...)) + z


@rule(_conv_sum, accuracy="fast", shapes={**_CONV, "x": "f32: N C 3 3", "z": "N K 1 1"}, bounded=True)
def conv_sum(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor, conv: Node) -> Tensor:
    """A tensor added to Conv is part of FusedConv."""
    require_float(x)
    _require_same(z, conv)
    return ms.FusedConv(x, w, b, z, **conv.attrs)


def _require_same(z: Tensor, conv: Node) -> None:
    """The kernel does not broadcast what it adds."""
    require(not z.is_const or z.rank > 0, "what is added is a constant")
    shape = conv.outputs[0].shape
    require(shape is not None and None not in shape and z.shape == shape, "what is added is broadcast")


def _parameters(act: Node, low: Tensor | None, high: Tensor | None) -> list[float] | None:
    """The numbers of an activation, in the order in which FusedConv takes them."""
    if act.op != "Clip":
        names = _PARAMETERS.get(act.op)
        return [float(act.attr(name)) for name in names] if names else None
    given = [_bound(act, 1, low, "min"), _bound(act, 2, high, "max")]
    largest = float(np.finfo(np.float32).max)
    low_number, high_number = (v if v is not None else d for v, d in zip(given, (-largest, largest), strict=True))
    require(low_number <= high_number, "the bounds of Clip are not in order")
    return [low_number, high_number]


def _bound(act: Node, index: int, operand: Tensor | None, name: str) -> float | None:
    """A bound of Clip, which is an operand from opset 11 on and an attribute before."""
    if operand is not None:
        require(np.isfinite(operand.scalar), "a bound of Clip is not finite")
        return operand.scalar
    is_given = len(act.inputs) > index and act.inputs[index] is not None
    require(not is_given, "a bound of Clip is not constant")
    value = act.attrs.get(name)
    return None if value is None else float(value)


# -- Gemm -----------------------------------------------------------------------------------------


def _gemm_activation(a: Tensor, b: Tensor, c: Tensor | None, gemm: Node, act: Node) -> Tensor:
    y = gemm.bind(op.Gemm(a, b, c, ...))
    return act.bind(op.any("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")(y, ...))


@rule(_gemm_activation, accuracy="fast", shapes={"a": "f32: M K", "b": "K N", "c": "N"})
def gemm_activation(a: Tensor, b: Tensor, c: Tensor | None, gemm: Node, act: Node) -> Tensor:
    """An activation behind Gemm is part of FusedGemm."""
    require_float(a)
    names: dict[str, Any] = {f"activation_{name}": act.attr(name) for name in _PARAMETERS.get(act.op, ())}
    return ms.FusedGemm(a, b, c, **gemm.attrs, activation=act.op, **names)
