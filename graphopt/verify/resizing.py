"""Giving a model the sizes that its user asked for, before anything else is done with it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.engine.freeing import Batch, free_batch
from graphopt.errors import DataError, VerificationError
from graphopt.interop.clone import clone
from graphopt.ir.fixing import fix_sizes
from graphopt.ir.load import Source
from graphopt.ir.request import SizeRequest
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import package
from graphopt.verify.batches import COUNTS, check_batches
from graphopt.verify.validate import made_up_feeds

__all__ = ["resize"]

Arrays = dict[str, np.ndarray[Any, Any]]


def resize(
    ir: oir.Model, source: Source | None, request: SizeRequest, where: str, *, seed: int, verify: bool
) -> tuple[oir.Model, Source | None, list[str]]:
    """The model with the sizes of `request`, its source, and what there is to say about it in the report.

    `ir` may be changed. Raises `UsageError` for what does not fit the model, and, unless `verify` is off,
    `VerificationError` if a freed batch does not compute for each sample what the model computes for it alone.
    """
    fix_sizes(ir, request)
    notes: list[str] = []
    if request.frees:
        original = clone(ir)
        batch = free_batch(ir, request)
        if batch is None:
            notes.append(f"{request.batch!r} is free already")
        elif verify:
            _check(original, ir, batch, where, seed)
            runs = ", ".join(str(count * batch.size) for count in COUNTS)
            notes.append(f"the batch is free as {batch.name!r}: compared with the original at {runs} samples")
        else:
            notes.append(f"the batch is free as {batch.name!r}: not compared with the original")
    return ir, source and dataclasses.replace(source, proto=None), notes


def _check(original: oir.Model, freed: oir.Model, batch: Batch, where: str, seed: int) -> None:
    packed = package(original)
    try:
        feeds = [made_up_feeds(original, packed, seed=seed + i)[0] for i in range(max(COUNTS))]
    except (DataError, ExecutorError) as error:
        raise VerificationError(f"the batch cannot be freed unseen: {error.what}", where=where) from None
    check_batches(packed, package(freed), feeds, batch.inputs, batch.outputs, where)
