"""Operators whose data integers cannot hold, as the statistics show: infinities, and marks among numbers.

A mark such as -1e9 or 1e30 stands for "not there". With it in the range, one step is larger than all that is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.quant.operands import sole_reader

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value
    from graphopt.quant.calibrate import Calibration
    from graphopt.quant.operands import Heavy
    from graphopt.quant.place import Plan
    from graphopt.quant.statistics import TensorStatistics

__all__ = ["marked", "stand_ins", "unfit"]

_MARK = 1e8  # what is larger is no number that a layer computes with
_MASK = 5e3  # -1e4 in a sum is a mask, too
_LOST = 0.1  # share of elements that may be less than one step
_STEPS = 255
_LARGEST = 1e37  # products beyond are near the end of float32


def unfit(placement: Plan, statistics: Mapping[str, TensorStatistics]) -> dict[Node, str]:
    """The weighted operators of a plan that have to stay float, and why."""
    likes = {pair.value: pair.like for pair in placement.pairs}
    found: dict[Node, str] = {}
    for heavy in placement.heavy:
        for what, value in _values(heavy):
            like = likes.get(value)
            seen = None if like is None else statistics.get(like.name)
            reason = None if seen is None else _reason(seen, float(heavy.peaks.max(initial=0.0)), what)
            if reason is not None:
                found.setdefault(heavy.node, reason)
    return found


def marked(placement: Plan, statistics: Mapping[str, TensorStatistics]) -> dict[str, str]:
    """The names of activations that a plan rounds for others than weighted operators, and cannot; why.

    A masked sum in front of a Softmax, where every operator is to run on integers.
    """
    found = {}
    for pair in placement.pairs:
        seen = statistics.get(pair.like.name)
        reason = None if seen is None or pair.value.is_const else _reason(seen, 0.0, "range", _MASK)
        if reason is not None:
            found[pair.value.name] = reason
    return found


def stand_ins(before: Plan, after: Plan, calibration: Calibration) -> Calibration:
    """Statistics for what only the later plan asks for: those of the value from whose elements it is taken."""
    likes, seen = {pair.value: pair.like for pair in before.pairs}, calibration.statistics
    wanted = [(v, likes[v].name) for v in after.calibrated if v.name not in seen and v in likes]
    found = {v.name: seen[name] for v, name in wanted if name in seen}
    return replace(calibration, statistics=found, along={}, products={})


def _values(heavy: Heavy) -> Iterator[tuple[str, Value]]:
    yield "input", heavy.x
    if heavy.other is not None:
        yield "second operand", heavy.other
    yield "output", heavy.output
    reader = sole_reader(heavy.output)
    if reader is not None and reader.op in ("Relu", "Clip"):
        yield "output", reader.outputs[0]


def _reason(seen: TensorStatistics, peak: float, what: str, mark: float = _MARK) -> str | None:
    if seen.inf:
        return f"its {what} held infinities during calibration"
    if not seen.count:
        return None
    reach = max(-seen.minimum, seen.maximum)
    if what != "output" and reach * peak > _LARGEST:
        return f"its {what} reaches {reach:.0e}, and the products with its weight leave float32"
    if reach > mark and _share_within(seen, reach / _STEPS) > _LOST:
        return f"its {what} reaches {reach:.0e}, and many of its elements would be less than one step"
    return None


def _share_within(seen: TensorStatistics, step: float) -> float:
    """The share of elements in bins that lie within a step of zero; a bin is smaller than that."""
    low, high = math.ldexp(-step, -seen.exponent) - seen.base, math.ldexp(step, -seen.exponent) - seen.base
    first, last = max(math.ceil(low), 0), max(math.floor(high), 0)
    return float(seen.bins[first:last].sum()) / seen.count
