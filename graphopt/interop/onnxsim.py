"""onnxsim as a tool: it folds constants, removes what does nothing, and fuses a few patterns."""

from __future__ import annotations

from graphopt.engine.tools import Tool

ONNXSIM = Tool("onnxsim", "graphopt.interop.onnxsim:simplify_file", "onnxsim", "graphopt[onnxsim]")


def simplify_file(source: str, target: str, *, optimize: bool, fold: bool, largest: str, skip: tuple[str, ...]) -> None:
    """Let onnxsim read `source` and write `target`. Runs in the tool's process; options as those of the pass."""
    import onnxsim

    onnxsim.simplify(
        source,
        perform_optimization=optimize,
        skipped_optimizers=list(skip) or None,
        skip_constant_folding=not fold,
        tensor_size_threshold=largest,
        output_path=target,
    )
