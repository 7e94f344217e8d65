"""Did a rewrite change what a model computes? Two executors ran it before and after; this decides.

Each executor is first asked alone: does it compute the same before and after? Both have bugs and gaps of their
own, so what each says is weighed:

* An executor that does not run the original says nothing; if neither does, the example is no example.
* One that runs the original but not the result speaks against the rule, unless it is the reference evaluator and
  ONNX Runtime ran both: the reference evaluator lacks combinations that ONNX Runtime has.
* A difference that both see, or the only one that ran both, is the rule's. If it is finite and no larger than that
  between the two executors on one and the same model, it is rounding.
* Where equal bits are asked for, bits that differ by no more than rounding count only if both see it: kernels do
  other things at the end of a row than in its middle, the Where of one and the Sum of the other make +0 of -0.
* Any other difference that only ONNX Runtime sees counts, for it is what most models run on; but not on tensors
  without elements (its Gemm then forgets beta), and not in half precision, which it computes in single precision
  wherever it has no kernel, so that what is near overflow depends on the neighbours.
* A difference that only the reference evaluator sees is a dispute that the report mentions: those that were looked
  into were its own mistakes (ConvTranspose in groups, BatchNormalization before opset 14).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graphopt.rules.rule import Accuracy
from graphopt.runtime.trial import ExecutorName, Outcome, Outcomes
from graphopt.verify.compare import compare, default_tolerance

__all__ = ["Mismatch", "Verdict", "judge", "tolerance"]

Arrays = dict[str, np.ndarray[Any, Any]]
VerdictKind = Literal["same", "different", "refused", "dies", "unknown"]

_LABEL: dict[ExecutorName, str] = {"onnxruntime": "ONNX Runtime", "reference": "the reference evaluator"}
# A pattern rounds a few times, a deep network a thousand times; but kernels for double have constants in float.
_CLOSE = {"float32": 2e-5, "float64": 1e-7}
_NOISE_FACTOR = 4.0
_MOST_NOISE = 0.01


@dataclass(frozen=True)
class Mismatch:
    """An output that one executor computes otherwise after the rewrite.

    `index`, `expected` and `got` are those of the worst element; None where whole arrays do not compare, being of
    different dtypes or shapes. `error` is scaled as in `graphopt.verify.compare`.
    """

    executor: ExecutorName
    output: str
    why: str
    error: float
    index: tuple[int, ...] | None = None
    expected: str | None = None
    got: str | None = None

    def __str__(self) -> str:
        place = ""
        if self.index is not None:
            at = f"[{', '.join(map(str, self.index))}]" if self.index else ""
            place = f"; {self.output}{at} is {self.got}, expected {self.expected}"
        return f"output {self.output!r} under {_LABEL[self.executor]}: {self.why}{place}"


@dataclass(frozen=True)
class Verdict:
    """`same`, `different`, `refused` (the result does not run), `dies` (it ends the process), or `unknown` (the
    original does not run); and why. `same` with a reason is a dispute that was settled."""

    kind: VerdictKind
    reason: str = ""
    mismatches: tuple[Mismatch, ...] = ()


Mismatches = Mapping[ExecutorName, Sequence[Mismatch]]


def judge(before: Outcomes, after: Outcomes, accuracy: Accuracy, *, doubtful: bool = False) -> Verdict:
    """Weigh what the executors say; see the module. `doubtful`: what ONNX Runtime alone says does not count."""
    able = [name for name in before if before[name].arrays is not None and not after[name].ignorant]
    if not able:
        reasons = {name: before[name].error or after[name].error for name in before}
        return Verdict("unknown", "; ".join(f"{_LABEL[name]}: {reason}" for name, reason in reasons.items()))
    ran = [name for name in able if after[name].arrays is not None]
    for name in able:
        if name not in ran and (name == "onnxruntime" or not ran):
            kind: VerdictKind = "dies" if after[name].died else "refused"
            return Verdict(kind, f"{_LABEL[name]} runs the original, but not the result: {after[name].error}")
    found = {name: differences(name, _arrays(before[name]), _arrays(after[name]), accuracy) for name in ran}
    every = tuple(mismatch for name in ran for mismatch in found[name])
    if not every:
        return Verdict("same")
    confirmed = len(ran) == 2 and all(found.values())
    if accuracy is Accuracy.EXACT and not confirmed and _is_rounding(ran, before, after):
        return Verdict("same", str(every[0]))
    if len(ran) == 2 and (_settled(found, before, after, accuracy) or (doubtful and not found["reference"])):
        return Verdict("same", str(every[0]))
    return Verdict("different", str(every[0]), every)


def differences(name: ExecutorName, expected: Arrays, got: Arrays, accuracy: Accuracy) -> list[Mismatch]:
    """The outputs that an executor computes otherwise, the worst first."""
    found = []
    for output, array in expected.items():
        limit = tolerance(array.dtype, accuracy)
        (report,) = compare({output: array}, got, accuracy.label, limit)
        if report.ok:
            continue
        mismatch = Mismatch(name, output, str(report.why), report.error)
        other = got.get(output)
        if other is not None and other.shape == array.shape and other.dtype == array.dtype:
            index = _worst(array, other, accuracy)
            worst = str(array[index]), str(other[index])
            mismatch = Mismatch(name, output, str(report.why), report.error, index, *worst)
        found.append(mismatch)
    return sorted(found, key=lambda mismatch: -mismatch.error)


def tolerance(dtype: np.dtype[Any], accuracy: Accuracy) -> float:
    """The largest error allowed: that of a whole model, less where a model of a few nodes cannot have as much."""
    if dtype.name not in _CLOSE or accuracy not in (Accuracy.CLOSE, Accuracy.FAST):
        return default_tolerance(dtype, accuracy.label)
    return _CLOSE[dtype.name] * default_tolerance(dtype, accuracy.label) / default_tolerance(dtype, "close")


def _arrays(outcome: Outcome) -> Arrays:
    assert outcome.arrays is not None
    return outcome.arrays


def _is_rounding(ran: Sequence[ExecutorName], before: Outcomes, after: Outcomes) -> bool:
    """Whether nobody sees more than the last bits differ, and signs of zeros."""
    return not any(differences(n, _arrays(before[n]), _arrays(after[n]), Accuracy.CLOSE) for n in ran)


def _settled(found: Mismatches, before: Outcomes, after: Outcomes, accuracy: Accuracy) -> bool:
    """Whether the differences that one of two executors sees, or both, are none of the rule's."""
    if not found["onnxruntime"]:
        return True
    if accuracy not in (Accuracy.CLOSE, Accuracy.FAST):
        return False
    noise = max(_gap(before), _gap(after))
    errors = [mismatch.error for mismatches in found.values() for mismatch in mismatches]
    return noise <= _MOST_NOISE and max(errors) <= _NOISE_FACTOR * noise


def _gap(outcomes: Outcomes) -> float:
    """The largest error of one executor measured against the other, on the same model."""
    first, second = (_arrays(outcome) for outcome in outcomes.values())
    return max((report.error for report in compare(first, second, "close")), default=0.0)


def _worst(expected: np.ndarray[Any, Any], got: np.ndarray[Any, Any], accuracy: Accuracy) -> tuple[int, ...]:
    """Where two arrays differ most; of those that differ without measure, the first."""
    if expected.dtype.kind not in "fiub" and not expected.dtype.name.startswith(("bfloat", "float")):
        gaps = np.asarray(expected != got, np.float64)
    else:
        x, y = expected.astype(np.float64), got.astype(np.float64)
        with np.errstate(all="ignore"):
            gaps = np.abs(x - y)
        same = (x == y) & (np.signbit(x) == np.signbit(y)) | np.isnan(x) & np.isnan(y)
        gaps = np.where(same, -1.0, np.where(np.isnan(gaps), np.inf, gaps))
        if accuracy is Accuracy.FAST:  # where the original is not finite, nothing is asked
            gaps = np.where(np.isfinite(x), gaps, -1.0)
    return tuple(int(i) for i in np.unravel_index(int(gaps.argmax()), expected.shape))
