"""Which heavy operators really run on integers, read off the graph that ONNX Runtime compiles.

Heavy are convolutions, matrix products (of weights or of two activations), attention and recurrent layers: what a model
spends its time on, and what integer kernels exist for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.runtime.compiled import CompiledGraph, optimized_graph
from graphopt.runtime.package import package

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node

__all__ = ["Coverage", "FloatOp", "coverage", "read_coverage", "reasons_by_name"]

_STATIC = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "QAttention"})
_DYNAMIC = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulInteger", "ConvInteger"})
_WEIGHTS = frozenset({"MatMulNBits"})
_INTEGER = _STATIC | _DYNAMIC
_FLOAT = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention",
     "MultiHeadAttention", "GroupQueryAttention", "LSTM", "GRU", "RNN"}
)  # fmt: skip
_BLOCKED = "_nchwc"
_FUSED = 3  # operators behind a heavy one that a runtime may merge into it


@dataclass(frozen=True)
class FloatOp:
    """A heavy operator that runs in float: its name and operator in the compiled graph, and why."""

    name: str
    op: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Heavy operators by the kernel they run in (`kernels`), and those in float, `left`, one by one."""

    kernels: Mapping[str, int]
    left: tuple[FloatOp, ...]

    @property
    def integer(self) -> int:
        """Operators that multiply integers, with calibrated scales or ones found while the model runs."""
        return self._count(_INTEGER)

    @property
    def dynamic(self) -> int:
        """Those of `integer` that find their scales while the model runs."""
        return self._count(_DYNAMIC)

    @property
    def weights(self) -> int:
        """Operators whose weights alone are stored as integers."""
        return self._count(_WEIGHTS)

    @property
    def float(self) -> int:
        return len(self.left)

    @property
    def total(self) -> int:
        return self.integer + self.weights + self.float

    def __str__(self) -> str:
        kinds = [f"{self.dynamic} of them dynamic"] if self.dynamic else []
        kinds += [f"{self.weights} more have integer weights"] if self.weights else []
        behind = f" ({', '.join(kinds)})" if kinds else ""
        return f"int8 kernels: {self.integer} of {self.total} heavy operators{behind}"

    def remarks(self) -> list[str]:
        """Why the others are float, one line for each reason."""
        groups: dict[str, list[FloatOp]] = {}
        for op in self.left:
            groups.setdefault(op.reason, []).append(op)
        return [
            f"{ops[0].name} stayed float: {reason}"
            if len(ops) == 1
            else f"{len(ops)} stayed float, such as {ops[0].name}: {reason}"
            for reason, ops in groups.items()
        ]

    def _count(self, kernels: frozenset[str]) -> int:
        return sum(count for kernel, count in self.kernels.items() if kernel in kernels)


def coverage(model: Model, reasons: Mapping[str, str] | None = None) -> Coverage:
    """What ONNX Runtime's CPU provider makes of `model` with all its optimizations.

    `reasons`: why operators stay float, by name, as `reasons_by_name` makes them. Raises `ModelRefused`.
    """
    return read_coverage(optimized_graph(package(model.ir)), reasons)


def read_coverage(compiled: CompiledGraph, reasons: Mapping[str, str] | None = None) -> Coverage:
    """Count the kernels of a compiled graph."""
    known = reasons or {}
    kernels: Counter[str] = Counter()
    left = []
    for node in compiled.nodes:
        if node.op not in _INTEGER and node.op not in _WEIGHTS and node.op not in _FLOAT:
            continue
        kernels[node.op] += 1
        if node.op in _FLOAT:
            # In the layout of blocked channels it bears its output's name and a mark.
            names = (node.name, node.name.removesuffix(_BLOCKED), *node.outputs)
            reason = next((known[n] for n in names if n and n in known), f"the runtime chose {node.op}")
            left.append(FloatOp(node.name or node.outputs[0], node.op, reason))
    return Coverage(dict(kernels.most_common()), tuple(left))


def reasons_by_name(declined: Iterable[tuple[Node, str]]) -> dict[str, str]:
    """Reasons by the names under which operators may be found in a compiled graph.

    Those are their own name, and their output's or that of the operators behind, which the runtime may merge into them.
    """
    found: dict[str, str] = {}
    for node, reason in declined:
        keys = [node.name]
        for _ in range(_FUSED):
            keys.extend(v.name for v in node.outputs)
            uses = node.outputs[0].uses() if node.outputs else []
            if len(uses) != 1:
                break
            node = uses[0][0]
        for key in keys:
            found.setdefault(key, reason)
    return found
