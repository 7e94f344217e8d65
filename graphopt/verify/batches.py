"""Is each sample of a batch computed as it would be alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import VerificationError
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import Package
from graphopt.runtime.run import open_session
from graphopt.verify.compare import compare

__all__ = ["COUNTS", "check_batches"]

Arrays = dict[str, np.ndarray[Any, Any]]
COUNTS = (1, 2, 3)
"""How many times the old batch is put into one, in the runs that are compared."""


def check_batches(
    original: Package,
    freed: Package,
    feeds: Sequence[Arrays],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int | None],
    where: str,
) -> None:
    """Run `freed` on batches made of `feeds`, and compare with what `original` makes of each of them alone.

    `feeds`: as many as the largest of `COUNTS`. `inputs`, `outputs`: the axis along which the samples lie, by name;
    None for an output that does not depend on them. Raises `VerificationError` if a result differs, or cannot be
    computed.
    """
    shared = {name: array for name, array in feeds[0].items() if name not in inputs}
    alone = [{**feed, **shared} for feed in feeds]
    hint = "nothing was written; the samples are not independent, or the model needs its batch as it is"
    try:
        with open_session(original) as session:
            expected = [session.run(feed) for feed in alone]
    except ExecutorError as error:
        what = f"the batch cannot be freed unseen, and ONNX Runtime does not run the original: {error.what}"
        raise VerificationError(what, where=where) from None
    try:
        with open_session(freed) as session:
            for count in COUNTS:
                found = session.run({**shared, **_joined(alone[:count], inputs)})
                wanted = _joined(expected[:count], outputs)
                bad = [output for output in compare(wanted, found, "close") if not output.ok]
                if bad:
                    name, why = bad[0].name, bad[0].why
                    what = f"with {count} at once, output {name!r} is not what it is for each alone: {why}"
                    raise VerificationError(what, where=where, hint=hint)
    except ExecutorError as error:
        what = f"ONNX Runtime does not run the model with its batch free: {error.what}"
        raise VerificationError(what, where=where, hint=hint) from None


def _joined(samples: Sequence[Arrays], axes: Mapping[str, int | None]) -> Arrays:
    """The samples in one batch; of what does not depend on them, the first."""
    found: Arrays = {}
    for name, axis in axes.items():
        parts = [sample[name] for sample in samples if name in sample]
        found[name] = parts[0] if axis is None else np.concatenate(parts, axis)
    return found
