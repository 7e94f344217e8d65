"""The rounding of weights that are stored only: activations stay as they are, so its error is all the error there is.

GPTQ where the second moments of a product's input are known, which takes data; without them, the clipping of each block
that loses the least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.quant.blocks import WEIGHT_TYPES, Blocks, in_blocks
from graphopt.quant.calibrate import Watch
from graphopt.quant.correct.gain import Gain
from graphopt.quant.correct.rounding import ROUNDINGS, Moments, best_rounding
from graphopt.quant.dense import Dense, dense_of

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.value import Node
    from graphopt.quant.calibrate import Calibration

__all__ = ["MatrixCorrections"]

Array = np.ndarray[Any, Any]
_LARGEST_GRAM = 4096  # rows of a matrix: 128 MiB of second moments, and as many multiplications as a minute has


class MatrixCorrections:
    """`names`: the corrections that are wanted, of which this uses `ROUNDINGS` and `awq`; clipping stands in for GPTQ
    where no second moments are known.

    Ask for `watches` before calibration, `use` the statistics after it. `gains` and `notes` grow with each weight.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._methods = tuple(m for m in ROUNDINGS if m in names)
        self.protects = "awq" in names
        self._calibration: Calibration | None = None
        self._divided: dict[str, Array] = {}
        self.gains: list[Gain] = []
        self.notes: list[str] = []

    def watches(self, nodes: Iterable[Node], edit: Editor) -> list[Watch]:
        """What calibration has to keep of the inputs of these products; nothing where nobody asks for it."""
        if "gptq" not in self._methods and not self.protects:
            return []
        found = []
        for node in nodes:
            dense = dense_of(node, edit) if node.op in ("MatMul", "Gemm") and node.graph.is_main else ""
            if isinstance(dense, Dense) and dense.k <= _LARGEST_GRAM:
                found.append(Watch(dense.x.name, gram=_axis(dense)))
        return list(dict.fromkeys(found))

    def use(self, calibration: Calibration) -> None:
        """Round by what is known of the inputs from now on."""
        self._calibration = calibration

    def blocks(self, dense: Dense, dtype: str, block: int) -> Blocks:
        """The weights of a product as integers; arguments as of `in_blocks`."""
        matrix = dense.matrix()
        moments = self._moments(dense)
        methods = self._methods
        if moments is None and "gptq" in methods:
            methods = tuple(dict.fromkeys(("clip", *(m for m in methods if m != "gptq"))))
        if not methods:
            return in_blocks(matrix, dtype, block)
        block = min(block, len(matrix)) or len(matrix)
        symmetric = WEIGHT_TYPES[dtype][0] < 0
        done = best_rounding(
            matrix, axis=0, block=block, dtype=dtype, symmetric=symmetric, moments=moments, methods=methods
        )
        where = dense.node.name
        self.gains += [Gain(name, where, before, after) for name, before, after in done.gains]
        self.notes += [f"{where}: {note}" for note in done.notes]
        zero = None if symmetric else done.params.zero_point.astype(np.int16)
        return Blocks(done.integers.astype(np.int16), done.params.scale, zero, block, dtype)

    def _moments(self, dense: Dense) -> Moments | None:
        found = self.moments_of(dense.x.name, _axis(dense)) if dense.node.graph.is_main else None
        return found if found is not None and found.gram is not None and len(found.gram) == dense.k else None

    def moments_of(self, name: str, axis: int = -1) -> Moments | None:
        """Of a value of the main graph, along the axis that a product sums over."""
        gram = None if self._calibration is None else self._calibration.products.get((name, axis))
        if gram is None or self._calibration is None:
            return None
        scales = self._divided.get(name, np.ones(1))
        count = max(int(self._calibration.along[name, axis].count.max()), 1)
        return Moments(gram=gram / count / np.multiply.outer(scales, scales))

    def divide(self, name: str, scales: Array) -> None:
        """Take note that the channels of a value were divided since calibration."""
        self._divided[name] = self._divided.get(name, np.ones(1)) * scales


def _axis(dense: Dense) -> int:
    return 0 if dense.turned else -1
