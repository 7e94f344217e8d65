"""Which weighted operators really run on integers under OpenVINO, read off its runtime model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.quant.coverage import Coverage, FloatOp
from graphopt.runtime.openvino import Layer, layers

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["OpenVINOCoverage", "openvino_coverage", "read_layers"]

_INTEGERS = ("u8", "i8", "u4", "i4")
_HEAVY = ("Convolution", "Deconvolution", "FullyConnected")  # a product of two activations is a MatMul
_MERGED = ("Subgraph",)
_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SUFFIXES = ("/DequantizationMultiply", "/DequantizationSubtract", "/WithoutBiases", "_original")


@dataclass(frozen=True)
class OpenVINOCoverage(Coverage):
    """As for ONNX Runtime; a kernel is a type of layer with its precision: `Convolution u8`."""

    @property
    def integer(self) -> int:
        return sum(count for kernel, count in self.kernels.items() if kernel.endswith(_INTEGERS))


def openvino_coverage(model: Model, reasons: Mapping[str, str] | None = None) -> OpenVINOCoverage:
    """What OpenVINO's CPU plugin makes of `model`; `reasons` as for `coverage`. Raises what `layers` raises."""
    return read_layers(layers(model), _products(model), reasons)


def read_layers(
    found: Sequence[Layer], products: frozenset[str], reasons: Mapping[str, str] | None = None
) -> OpenVINOCoverage:
    """Count the kernels; `products`: names of operators with constant weights, for those merged with others."""
    known = reasons or {}
    kernels: Counter[str] = Counter()
    left = []
    heavy = [layer for layer in found if layer.type in _HEAVY]
    seen = {name for layer in heavy for name in _plain(layer)}  # a bias that is added apart has its operator's name
    for layer in found:
        if layer in heavy:
            inside = _plain(layer)[:1] or [layer.type]
        elif layer.type in _MERGED:
            inside = [name for name in _plain(layer) if name in products and name not in seen]
        else:
            continue
        kernel = f"{layer.type} {layer.precision}"
        kernels.update({kernel: len(inside)})
        if layer.precision not in _INTEGERS:
            left += [FloatOp(name, kernel, known.get(name, f"the runtime chose {kernel}")) for name in inside]
    return OpenVINOCoverage(dict(+kernels), tuple(left))


def _products(model: Model) -> frozenset[str]:
    """Names of operators with a constant weight, quantized or not."""
    found = set()
    for node in model.main.nodes:
        weight = node.inputs[1] if node.op in _OPERATORS and len(node.inputs) > 1 else None
        maker = weight.producer if weight is not None else None
        stored = maker.inputs[0] if maker is not None and maker.op == "DequantizeLinear" else weight
        if stored is not None and stored.is_const:
            found.add(node.name)
    return frozenset(found)


def _plain(layer: Layer) -> list[str]:
    """The operators in a layer, each once, without what OpenVINO puts behind their names when it takes them apart."""
    found = []
    for name in layer.originals:
        for suffix in _SUFFIXES:
            name = name.removesuffix(suffix)
        found.append(name)
    return list(dict.fromkeys(found))
