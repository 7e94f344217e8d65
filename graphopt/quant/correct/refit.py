"""What stays float, fitted anew to the inputs that it really gets.

Behind quantized layers a float layer reads x̂ instead of x. The weights with which it computes from x̂ what it should
have computed from x, as nearly as squares tell, follow from second moments in closed form. With little data they are
drawn towards the weights that are there, by a ridge around these and not around zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["RIDGES", "error_left", "refit_affine", "refit_layer"]

RIDGES = (1e-2, 1e-3, 1e-4)
"""Of the mean power of a channel: what a fit may be drawn by. The less data, the more of it is needed."""

Array = np.ndarray[Any, Any]


def refit_layer(
    weight: Array,
    bias: Array,
    moments: Array,
    crossed: Array,
    means: Array,
    true_means: Array,
    ridge: float = RIDGES[0],
) -> tuple[Array, Array]:
    """The weight [N, K] and bias [N] that compute from x̂ what `weight` and `bias` compute from x.

    `moments`: [K, K], the mean of x̂ x̂^T; `crossed`: [K, K], the mean of x x̂^T; `means`, `true_means`: [K], of x̂ and
    of x. Minimizes the mean of (w x + b - w' x̂ - b')² plus the ridge around `weight`, which is so much of the mean
    power of a channel. With means of zero, whatever they are, the bias stays as it is.
    """
    own = moments - np.outer(means, means)
    wanted = crossed - np.outer(true_means, means)
    power = float(np.trace(own)) / max(len(own), 1)
    drawn = ridge * power if power > 0.0 else 1.0
    left = own + drawn * np.eye(len(own))
    right = weight.astype(np.float64) @ (wanted + drawn * np.eye(len(own)))
    fitted = np.linalg.solve(left, right.T).T
    return fitted, bias + weight @ true_means - fitted @ means


def error_left(weight: Array, change: Array, offset: Array, moments: Array, means: Array) -> float:
    """The power of what is wrong with the outputs, summed over them, if `change` [N, K] is added to `weight` [N, K].

    And `offset` [N] to the bias. With d = x̂ - x, what is wrong is w d + change x̂ + offset; `moments` is the mean of
    (d, x̂) (d, x̂)^T, [2K, 2K], and `means` that of (d, x̂), [2K].
    """
    both = np.concatenate([weight.astype(np.float64), change], axis=1)
    return float(np.einsum("ij,ij->", both @ moments, both) + 2 * offset @ (both @ means) + offset @ offset)


def refit_affine(means: Array, true_means: Array, variances: Array, covariances: Array) -> tuple[Array, Array]:
    """The factor and offset for each channel, [C], that bring ŷ nearest to y: y ≈ factor ŷ + offset.

    `means`, `true_means`: of ŷ and y; `variances`: of ŷ; `covariances`: of y and ŷ. A channel that does not vary keeps
    the factor 1.
    """
    varies = variances > 0.0
    factor = np.where(varies, covariances / np.where(varies, variances, 1.0), 1.0)
    factor = np.where(np.isfinite(factor) & (factor > 0.0), factor, 1.0)
    return factor, true_means - factor * means
