"""What stays float, fitted anew to the inputs that it really gets.

Behind quantized layers a float layer reads x̂ instead of x. The weights with which it computes from x̂ what it should
have computed from x, as nearly as squares tell, follow from second moments in closed form. With little data they are
drawn towards the weights that are there, by a ridge around these and not around zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["refit_affine", "refit_layer"]

_RIDGE = 0.01  # of the mean power of a channel

Array = np.ndarray[Any, Any]


def refit_layer(
    weight: Array, bias: Array, moments: Array, crossed: Array, means: Array, true_means: Array
) -> tuple[Array, Array]:
    """The weight [N, K] and bias [N] that compute from x̂ what `weight` and `bias` compute from x.

    `moments`: [K, K], the mean of x̂ x̂^T; `crossed`: [K, K], the mean of x x̂^T; `means`, `true_means`: [K], of x̂ and
    of x. Minimizes the mean of (w x + b - w' x̂ - b')² plus the ridge around `weight`.
    """
    own = moments - np.outer(means, means)
    wanted = crossed - np.outer(true_means, means)
    power = float(np.trace(own)) / max(len(own), 1)
    ridge = _RIDGE * power if power > 0.0 else 1.0
    left = own + ridge * np.eye(len(own))
    right = weight.astype(np.float64) @ (wanted + ridge * np.eye(len(own)))
    fitted = np.linalg.solve(left, right.T).T
    return fitted, bias + weight @ true_means - fitted @ means


def refit_affine(means: Array, true_means: Array, variances: Array, covariances: Array) -> tuple[Array, Array]:
    """The factor and offset for each channel, [C], that bring ŷ nearest to y: y ≈ factor ŷ + offset.

    `means`, `true_means`: of ŷ and y; `variances`: of ŷ; `covariances`: of y and ŷ. A channel that does not vary keeps
    the factor 1.
    """
    varies = variances > 0.0
    factor = np.where(varies, covariances / np.where(varies, variances, 1.0), 1.0)
    factor = np.where(np.isfinite(factor) & (factor > 0.0), factor, 1.0)
    return factor, true_means - factor * means
