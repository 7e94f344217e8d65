"""Which weighted operators really run on integers, read off the graph that ONNX Runtime compiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.runtime.compiled import CompiledGraph, CompiledNode, optimized_graph
from graphopt.runtime.package import Package, package

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["Coverage", "FloatOp", "coverage", "read_coverage"]

# Kernels by name, with the input that is the weight.
_INTEGER = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "MatMulIntegerToFloat": 1,
    "MatMulInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "ConvInteger": 1,
    "MatMulNBits": 1,
    "QAttention": 1,
    "DynamicQuantizeLSTM": 1,
}
_FLOAT = {
    "Conv": 1,
    "FusedConv": 1,
    "NhwcFusedConv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "FusedGemm": 1,
    "MatMul": 1,
    "FusedMatMul": 1,
    "Attention": 1,
    "MultiHeadAttention": 1,
    "LSTM": 1,
    "GRU": 1,
}


@dataclass(frozen=True)
class FloatOp:
    """An operator with a constant weight that runs in float: its name and operator in the compiled graph."""

    name: str
    op: str


@dataclass(frozen=True)
class Coverage:
    """Operators with a constant weight by the kernel they run in: `integer` and `float` many, the latter by
    name.
    """

    kernels: Mapping[str, int]
    left: tuple[FloatOp, ...]

    @property
    def integer(self) -> int:
        return sum(count for kernel, count in self.kernels.items() if kernel in _INTEGER)

    def __str__(self) -> str:
        return f"{self.integer} of {self.integer + self.float} operators with weights on integers"

    @property
    def float(self) -> int:
        return len(self.left)


def coverage(model: Model) -> Coverage:
    """What ONNX Runtime's CPU provider makes of `model` with all its optimizations. Raises `ModelRefused`."""
    packed = package(model.ir)
    return read_coverage(optimized_graph(packed), packed)


def read_coverage(compiled: CompiledGraph, packed: Package) -> Coverage:
    """Count the kernels of a compiled graph; `packed` is the model it was made from."""
    makers = {output: node for node in compiled.nodes for output in node.outputs if output}
    fed = {port.name for port in packed.inputs}
    kernels: Counter[str] = Counter()
    left = []
    for node in compiled.nodes:
        index = _INTEGER.get(node.op, _FLOAT.get(node.op))
        if index is None or index >= len(node.inputs) or not _is_constant(node.inputs[index], makers, fed):
            continue
        kernels[node.op] += 1
        if node.op in _FLOAT:
            left.append(FloatOp(node.name or node.outputs[0], node.op))
    return Coverage(dict(kernels.most_common()), tuple(left))


def _is_constant(name: str, makers: Mapping[str, CompiledNode], fed: set[str]) -> bool:
    """Whether a weight is stored in the model: as it is, or as integers that are turned into floats first."""
    while name in makers:
        node = makers[name]
        if node.op not in ("DequantizeLinear", "Transpose", "Cast") or not node.inputs:
            return False
        name = node.inputs[0]
    return name != "" and name not in fed
