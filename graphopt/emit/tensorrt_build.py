"""The build itself, for the child process: an ONNX file in, a TensorRT-RTX engine out, no GPU needed.

The builder is native code that may crash; the child takes the blow. Only the standard library is imported
here, and the builder itself.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import TargetError, UsageError

Triple = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def build(model: str, engine: str, capabilities: tuple[int, ...], profile: Mapping[str, Triple]) -> dict[str, Any]:
    """Write the engine of the ONNX file `model` to `engine`; returns the builder's version and time.

    Raises `UsageError` for a capability that this version does not know, `TargetError` where the parser or
    the builder refuses the model.
    """
    import tensorrt_rtx as trt

    start = time.perf_counter()
    log: list[str] = []
    logger = _logger(trt, log)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    _set_capabilities(trt, config, capabilities)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(model):
        raise _refused_by_parser(parser, log)
    _allow_decomposition(trt, network)
    _set_profile(builder, network, config, profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise refusal(log)
    Path(engine).write_bytes(memoryview(plan))
    return {"version": trt.__version__, "seconds": time.perf_counter() - start}


def _allow_decomposition(trt: Any, network: Any) -> None:
    """Let Attention be built from smaller kernels: without that, it is refused where there is none of its own."""
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if "ATTENTION_OUTPUT" in str(layer.type):
            layer.__class__ = trt.IAttentionOutputLayer
            layer.attention.decomposable = True


def refusal(log: list[str]) -> TargetError:
    """The error that the builder's messages amount to, with the way out where it is known."""
    text = next(iter(_reasons(log)), "it gives no reason")
    if turing := re.search(r"Cannot compile operation '(.*?)' for Turing.*FP32 GEMM is not supported", text):
        return TargetError(
            f"sm_75 (Turing) has no kernel for an fp32 Gemm, which {turing[1]!r} needs",
            hint="convert the model to fp16 first, or leave 75 out of --sm",
        )
    hint = None
    if re.search(r"HW-specific datatypes: fp", text):
        hint = "fp8 needs 89 or later and fp4 needs 120: leave the older capabilities out of --sm"
    elif re.search(r"shape constraints|cannot be negative|profile", text):
        hint = "give the shapes that the model takes: --profile name=smallest:usual:largest"
    return TargetError(f"TensorRT cannot build this model: {text}", hint=hint)


def _reasons(log: list[str]) -> list[str]:
    """The distinct errors without their source locations; what only says that there is no GPU comes last."""
    return sorted(dict.fromkeys(map(_clean, log)), key=lambda line: "cudaError" in line)


def _clean(line: str) -> str:
    line = re.sub(r"\s*In \S+(?: \S+)? at /\S+?:\d+", "", line)
    line = re.sub(r"^.*?Error Code \d+: (?:Myelin|Internal Error|API Usage Error)\s*", "", line).strip()
    line = re.sub(r"^\(\[[\w.]+:\d+: \w+\]\s*", "(", line)
    return line[1:-1].strip() if line.startswith("(") and line.endswith(")") else line


def _refused_by_parser(parser: Any, log: list[str]) -> TargetError:
    """One error for all nodes that the parser refuses: how many of which operator, and the first reason."""
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not errors:
        return refusal(log)
    count = Counter(e.node_operator() or "the model" for e in errors)
    refused = ", ".join(f"{op} ×{n}" if n > 1 else op for op, n in count.most_common(8))
    first = errors[0]
    reason = " ".join(first.desc().split())
    if "Plugin not found" in reason or reason in ("false", ""):
        reason = "it has no such operator"
    elif "Error Code" in reason:  # several messages glued together; the log has them apart
        reason = next((line for line in _reasons(log) if "ModelImporter.cpp" not in line), reason)
    return TargetError(
        f"TensorRT refuses {refused}: {reason}",
        where=f"node {first.node_name()!r}" if first.node_name() else None,
    )


def _set_capabilities(trt: Any, config: Any, capabilities: tuple[int, ...]) -> None:
    known = {int(n[2:]): v for n, v in trt.ComputeCapability.__members__.items() if n.startswith("SM")}
    for capability in capabilities:
        if capability not in known:
            raise UsageError(
                f"tensorrt-rtx {trt.__version__} does not build for sm {capability}",
                hint=f"known: {', '.join(map(str, sorted(known)))}",
            )
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(known[capability], index)


def _set_profile(builder: Any, network: Any, config: Any, profile: Mapping[str, Triple]) -> None:
    """Ranges of shapes for inputs with dynamic dimensions, ranges of values for those that hold a shape."""
    chosen = builder.create_optimization_profile()
    used = False
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        if not tensor.is_shape_tensor and -1 not in tuple(tensor.shape):
            continue
        if tensor.name not in profile:
            what = "the values" if tensor.is_shape_tensor else "the shapes"
            raise TargetError(
                f"an engine needs the range of {what} of the input {tensor.name!r}",
                hint=f"--profile {tensor.name}=smallest:usual:largest",
            )
        set_range = chosen.set_shape_input if tensor.is_shape_tensor else chosen.set_shape
        set_range(tensor.name, *profile[tensor.name])
        used = True
    if used and config.add_optimization_profile(chosen) < 0:
        raise TargetError("TensorRT refuses the profile", hint="--profile name=smallest:usual:largest")


def _logger(trt: Any, log: list[str]) -> Any:
    """A logger that keeps errors in `log`, and repeats them where they are found if the process dies."""

    class ListLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                log.append(" ".join(message.split()))
                print(log[-1], file=sys.stderr, flush=True)

    return ListLogger()
