"""Quantization: placement by target, calibration, ranges, and what became of it in the runtime's kernels."""

from graphopt.quant.coverage import Coverage, coverage
from graphopt.quant.options import QuantOptions
from graphopt.quant.place import Plan, QuantSelection, plan
from graphopt.quant.static import Quantized, quantize_graph

__all__ = [
    "Coverage",
    "Plan",
    "QuantOptions",
    "QuantSelection",
    "Quantized",
    "coverage",
    "plan",
    "quantize_graph",
]
