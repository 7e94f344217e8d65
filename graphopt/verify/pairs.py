"""Runs in the child process: a model in which values stand in pairs that must be equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.runtime.package import Package
from graphopt.runtime.session import Open, Options, build
from graphopt.verify.compare import Accuracy, compare

__all__ = ["RUN", "Pair", "differing"]

Arrays = dict[str, np.ndarray[Any, Any]]
Pair = tuple[str, str, Accuracy]
"""Names of two values, and the class by which the second is judged against the first."""

RUN = 16
"""Pairs that are fetched in the first run, when nobody knows yet how large they are."""
_AT_ONCE = 1 << 28  # bytes of results in memory


def differing(package: Package, feeds: Sequence[Arrays], pairs: Sequence[Pair]) -> list[int]:
    """Indices of the pairs that differ for one of the feeds; without pairs, the model is run all the same.

    Raises ModelRefused or RunFailed.
    """
    session = build(package, Options())
    found: set[int] = set()
    for feed in feeds:
        if not pairs:
            session.run(feed)
        found.update(_differing(session, feed, pairs))
    return sorted(found)


def _differing(session: Open, feed: Arrays, pairs: Sequence[Pair]) -> list[int]:
    """A few pairs per run, so that the results of all do not lie in memory together."""
    found: list[int] = []
    start, count = 0, RUN
    while start < len(pairs):
        chosen = pairs[start : start + count]
        arrays = session.run(feed, list(dict.fromkeys(name for a, b, _ in chosen for name in (a, b))))
        found += [start + i for i, pair in enumerate(chosen) if not _same(arrays, *pair)]
        start += len(chosen)
        size = sum(array.nbytes for array in arrays.values())
        count = max(1, count * _AT_ONCE // max(size, 1))
    return found


def _same(arrays: Arrays, a: str, b: str, accuracy: Accuracy) -> bool:
    return all(output.ok for output in compare(_of(arrays, a), _of(arrays, b), accuracy))


def _of(arrays: Arrays, name: str) -> Arrays:
    """The array of a value; the parts of one that is a sequence or a map."""
    if name in arrays:
        return {"": arrays[name]}
    return {key.removeprefix(name): array for key, array in arrays.items() if key.startswith((f"{name}[", f"{name}."))}
