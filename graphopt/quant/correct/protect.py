"""AWQ in a graph: the weights of products are scaled by channel, and what makes their input is divided by it.

Only where that costs nothing at run time: the input comes from a layer or a normalization whose constants take the
division, and everybody who reads it is one of the products.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from graphopt.ir.draft import Decline
from graphopt.quant.correct.awq import awq_scales
from graphopt.quant.correct.equalize import fold_scale
from graphopt.quant.correct.gain import Gain
from graphopt.quant.correct.links import Link, find_links
from graphopt.quant.correct.rows import steps, to_rows
from graphopt.quant.types import qtype

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.value import Node
    from graphopt.quant.correct.matrices import MatrixCorrections

__all__ = ["protect_weights"]


def protect_weights(
    edit: Editor, nodes: Collection[Node], corrections: MatrixCorrections, dtype: str, block: Callable[[int], int]
) -> None:
    """Fold AWQ's scales into the layers around the products `nodes`, which will be stored as `dtype`.

    `block`: of a matrix with K rows, how many of them share a scale. `corrections` has the statistics, and is told.
    """
    wanted = frozenset(nodes)
    kind = qtype(dtype)
    for link in find_links(edit.model, edit.protects):
        known = [corrections.moments_of(layer.value.name) for layer in link.layers]
        if not _fits(link, wanted) or None in known:
            continue
        rows = [layer.matrix()[:, :, 0].astype(np.float32) for layer in link.layers]
        width = block(link.count)

        def rounded(w: np.ndarray, width: int = width) -> np.ndarray:
            whole = to_rows(w, 1, width or w.shape[1])
            return steps(whole, kind, symmetric=kind.low < 0).rounded(w)

        found = awq_scales([(w, m) for w, m in zip(rows, known, strict=True) if m is not None], rounded)
        if found is None:
            continue
        where = link.maker.name or link.values[0][0].name
        try:
            fold_scale(link, found.scales, edit, "quant.awq")
        except Decline as declined:
            corrections.notes.append(f"{where}: awq was not used: {declined.reason}")
            continue
        corrections.gains.append(Gain("awq", where, found.before, found.after))
        for layer in link.layers:
            corrections.divide(layer.value.name, found.scales)


def _fits(link: Link, wanted: Collection[Node]) -> bool:
    """Whether all that reads a link are products of all its channels, in their order."""
    return all(
        layer.node in wanted and np.array_equal(layer.ids, np.arange(link.count)) and layer.matrix().shape[2] == 1
        for layer in link.layers
    )
