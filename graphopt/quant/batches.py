"""The inputs that a model is calibrated with: the first of them and the others, or made-up ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.quant.sizes import sizes_of
from graphopt.runtime.executor import ExecutorError
from graphopt.verify.feeds import synthesize
from graphopt.verify.validate import made_up_feeds

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["Feeds", "divided", "invented"]

_SYNTHETIC_BATCHES = 8
_LEAST_BATCHES = 2
_SYNTHETIC_BYTES = 1 << 30  # of activations: large ones tell as much in fewer runs

Feeds = Mapping[str, "np.ndarray[Any, Any]"]


def divided(batches: Iterable[Feeds], count: int) -> tuple[list[Feeds], Iterable[Feeds] | None]:
    """The first batches, with `count` samples or more in all, and the others, if there are any."""
    left = iter(batches)
    head: list[Feeds] = []
    samples = 0
    for batch in left:
        if samples >= count:
            return head, itertools.chain([batch], left)
        head.append(batch)
        samples += max((len(array) for array in batch.values() if np.ndim(array)), default=1)
    return head, None


def invented(model: Model, seed: int) -> Iterable[Feeds]:
    """Inputs of sizes that the runtime accepts; made up untried where it takes none, so that it says why.

    Eight batches, and down to two of a model with more than 128 MiB of activations.
    """
    try:
        feeds = made_up_feeds(model.ir, facts=model.facts, samples=_SYNTHETIC_BATCHES, seed=seed)
    except ExecutorError:
        return [synthesize(model.ir, model.facts, seed=seed)]
    values = [value for node in model.main.nodes for value in node.outputs]
    names = [value.name for value in values if value.dtype is not None and value.dtype.name == "FLOAT"]
    sizes = sizes_of(model, names, {name: array.shape for name, array in feeds[0].items()})
    return feeds[: max(_LEAST_BATCHES, _SYNTHETIC_BYTES // max(1, sum(sizes.values())))]
