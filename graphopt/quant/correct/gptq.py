"""Rounding that makes up for itself: what one weight loses in rounding, those that are rounded later take over.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (arXiv:2210.17323):
columns are rounded one after the other, those with the strongest inputs first, and the error of each is spread over
the columns that are left so that the layer's output changes least, for the second moments of its inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.quant.correct.rows import Grid

__all__ = ["SingularGram", "gptq"]

_DAMPING = (0.01, 0.1, 1.0)  # of the mean of the diagonal; the next one where the matrix is not definite
_BLOCK = 128  # columns whose errors are spread among themselves before they are spread over the rest

Array = np.ndarray[Any, Any]


class SingularGram(ValueError):
    """The second moments cannot be inverted, not even damped; the message says why."""


def gptq(values: Array, grid: Grid, gram: Array) -> Array:
    """Integers (as floats) [N, K] for the weights `values` [N, K], on the grid as it is.

    `gram`: [K, K], the sum of x x^T over inputs x. Raises `SingularGram`. Takes K³ + N K² multiplications.
    """
    k = values.shape[1]
    order = np.argsort(-np.diag(gram), kind="stable")
    upper = _inverse_factor(gram[np.ix_(order, order)])
    scale, zero = (np.broadcast_to(grid.wide(p, k), (len(values), k))[:, order] for p in (grid.scale, grid.zero))
    left = values[:, order].astype(np.float64)
    found = np.empty((len(values), k))
    for start in range(0, k, _BLOCK):
        end = min(start + _BLOCK, k)
        errors = np.empty((len(values), end - start))
        for i in range(start, end):
            column = left[:, i]
            integers = grid.nearest(column, scale[:, i], zero[:, i])
            error = (column - (integers - zero[:, i]) * scale[:, i]) / upper[i, i]
            left[:, i + 1 : end] -= np.outer(error, upper[i, i + 1 : end])
            found[:, i], errors[:, i - start] = integers, error
        left[:, end:] -= errors @ upper[start:end, end:]
    result = np.empty_like(found)
    result[:, order] = found
    return result.astype(np.float32)


def _inverse_factor(gram: Array) -> Array:
    """The upper Cholesky factor U of the inverse, U^T U = gram^-1, of the damped matrix."""
    diagonal = np.diag(gram)
    if not np.isfinite(gram).all():
        raise SingularGram("the second moments of its input are not finite")
    mean = float(diagonal.mean())
    if mean <= 0.0:
        raise SingularGram("its input was zero throughout calibration")
    for damping in _DAMPING:
        damped = gram / mean
        damped[np.diag_indices_from(damped)] += damping
        try:
            return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
        except np.linalg.LinAlgError:
            continue
    raise SingularGram("the second moments of its input have no inverse")
