"""ONNX Runtime's offline optimizer as a tool: the graph that a session makes of a model, written to a file."""

from __future__ import annotations

from pathlib import Path

from graphopt.engine.tools import Tool

ORT = Tool("ort", "graphopt.interop.ort:optimize_file", "onnxruntime", "graphopt")

_SMALL = "1024"  # bytes up to which a weight stays in the file of the structure


def optimize_file(source: str, target: str, *, level: str, disable: tuple[str, ...]) -> None:
    """Open a session on `source` and let it write its graph to `target`. Runs in the tool's process.

    `level`: `basic`, `extended`, `layout` or `all`; `disable`: optimizers by ONNX Runtime's own names.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    settings.optimized_model_filepath = target
    settings.add_session_config_entry("session.disable_prepacking", "1")  # of no use to the file
    entry = "session.optimized_model_external_initializers_"
    settings.add_session_config_entry(f"{entry}file_name", f"{Path(target).name}.data")
    settings.add_session_config_entry(f"{entry}min_size_in_bytes", _SMALL)
    ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"], disabled_optimizers=list(disable))
