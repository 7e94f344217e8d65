"""A compiler for ONNX graphs: smaller and faster models, verified to compute the same.

    import graphopt

    result = graphopt.optimize("model.onnx", "fuse,quant", target="ort-cpu", data="calibration.npz")
    print(result.report)
    result.save("model.int8.onnx")

The public names are those in `__all__`. They are loaded when they are first used, so that importing
the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graphopt.api import Result, load, optimize, save
    from graphopt.bisection import Bisection, bisect
    from graphopt.check.checker import check_rule
    from graphopt.check.report import CheckReport
    from graphopt.culprit import Culprit
    from graphopt.dropin import quantize_dynamic, quantize_static
    from graphopt.emit.emitter import EmitOptions, Emitted, Emitter
    from graphopt.engine.goals import Goals
    from graphopt.engine.passes import Context, Pass, Preset, RulePass
    from graphopt.engine.tools import Tool, ToolError
    from graphopt.errors import (
        DataError,
        GateError,
        GraphoptError,
        ModelError,
        RuleError,
        TargetError,
        UsageError,
        VerificationError,
    )
    from graphopt.half.convert import HalfOptions, Halved, convert_half
    from graphopt.half.rest import HalfRest
    from graphopt.interop.inline import inline_functions
    from graphopt.interop.onnxscript import OnnxscriptRules
    from graphopt.interop.onnxsim import ONNXSIM
    from graphopt.interop.opset import OPSET, newest_opset
    from graphopt.interop.ort import ORT
    from graphopt.ir.dims import Dim
    from graphopt.ir.edit import Change, Decline, Editor, Rewrite
    from graphopt.ir.model import Model
    from graphopt.ir.value import DType, Graph, Node, Value
    from graphopt.quant.goals import quantize_to_goals
    from graphopt.quant.options import QuantOptions
    from graphopt.quant.place import QuantSelection
    from graphopt.quant.quantized import Quantized
    from graphopt.quant.static import quantize_graph
    from graphopt.quant.strip import dequantize_graph
    from graphopt.quant.verdict import Verdict
    from graphopt.report.report import Report
    from graphopt.rules.expr import ANY, Attr, Const, Tensor
    from graphopt.rules.language import Domain, approx, many, op, product, require, scaled, total
    from graphopt.rules.rule import Accuracy, Rule, rule, rules_in
    from graphopt.targets.target import Target, load_target

_HOMES = {
    "graphopt.api": "Result load optimize save",
    "graphopt.bisection": "Bisection bisect",
    "graphopt.check.checker": "check_rule",
    "graphopt.check.report": "CheckReport",
    "graphopt.culprit": "Culprit",
    "graphopt.dropin": "quantize_dynamic quantize_static",
    "graphopt.emit.emitter": "EmitOptions Emitted Emitter",
    "graphopt.engine.goals": "Goals",
    "graphopt.engine.passes": "Context Pass Preset RulePass",
    "graphopt.engine.tools": "Tool ToolError",
    "graphopt.errors": (
        "DataError GateError GraphoptError ModelError RuleError TargetError UsageError VerificationError"
    ),
    "graphopt.half.convert": "HalfOptions Halved convert_half",
    "graphopt.half.rest": "HalfRest",
    "graphopt.interop.inline": "inline_functions",
    "graphopt.interop.onnxscript": "OnnxscriptRules",
    "graphopt.interop.onnxsim": "ONNXSIM",
    "graphopt.interop.opset": "OPSET newest_opset",
    "graphopt.interop.ort": "ORT",
    "graphopt.ir.dims": "Dim",
    "graphopt.ir.edit": "Change Decline Editor Rewrite",
    "graphopt.ir.model": "Model",
    "graphopt.ir.value": "DType Graph Node Value",
    "graphopt.quant.goals": "quantize_to_goals",
    "graphopt.quant.place": "QuantSelection",
    "graphopt.quant.options": "QuantOptions",
    "graphopt.quant.memory": "parse_bytes",
    "graphopt.quant.quantized": "Quantized",
    "graphopt.quant.static": "quantize_graph",
    "graphopt.quant.verdict": "Verdict",
    "graphopt.quant.strip": "dequantize_graph",
    "graphopt.report.report": "Report",
    "graphopt.rules.expr": "ANY Attr Const Tensor",
    "graphopt.rules.language": "Domain approx many op product require scaled total",
    "graphopt.rules.rule": "Accuracy Rule rule rules_in",
    "graphopt.targets.target": "Target load_target",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ANY",
    "ONNXSIM",
    "OPSET",
    "ORT",
    "Accuracy",
    "Attr",
    "Bisection",
    "Change",
    "CheckReport",
    "Const",
    "Context",
    "Culprit",
    "DType",
    "DataError",
    "Decline",
    "Dim",
    "Domain",
    "Editor",
    "EmitOptions",
    "Emitted",
    "Emitter",
    "GateError",
    "Goals",
    "Graph",
    "GraphoptError",
    "HalfOptions",
    "HalfRest",
    "Halved",
    "Model",
    "ModelError",
    "Node",
    "OnnxscriptRules",
    "Pass",
    "Preset",
    "QuantOptions",
    "QuantSelection",
    "Quantized",
    "Report",
    "Result",
    "Rewrite",
    "Rule",
    "RuleError",
    "RulePass",
    "Target",
    "TargetError",
    "Tensor",
    "Tool",
    "ToolError",
    "UsageError",
    "Value",
    "Verdict",
    "VerificationError",
    "approx",
    "bisect",
    "check_rule",
    "convert_half",
    "dequantize_graph",
    "inline_functions",
    "load",
    "load_target",
    "many",
    "newest_opset",
    "op",
    "optimize",
    "parse_bytes",
    "product",
    "quantize_dynamic",
    "quantize_graph",
    "quantize_static",
    "quantize_to_goals",
    "require",
    "rule",
    "rules_in",
    "save",
    "scaled",
    "total",
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
