"""One factorisation of a standardised matrix that every fit of a cell shares: folds, l2, shuffles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """Affine map to standardised features; folded into the weights after a fit."""

    mean: Array
    """Shape (d_model,)."""
    scale: Array
    """Shape (d_model,), positive."""

    @classmethod
    def fit(cls, acts: NDArray[np.floating], *, center: bool, standardize: bool) -> Scaling:
        """Learn mean and standard deviation of acts (n, d_model); a constant feature gets scale 1."""
        mean = acts.mean(axis=0, dtype=np.float64) if center else np.zeros(acts.shape[1])
        if not standardize:
            return cls(mean, np.ones(acts.shape[1]))
        about = acts.astype(np.float64) - mean
        scale = np.sqrt(np.mean(about * about, axis=0))
        tiny = np.finfo(np.float32).eps * max(float(scale.max(initial=0.0)), 1e-30)
        return cls(mean, np.where(scale > tiny, scale, 1.0))

    def apply(self, acts: NDArray[np.floating]) -> Array:
        """Return the standardised features, shape (n, d_model)."""
        return (acts - self.mean) / self.scale

    def unfold(self, weights: Array, bias: float = 0.0) -> tuple[Array, float]:
        """Return weights (d_model,) and bias in raw activation space: score = acts @ coef + bias."""
        coef = weights / self.scale
        return coef, float(bias - self.mean @ coef)

    def unfold_several(self, weights: Array, bias: Array) -> tuple[Array, Array]:
        """Return weights (n_classes, d_model) and biases (n_classes,) of (d_model, n_classes)."""
        coef = weights.T / self.scale
        return coef, bias - coef @ self.mean


@dataclass(frozen=True)
class Spectrum:
    """The thin singular value decomposition X = U diag(sqrt(s)) V', by the smaller Gram matrix.

    With n rows and d features it costs O(n d min(n, d)); after it a ridge or logistic fit for
    another l2, fold or target works in the rotated features Z = X V, where X'X is diagonal.
    """

    features: Array
    """Z = X V, shape (n, rank)."""
    energy: Array
    """s, the eigenvalues of X'X, shape (rank,), descending."""
    rotation: Array
    """V, shape (d_model, rank)."""

    @classmethod
    def of(cls, features: Array) -> Spectrum:
        """Factorise features (n, d_model)."""
        x = torch.from_numpy(np.ascontiguousarray(features))
        n, d = x.shape
        energy, vectors = torch.linalg.eigh(x.T @ x if n >= d else x @ x.T)
        top = float(energy[-1].clamp_min(0.0))
        keep = energy > top * 1e-12 * max(n, d)
        keep[-1] = True  # a matrix of zeros still has one (empty) direction
        energy, vectors = energy[keep].flip(0).clamp_min(1e-30), vectors[:, keep].flip(1)
        if n >= d:
            rotation, rotated = vectors, x @ vectors
        else:
            root = energy.sqrt()
            rotation, rotated = (x.T @ vectors) / root, vectors * root
        return cls(rotated.numpy(), energy.numpy(), rotation.numpy())

    def weights(self, rotated: Array) -> Array:
        """Return weights in feature space, (d_model,) or (d_model, n_targets)."""
        return np.asarray(self.rotation @ rotated)

    @cached_property
    def left32(self) -> torch.Tensor:
        """U in float32, shape (n, rank), for choosing l2."""
        return torch.from_numpy((self.features / np.sqrt(self.energy)).astype(np.float32))

    @cached_property
    def features32(self) -> torch.Tensor:
        """Z in float32, shape (n, rank), for choosing l2."""
        return torch.from_numpy(self.features.astype(np.float32))


def l2_grid(spectrum: Spectrum, factors: tuple[float, ...]) -> Array:
    """Return penalties (n_factors,) `factor * n * mean feature variance`: a grid for any scale.

    For standardised features the mean variance is 1 and l2 is `factor * n`.
    """
    total = max(float(spectrum.energy.sum()), 1e-30)
    return np.asarray(np.asarray(factors) * total / spectrum.rotation.shape[0])


def l2_bounds(spectrum: Spectrum, penalties: Array) -> tuple[float, float]:
    """Return how far a grid (n_penalties,) may grow: to a thousandth of it, and to 10 times max(s).

    Above that the weights shrink in every direction alike, so that they only get shorter.
    """
    return float(penalties.min()) / 1000, 10 * float(spectrum.energy[0])
