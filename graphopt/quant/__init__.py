"""Quantization: placement by target, calibration, ranges, and what became of it in the runtime's kernels."""

from graphopt.quant.coverage import Coverage, coverage
from graphopt.quant.goals import quantize_to_goals
from graphopt.quant.options import QuantOptions
from graphopt.quant.place import Plan, QuantSelection, plan
from graphopt.quant.quantized import Quantized
from graphopt.quant.static import quantize_graph
from graphopt.quant.verdict import Verdict

__all__ = [
    "Coverage",
    "Plan",
    "QuantOptions",
    "QuantSelection",
    "Quantized",
    "Verdict",
    "coverage",
    "plan",
    "quantize_graph",
    "quantize_to_goals",
]
