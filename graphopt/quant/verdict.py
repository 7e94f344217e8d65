"""Whether quantization paid: the model before and after it, timed against each other in one run.

The model before is the one that the passes in front of `quant` left, so that integers take no credit for what fusion,
or putting zeros in place of subnormal weights, has gained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graphopt.engine.goals import Goals
from graphopt.errors import TargetError
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.speedup import Speedup, speedup
from graphopt.targets.measured import NOISE

__all__ = ["Verdict", "judge", "unmeasured"]


@dataclass(frozen=True)
class Verdict:
    """Which model was kept, and the figures. `speedup` is None where nothing was measured, and `reason` says why.

    `faster`: whether the quantized model is faster beyond noise. `forced`: it is kept though it is not. `shapes`: of
    the inputs that both were timed on.
    """

    kept: Literal["quantized", "float"]
    speedup: Speedup | None = None
    faster: bool = False
    forced: bool = False
    reason: str | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None

    def misses(self, least: float | None) -> str | None:
        """Why this is no speedup of at least `least`; None if it is, or if `least` is None."""
        if least is None:
            return None
        if self.speedup is None:
            return f"a speedup of {least:g} was asked for, and none could be measured: {self.reason}"
        if self.speedup.ratio >= least:
            return None
        return f"the quantized model is {self.speedup.ratio:.2f} times as fast as the float one, not {least:g} times"


def judge(
    before: Any,
    after: Any,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    goals: Goals,
    measure: Callable[..., Speedup] | None = None,
) -> Verdict:
    """Time the float model `before` against the quantized one, and say which to keep.

    Both are packages, and timed under ONNX Runtime, or what `measure` takes in place of `speedup`.

    Float is kept unless the quantized model is faster beyond noise, or `goals.force` says otherwise. What cannot be
    timed is kept quantized, with the runtime's reason.
    """
    limits = (NOISE,) if goals.min_speedup is None else (NOISE, goals.min_speedup)
    try:
        found = (measure or speedup)(before, after, feeds, limits)
    except (ExecutorError, TargetError) as error:
        return unmeasured(error.what)
    faster = found.clears(NOISE)
    shapes = {name: np.shape(array) for name, array in feeds.items()}
    kept: Literal["quantized", "float"] = "quantized" if faster or goals.force else "float"
    return Verdict(kept, found, faster, goals.force and not faster, shapes=shapes)


def unmeasured(reason: str) -> Verdict:
    """The verdict where there is nothing to measure."""
    return Verdict("quantized", reason=reason)
