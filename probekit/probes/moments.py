"""Ridge from moments that are added up: the rows themselves are never held."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.results.intervals import Array


@dataclass
class Moments:
    """Weighted sums over rows of activations and targets, d_model^2 numbers however many rows there are.

    Parameters
    ----------
    width
        d_model.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.probes.moments import Moments
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((400, 3))
    >>> moments = Moments(3)
    >>> for part in np.split(X, 4):
    ...     moments.add(part, 2 * part[:, 0] + 1)
    >>> coef, bias = moments.ridge(np.array([1e-6]))
    >>> coef[0].round(3), bias.round(3)
    (array([ 2., -0., -0.]), array([1.]))
    """

    width: int

    def __post_init__(self) -> None:
        self.weight, self.target, self.square = 0.0, 0.0, 0.0
        self.mean = np.zeros(self.width)
        self.cross = np.zeros(self.width)
        self.gram = np.zeros((self.width, self.width))

    def add(self, acts: NDArray[np.floating], target: Array, weights: Array | None = None) -> None:
        """Add rows.

        Parameters
        ----------
        acts
            Shape (n, d_model).
        target
            Shape (n,).
        weights
            What each row counts, shape (n,); 1 by default.
        """
        x = np.asarray(acts, dtype=np.float64)
        w = np.ones(len(x)) if weights is None else weights
        weighted = x * w[:, None]
        self.weight += float(w.sum())
        self.target += float(w @ target)
        self.square += float(w @ target**2)
        self.mean += weighted.sum(axis=0)
        self.cross += weighted.T @ target
        self.gram += weighted.T @ x

    def ridge(self, l2: Array) -> tuple[Array, Array]:
        """Return weights (n_l2, d_model) and biases (n_l2,) in raw activation space.

        Minimises sum_i w_i (y_i - x_i v - b)^2 + l2 |scale * v|^2 with `scale` the standard deviation of
        each feature, so that the penalty is on standardised features as in `RidgeProbe`.

        Parameters
        ----------
        l2
            Penalties, shape (n_l2,).
        """
        mean, level = self.mean / self.weight, self.target / self.weight
        spread = np.diag(self.gram) / self.weight - mean**2
        # What is left of a constant feature is rounding.
        tiny = np.finfo(np.float32).eps ** 2 * max(float(spread.max(initial=0.0)), 1e-60)
        scale = np.sqrt(np.where(spread > tiny, spread, 1.0))
        gram = (self.gram - self.weight * np.outer(mean, mean)) / np.outer(scale, scale)
        cross = (self.cross - self.weight * level * mean) / scale
        energy, vectors = np.linalg.eigh(gram)
        rotated = (vectors.T @ cross) / (np.maximum(energy, 0.0) + l2[:, None])
        coef = (rotated @ vectors.T) / scale
        return coef, level - coef @ mean

    def error(self, coef: Array, bias: Array) -> Array:
        """Return the weighted mean squared error of heads on these rows, shape (n_heads,).

        Parameters
        ----------
        coef, bias
            Shapes (n_heads, d_model) and (n_heads,).
        """
        gap = self.square - 2 * (coef @ self.cross + bias * self.target)
        gap += np.einsum("hd,de,he->h", coef, self.gram, coef)
        gap += 2 * bias * (coef @ self.mean) + bias**2 * self.weight
        return np.asarray(np.maximum(gap, 0.0) / self.weight)
