"""The placement styles by the names that targets give them, each in a module of its own.

A style has a flow, which adds pairs to a plan whose weighted operators are known, and may have an objection: why a
weighted operator stays float there, beyond what its operands say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.quant.operands import Heavy
    from graphopt.quant.place import Plan

__all__ = ["Flow", "flow_of", "objection_of"]

Protects = Callable[["Node | Value"], bool]
Objection = Callable[["Heavy"], "str | None"]


class Flow(Protocol):
    """Adds pairs to a plan."""

    def __init__(self, model: Model, result: Plan, protects: Protects) -> None: ...

    def run(self) -> None: ...


def flow_of(style: str) -> type[Flow]:
    """The flow of a style."""
    from graphopt.quant.place_flow import IntegerFlow
    from graphopt.quant.place_openvino import OpenVINOFlow
    from graphopt.quant.place_tensorrt import TensorRTFlow
    from graphopt.quant.place_units import UnitFlow

    flows: dict[str, type[Flow]] = {
        "integer-flow": IntegerFlow, "tensorrt": TensorRTFlow, "openvino": OpenVINOFlow, "node-units": UnitFlow,
    }  # fmt: skip
    return flows[style]


def objection_of(style: str) -> Objection:
    """What says why a weighted operator stays float in a style, None if nothing does."""
    from graphopt.quant import place_openvino, place_tensorrt

    return {"tensorrt": place_tensorrt.objection, "openvino": place_openvino.objection}.get(style, _nothing)


def _nothing(_: Heavy) -> str | None:
    return None
