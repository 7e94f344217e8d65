"""`quantize_static` and `quantize_dynamic` for people who come from ONNX Runtime: its names and arguments, our work.

Arguments may be given as `onnxruntime.quantization` has them (its enumerations are read by name; it is not imported),
as texts, or as graphopt has them. What has no default of its own here is None, and then the target decides. Each
argument is honoured, or refused with the reason; what differs is told in `docs/migrate-from-onnxruntime.md`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import escape
from typing import Any

from graphopt.api import Result, load, optimize
from graphopt.dropin_options import Wanted, dynamic_options, static_options
from graphopt.engine.registry import pass_class
from graphopt.errors import UsageError, nearest
from graphopt.ir.model import Model
from graphopt.targets.target import Target, load_target

__all__ = ["quantize_dynamic", "quantize_static"]


def quantize_static(
    model_input: Any,
    model_output: str | os.PathLike[str],
    calibration_data_reader: Any = None,
    quant_format: Any = "QDQ",
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool | None = None,
    reduce_range: bool | None = None,
    activation_type: Any = None,
    weight_type: Any = None,
    nodes_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
    use_external_data_format: bool = False,
    calibrate_method: Any = None,
    calibration_providers: Sequence[str] | None = None,
    extra_options: Mapping[str, Any] | None = None,
    calibration_cache_path: str | os.PathLike[str] | None = None,
    *,
    target: str | Target = "auto",
    seed: int = 0,
) -> Result:
    """Quantize a model with calibrated scales, and write it to `model_output`.

    The arguments are those of `onnxruntime.quantization.quantize_static`. `model_input`: whatever `optimize` takes,
    paths and ModelProtos among it. `calibration_data_reader`: an object with `get_next()`, or any `data` that
    `optimize` takes. None for `per_channel`, `reduce_range`, `activation_type`, `weight_type` and
    `calibrate_method`: what is best on `target`, a name as in `optimize` or this machine's processor (`auto`).
    Returns what `optimize` does.

    Raises `UsageError` for an argument that cannot be honoured, and what `optimize` raises.
    """
    wanted = static_options(
        quant_format=quant_format,
        op_types=op_types_to_quantize,
        per_channel=per_channel,
        reduce_range=reduce_range,
        activation_type=activation_type,
        weight_type=weight_type,
        method=calibrate_method,
        providers=calibration_providers,
        extra=extra_options or {},
        cache=calibration_cache_path,
    )
    if calibration_data_reader is None:
        raise UsageError("there is no calibration data", hint="give calibration_data_reader, or use quantize_dynamic")
    names = (nodes_to_quantize, nodes_to_exclude)
    return _carry_out(
        model_input, model_output, wanted, names, use_external_data_format, calibration_data_reader, target, seed
    )


def quantize_dynamic(
    model_input: Any,
    model_output: str | os.PathLike[str],
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool | None = None,
    reduce_range: bool | None = None,
    weight_type: Any = None,
    nodes_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
    use_external_data_format: bool = False,
    extra_options: Mapping[str, Any] | None = None,
    *,
    target: str | Target = "auto",
    seed: int = 0,
) -> Result:
    """Quantize a model so that activations get their scales at run time, and write it to `model_output`.

    The arguments are those of `onnxruntime.quantization.quantize_dynamic`; for the rest see `quantize_static`.
    """
    wanted = dynamic_options(
        op_types=op_types_to_quantize,
        per_channel=per_channel,
        reduce_range=reduce_range,
        weight_type=weight_type,
        extra=extra_options or {},
    )
    names = (nodes_to_quantize, nodes_to_exclude)
    return _carry_out(model_input, model_output, wanted, names, use_external_data_format, None, target, seed)


def _carry_out(
    model_input: Any,
    model_output: str | os.PathLike[str],
    wanted: Wanted,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    external: bool,
    data: Any,
    target: str | Target,
    seed: int,
) -> Result:
    model = load(model_input)
    options = dict(wanted.options)
    for option, argument, listed in (("only", "nodes_to_quantize", names[0]), ("skip", "nodes_to_exclude", names[1])):
        if listed:
            options[option] = _patterns(model, argument, listed)
    place = _adapted(target if isinstance(target, Target) else load_target(target), wanted)
    # ONNX Runtime's quantizer never gives the float model back, so neither does this.
    result = optimize(
        model, ["fuse", pass_class("quant")(**options)], target=place, data=data, force=True, seed=seed
    )
    result.report.notes.extend(wanted.notes)
    result.save(model_output, external=True if external else None)
    return result


def _patterns(model: Model, argument: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names of nodes as patterns that match nothing else. Raises `UsageError` for one that no node has."""
    if isinstance(names, str):
        raise UsageError(f"{argument} cannot be {names!r}", hint=f"give a list: [{names!r}]")
    known = {node.name for graph in model.graphs() for node in graph.nodes}
    for name in names:
        if name not in known:
            raise UsageError(f"{argument} names {name!r}, and no node is called so", hint=nearest(str(name), known))
    return tuple(escape(name) for name in names)


def _adapted(target: Target, wanted: Wanted) -> Target:
    """The target, with biases as they were asked for. Activations have its own type, which it is fast with."""
    table = target.quant
    if table is None:
        return target
    if wanted.activation == "uint8" and table.symmetric:
        raise UsageError(f"activation_type cannot be QUInt8: {target.name} takes symmetric int8 only",
                         hint="take QInt8, or leave it out")  # fmt: skip
    if wanted.activation not in (None, table.activation):
        wanted.notes.append(
            f"activations are {table.activation}, in which {target.name} is fast, and not {wanted.activation}: "
            "the same ranges in another spelling"
        )
    if wanted.float_bias:
        table = replace(table, bias="float")
    return replace(target, quant=table)
