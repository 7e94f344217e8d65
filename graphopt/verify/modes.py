"""How closely a run is watched: at its end, after each pass, or rewrite by rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as oir

from graphopt.engine.passes import Pass
from graphopt.errors import UsageError, VerificationError, nearest
from graphopt.ir.model import Model
from graphopt.ir.text import to_text
from graphopt.rules.rule import Accuracy
from graphopt.runtime.package import Package, package
from graphopt.verify.local import Local, Wrong, check_locally
from graphopt.verify.record import Recorder
from graphopt.verify.validate import Original

__all__ = ["MODES", "Mode", "PassCheck", "check_rewrites", "parse_mode"]

Arrays = dict[str, np.ndarray[Any, Any]]
Mode = Literal["end", "pass", "local"]
MODES: tuple[Mode, ...] = get_args(Mode)


def parse_mode(verify: bool | str) -> Mode | None:
    """The mode that `verify` asks for: True is the end, False none at all. Raises UsageError for another word."""
    if isinstance(verify, bool):
        return "end" if verify else None
    for mode in MODES:
        if verify == mode:
            return mode
    raise UsageError(f"verify cannot be {verify!r}", hint=nearest(verify, MODES))


class PassCheck:
    """Compares the model with the original after each pass that changed it; what a pipeline calls `after_pass`.

    Strictly up to the first lossy pass, by distance after it, as at the end. Raises VerificationError.
    """

    def __init__(self, original: Package, feeds: Sequence[Arrays], accuracy: Accuracy, where: str, hint: str) -> None:
        self._original, self._accuracy = Original(original, feeds), accuracy
        self._where, self._hint = where, hint

    def __call__(self, item: Pass, model: Model, first: int, last: int) -> None:
        if item.accuracy is Accuracy.APPROX:
            self._accuracy = Accuracy.APPROX
        found = self._original.compare(package(model.ir), accuracy=self._accuracy.label)
        if found.status == "failed":
            which = f"rewrite {first}" if first == last else f"rewrites {first} to {last}"
            raise VerificationError(
                f"the pass {item.name!r} ({which}) changes what the model computes: {found.reason}",
                where=self._where,
                hint=self._hint,
            )


def check_rewrites(
    recorder: Recorder, feeds: Sequence[Arrays], passes: Sequence[Pass], accuracy: Accuracy, where: str, hint: str
) -> Local:
    """Judge each rewrite of a run; what is no rule's rewrite is judged by the run's `accuracy`.

    Raises VerificationError for the first that is wrong, with both of its sides as ONNX text.
    """
    classes = {f"{item.name}.{rule.name}": rule.accuracy for item in passes for rule in item.rules()}
    lossy = {item.name for item in passes if item.accuracy is Accuracy.APPROX}
    found = check_locally(recorder, feeds, lambda by: _class_of(by, classes, lossy, accuracy).label)
    if found.wrong is not None:
        raise VerificationError(_describe(found.wrong), where=where, hint=hint)
    return found


def _class_of(by: str, classes: Mapping[str, Accuracy], lossy: set[str], otherwise: Accuracy) -> Accuracy:
    return Accuracy.APPROX if by.partition(".")[0] in lossy else classes.get(by, otherwise)


def _describe(wrong: Wrong) -> str:
    step = wrong.step
    sides = (("before", wrong.region.before), ("after", wrong.region.after))
    return "\n".join(
        [f"rewrite {step.ordinal}, {step.by} at {step.at!r}, does not compute what it replaces: {wrong.reason}"]
        + [f"  {name}:\n{_indented(model)}" for name, model in sides]
    )


def _indented(model: oir.Model) -> str:
    return "\n".join(f"    {line}" for line in to_text(model, limit=8, metadata=False).splitlines())
