"""The pass `quant`: static int8 with Q/DQ, placed for the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from graphopt import (
    Accuracy,
    Context,
    HalfOptions,
    HalfRest,
    Halved,
    Pass,
    Quantized,
    QuantOptions,
    QuantSelection,
    Verdict,
    parse_bytes,
    quantize_to_goals,
)


@dataclass(frozen=True)
class Quant(Pass):
    """Static int8: weights and activations become integers where the target has kernels for them.

    `method`: ranges of activations from their extremes (`minmax`), the mean of the batches' extremes (`average`), the
    middle `percentile` % of their elements, the least loss of information (`entropy`), the least squared error (`mse`),
    or what `auto` finds best for each. `per_channel`: a scale for each output channel of a weight. `reduce_range`:
    7-bit weights; `auto` where the processor needs them. `ops`: only these operators (`Conv|MatMul`); `skip`: not
    the nodes whose names match one of these patterns (`/head/*|*lm_head*`). `ends`: the first and the last layer, too.
    `only`: no other nodes than those whose names match.
    `calib-mem`: activations that calibration holds at a time, such as `512MiB` or `2GB`.
    `activation`, `weight`: the types of both, or what the target wants (`auto`); 8-bit floats where it has them.
    `kind`: `static`; `dynamic`, activations quantized at run time, without calibration; `weights` alone, as `weight`
    with a scale for each `block` rows (0: for each column; -1: what suits); `auto` chooses for each operator.
    `format`: Q/DQ pairs, or operators that read and write integers.
    `existing`: what becomes of a model that is quantized already: `keep` leaves it as it is, `retarget`
    places its own scales for the target, `strip` begins anew.
    `calibration`: a file with its statistics, which is written if it does not exist, and used instead of data if it
    does.
    `rest`: the precision of what is not quantized: `float32`, `float16` or `bfloat16` where that is enough, or what the
    target wants (`auto`).
    `correct`: what is done to weights and biases against the loss, `none`, or `auto`: the equalizations
    `cle|smooth|reparam`, `awq|clip|hqq|gptq` for the rounding of weights, `bias|empirical` for what is left of it,
    `refit` for what stays float.
    """

    name: ClassVar[str] = "quant"
    requires: ClassVar[tuple[str, ...]] = ("fuse", "layout")
    settles: ClassVar[bool] = False
    accuracy: ClassVar[Accuracy] = Accuracy.APPROX
    heeds_goals: ClassVar[bool] = True
    rewrites: ClassVar[Mapping[str, str]] = {
        "quant.opset": "An older model gets the version of the standard operators that quantization needs.",
        "quant.cle": "Channels between two layers are scaled, so that all of them use the range of the integers.",
        "quant.awq": "Channels in front of weights that are stored only are scaled, to protect those that count.",
        "quant.smooth": "Channels behind a normalization are scaled, and its readers' weights by as much.",
        "quant.reparam": "Channels behind a normalization are centred and scaled, and its readers make up for it.",
        "quant.activation": "What an operator reads is rounded to integers, and back.",
        "quant.weight": "A weight is stored as integers, with a scale for each output channel.",
        "quant.bias": "A bias is stored as integers, in units of the scales of input and weight.",
        "quant.refit": "What stays float is fitted anew to what it gets from the quantized layers in front.",
        "quant.around": "A pair that ONNX Runtime's own optimizations turn into something else is removed.",
        "quant.taken_back": "Integers turned out not to be faster, so the float model stands here again.",
        "quant.qoperator": "An operator between Q and DQ becomes one that reads and writes integers.",
        "quant.dynamic": "A product's input becomes integers at run time, by its own range; its weight is stored so.",
        "quant.lstm": "An LSTM runs on integers, its input quantized at run time.",
        "quant.weight_only": "A weight is stored as integers, and read as floats.",
        "quant.rest": "What is not quantized computes in half precision, and scales are halves.",
        "quant.embedding": "A table is stored as integers, and the rows gathered from it become floats.",
    }

    method: Literal["auto", "minmax", "average", "percentile", "entropy", "mse"] = "auto"
    percentile: float = 99.99
    per_channel: bool = True
    reduce_range: Literal["auto", "true", "false"] = "auto"
    ops: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    ends: bool = True
    only: tuple[str, ...] = ()
    calib_mem: str = "512MiB"
    kind: Literal["static", "dynamic", "weights", "auto"] = "static"
    format: Literal["qdq", "qoperator"] = "qdq"
    activation: Literal["auto", "int8", "uint8", "int16", "uint16", "float8e4m3fn", "float8e5m2"] = "auto"
    weight: Literal["auto", "int8", "uint8", "int4", "uint4", "float8e4m3fn", "float8e5m2"] = "auto"
    block: int = -1
    existing: Literal["keep", "retarget", "strip"] = "keep"
    calibration: str = ""
    correct: tuple[str, ...] = QuantOptions().corrections
    rest: Literal["auto", "float32", "float16", "bfloat16"] = "auto"

    def run(self, ctx: Context) -> None:
        options = QuantOptions(
            method=self.method,
            percentile=self.percentile,
            per_channel=self.per_channel,
            reduce_range=None if self.reduce_range == "auto" else self.reduce_range == "true",
            calib_mem=parse_bytes(self.calib_mem),
            calibration=Path(self.calibration) if self.calibration else None,
            corrections=() if self.correct == ("none",) else self.correct,
            selection=QuantSelection(ops=self.ops, skip=self.skip, ends=self.ends, only=self.only),
            kind=self.kind,
            format=self.format,
            activation=self.activation,
            weight=self.weight,
            block=None if self.block == -1 else self.block,
            existing=self.existing,
            rest=self._rest(ctx),
        )
        wanted = options.rest != "float32" and not ctx.ignores("quant.rest")
        rest = HalfRest(ctx, HalfOptions(options.rest)) if wanted else None
        done = quantize_to_goals(
            ctx.model,
            ctx.edit,
            ctx.target,
            options,
            ctx.data,
            ctx.goals,
            seed=ctx.seed,
            progress=ctx.progress,
            decline=ctx.decline,
        )
        ctx.shared["gains"] = done.gains
        ranking = done.ranking if ctx.goals.sensitivity else None
        if ctx.goals.sensitivity and ranking is None:
            ctx.note("no sensitivity: it is measured at Q/DQ pairs, and there are none to place")
        ctx.shared.update(verdict=done.verdict, budget=done.budget, sensitivity=ranking)
        if done.placed and not _is_float(done.verdict):
            if not done.kinds:
                guessed = "synthetic" if done.synthetic else "data"
                ctx.shared["calibration"] = "model" if done.calibration is None else guessed
            ctx.shared["quantized"] = done.placed
            ctx.shared["float"] = done.reasons
        for _, op, reason in done.declined:
            ctx.decline(f"quant.{op}", None, reason)
        _note(ctx, done)
        if rest is not None and (done.operators or done.kinds) and not _is_float(done.verdict):
            _note_rest(ctx, rest.convert("quant.rest"), options.rest)

    def _rest(self, ctx: Context) -> str:
        """The precision of what is not quantized."""
        if self.rest != "auto":
            return self.rest
        table = ctx.target.require_quant() if self.kind == "static" else ctx.target.quant
        rest = "float32" if table is None else table.rest
        if rest != "float32" and any(ctx.model.main.find("QuantizeLinear", "DequantizeLinear")):
            ctx.note(f"the rest stays as it is: what {rest} is enough for is found in a float model, and this is none")
            return "float32"
        return rest


def _note_rest(ctx: Context, done: Halved, dtype: str) -> None:
    ctx.note(f"the rest: {done.converted} nodes in {dtype}, {done.snr:.0f} dB before quantization")
    for reason, count in Counter(done.kept.values()).most_common(5):
        ctx.note(f"{count} × float32: {reason}")


def _is_float(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.kept == "float"


def _note(ctx: Context, done: Quantized) -> None:
    """Tell the report what was quantized, from which data, and what stayed float."""
    for remark in done.notes:
        ctx.note(remark)
    if not (done.notes or done.placed or done.kinds or done.declined):
        ctx.note(f"nothing to quantize: {ctx.target.name} has integers for none of the model's operators")
    if done.calibration is not None:
        for warning in done.calibration.warnings:
            ctx.note(warning)
    if done.calibration is not None and done.operators:
        again = "; then the float model was put back" if _is_float(done.verdict) else ""
        count = done.operators + sum(done.kinds.values())
        number = done.calibration.batches
        ctx.note(f"{count} operators quantized, from {number} batch{'es' * (number != 1)}{again}")
    elif done.placed and not done.kinds:
        ctx.note(f"{done.operators} operators quantized")
    else:
        for kind, count in done.kinds.items():
            ctx.note(f"{count} operators quantized without calibration: {kind}")
    if done.budget is not None:
        for remark in done.budget.notes:
            ctx.note(remark)
    if done.weight_bits < 8 and done.operators:
        ctx.note("weights are small enough for a processor without VNNI, whose 16-bit sums would saturate")
    for reason, count in Counter(reason for _, _, reason in done.declined).most_common(5):
        ctx.note(f"{count} × float: {reason}")
