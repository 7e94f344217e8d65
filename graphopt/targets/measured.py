"""Which rewrites pay on a target: ratios of latency that were measured there, in a table of their own.

The table is a TOML file that `make measure` writes, and a target names it with the key `measured`:

[rules."fuse.attention"]        the full name of a rewrite
cases = [{ case, ratio, low, high }]

`ratio` is the median latency of a small model with the rewrite over that without it, both with all optimizations of
the runtime itself; `low` and `high` are the middle half of that ratio. `case` says which model it was.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError

__all__ = ["NOISE", "Measured", "read_measured", "slowest"]

NOISE = 1.03
"""A ratio up to this is not told from 1: repeated measurements of equal models differ by as much."""


@dataclass(frozen=True)
class Measured:
    """One comparison: the latency with a rewrite over that without it, and the middle half of that ratio."""

    case: str
    ratio: float
    low: float
    high: float

    @property
    def slower(self) -> bool:
        """Whether the rewrite costs time, beyond noise."""
        return self.ratio > NOISE and self.low > 1.0


def slowest(cases: tuple[Measured, ...]) -> Measured | None:
    """The worst of the cases in which a rewrite is slower; None if it is in none of them."""
    return max((c for c in cases if c.slower), key=lambda c: c.ratio, default=None)


def read_measured(path: Path) -> Mapping[str, tuple[Measured, ...]]:
    """The comparisons in a table, by the rewrite's name. Raises `UsageError` for a file that is no such table."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return {str(name): tuple(_case(row) for row in entry["cases"]) for name, entry in data["rules"].items()}
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"no table of measurements: {type(error).__name__}: {error}", where=str(path),
                         hint="make measure writes them") from None


def _case(row: Mapping[str, Any]) -> Measured:
    return Measured(str(row["case"]), float(row["ratio"]), float(row["low"]), float(row["high"]))
