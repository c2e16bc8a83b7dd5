"""Exact convex solves, and l2 chosen by grouped folds for all penalties and folds at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

from probekit.errors import ProbeError
from probekit.probes.spectrum import Array, Spectrum


def solve_ridge(spectrum: Spectrum, target: Array, l2: float) -> Array:
    """Return the rotated weights that minimise |y - Z w|^2 + l2 |w|^2 for a centred target.

    `target` is (n,) or (n, n_targets); the result (rank,) or (rank, n_targets).
    """
    shrunk = (spectrum.features.T @ target).T / (spectrum.energy + l2)
    return np.asarray(shrunk.T)


def ridge_fold_loss(
    spectrum: Spectrum, target: Array, penalties: Array, folds: NDArray[np.int64]
) -> Array:
    """Return the out-of-fold mean squared error of every penalty, shape (n_penalties,).

    Exact, with an unpenalised intercept, without a refit for every penalty. A small fold is left
    out by its block of the hat matrix, a large one by subtracting its Gram matrix; either costs no
    more than the factorisation did. In float32, which is ample for comparing penalties.
    """
    y = torch.from_numpy((target - target.mean()).astype(np.float32))
    l2 = torch.from_numpy(penalties.astype(np.float32))
    loss = torch.zeros(len(penalties))
    for fold in np.unique(folds):
        rows = torch.from_numpy(np.flatnonzero(folds == fold))
        small = len(rows) <= len(spectrum.energy)
        loss += (_block_left_out if small else _gram_left_out)(spectrum, y, l2, rows)
    return np.asarray(loss.numpy(), dtype=np.float64) / len(target)


def _block_left_out(
    spectrum: Spectrum, y: torch.Tensor, l2: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Squared error on `rows` when they are left out: |(I - H_BB)^-1 (y - H y)_B|^2 by penalty.

    H is the hat matrix of the fit on all rows; the intercept adds 1/n to it.
    """
    left, energy = spectrum.left32, torch.from_numpy(spectrum.energy.astype(np.float32))
    shrink = energy / (energy + l2[:, None])
    block = left[rows]
    residual = y[rows] - (shrink * (left.T @ y)) @ block.T  # (n_penalties, n_rows)
    inner = torch.eye(len(rows)) - (block * shrink[:, None, :]) @ block.T - 1.0 / len(y)
    factor, failed = torch.linalg.cholesky_ex(inner)
    left_out = torch.cholesky_solve(residual[:, :, None], factor)[:, :, 0]
    # Where the rest of the rows does not determine these (no penalty to speak of) it fails.
    return torch.where(failed == 0, left_out.square().sum(dim=1), torch.inf)


def _gram_left_out(
    spectrum: Spectrum, y: torch.Tensor, l2: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Squared error on `rows` when they are left out, by the Gram matrix of the other rows."""
    z, energy = spectrum.features32, torch.from_numpy(spectrum.energy.astype(np.float32))
    block, target = z[rows], y[rows]
    n = len(y) - len(rows)
    # All rows have mean zero, so the others' means follow from the block's.
    mean, y_mean = -block.sum(dim=0) / n, -target.sum() / n
    gram = torch.diag(energy) - block.T @ block - n * torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(gram)
    pull = vectors.T @ (z.T @ y - block.T @ target - n * mean * y_mean)
    weights = vectors @ (pull[:, None] / (values.clamp_min(0.0)[:, None] + l2))
    predicted = (block - mean) @ weights + y_mean  # (n_rows, n_penalties)
    error: torch.Tensor = target[:, None] - predicted
    return error.square().sum(dim=0)


def solve_logistic(
    features: Array,
    sign: Array,
    l2: float,
    *,
    intercept: bool,
    start: Array | None = None,
) -> tuple[Array, float]:
    """Minimise sum softplus(-sign * (Z w + b)) + l2/2 |w|^2 exactly, by damped Newton steps.

    Parameters
    ----------
    features
        Z, shape (n, rank).
    sign
        +1 or -1, shape (n,).
    l2
        Penalty, positive. scikit-learn's C is 1 / l2.
    intercept
        Whether b is fitted (never penalised).
    start
        Weights to start from, shape (rank,).

    Returns
    -------
    weights, bias
        Shape (rank,) and a float, exact to about the root of float64's precision or better.
    """
    design = np.column_stack([features, np.ones(len(sign))]) if intercept else features
    penalty = np.full(design.shape[1], l2)
    penalty[features.shape[1] :] = 0.0
    w = np.zeros(design.shape[1])
    if start is not None:
        w[: len(start)] = start

    def loss(w: Array) -> float:
        fit = np.logaddexp(0.0, -sign * (design @ w)).sum()
        return float(fit + (penalty * w * w).sum() / 2)

    now = loss(w)
    for _ in range(100):
        p = expit(-sign * (design @ w))
        gradient = penalty * w - design.T @ (sign * p)
        hessian = (design.T * (p * (1 - p))) @ design
        hessian[np.diag_indices_from(hessian)] += penalty + 1e-12 * len(sign)
        step = cho_solve(cho_factor(hessian, overwrite_a=True), gradient)
        decrement = float(step @ gradient)
        size = 1.0
        while (new := loss(w - size * step)) > now - 1e-4 * size * decrement and size > 1e-8:
            size /= 2
        # Newton's decrement is twice the distance to the minimum in units of the loss; where it is
        # this small the step just computed squares the error.
        done = decrement <= 1e-9 * (1.0 + abs(now))
        w, now = w - (1.0 if done else size) * step, new
        if done:
            return w[: features.shape[1]], float(w[-1]) if intercept else 0.0
    raise ProbeError("the logistic fit did not converge in 100 Newton steps. Use a larger l2.")


def logistic_paths(
    spectrum: Spectrum,
    sign: Array,
    penalties: Array,
    masks: Array,
    *,
    intercept: bool,
    steps: int = 150,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit every penalty on every row mask at once, to the accuracy that choosing l2 needs.

    In the rotated features the Hessian is bounded by diag(s) / 4 + l2 (Boehning), for every mask
    too, so one diagonal matrix preconditions all problems; Nesterov's momentum with restarts does
    the rest.

    Parameters
    ----------
    sign
        +1 or -1, shape (n,) or (n, n_masks).
    masks
        1 where a row is trained on, shape (n, n_masks).

    Returns
    -------
    weights, bias
        Shapes (rank, n_masks, n_penalties) and (n_masks, n_penalties).
    """
    z = spectrum.features32
    n, rank = z.shape
    l2 = torch.from_numpy(penalties.astype(np.float32))
    signs = torch.from_numpy(sign.reshape(n, -1).astype(np.float32))[:, :, None]
    weight = torch.from_numpy(masks.astype(np.float32))[:, :, None] * signs
    curve = torch.from_numpy(spectrum.energy.astype(np.float32))[:, None, None] / 4 + l2
    shape = (rank, masks.shape[1], len(penalties))
    w, b = torch.zeros(shape), torch.zeros(shape[1:])
    ahead_w, ahead_b, momentum = w, b, torch.ones(shape[1:])
    for _ in range(steps):
        logits = (z @ ahead_w.reshape(rank, -1)).reshape(n, *shape[1:]) + ahead_b
        pull = weight * torch.sigmoid(-signs * logits)
        gradient = l2 * ahead_w - (z.T @ pull.reshape(n, -1)).reshape(shape)
        new_w = ahead_w - gradient / curve
        new_b = ahead_b + (4.0 / n) * pull.sum(dim=0) if intercept else b
        move_w, move_b = new_w - w, new_b - b
        # Restart a problem's momentum when it points uphill.
        uphill = (gradient * move_w).sum(dim=0) - pull.sum(dim=0) * move_b > 0
        following = (1 + torch.sqrt(1 + 4 * momentum**2)) / 2
        push = torch.where(uphill, 0.0, (momentum - 1) / following)
        momentum = torch.where(uphill, 1.0, following)
        ahead_w, ahead_b = new_w + push * move_w, new_b + push * move_b
        done = bool(((move_w**2).sum(dim=0) <= 1e-7 * (new_w**2).sum(dim=0) + 1e-20).all())
        w, b = new_w, new_b
        if done:
            break
    return w, b


def logistic_fold_loss(
    spectrum: Spectrum,
    sign: Array,
    penalties: Array,
    folds: NDArray[np.int64],
    *,
    intercept: bool,
) -> Array:
    """Return the out-of-fold mean log loss of every penalty, shape (n_penalties,)."""
    names = np.unique(folds)
    masks = (folds[:, None] != names).astype(np.float64)
    w, b = logistic_paths(spectrum, sign, penalties, masks, intercept=intercept)
    signs = torch.from_numpy(sign.astype(np.float32))
    loss = np.zeros(len(penalties))
    for k, fold in enumerate(names):
        rows = torch.from_numpy(np.flatnonzero(folds == fold))
        logits = spectrum.features32[rows] @ w[:, k] + b[k]
        loss += torch.nn.functional.softplus(-signs[rows, None] * logits).sum(dim=0).numpy()
    return loss / len(sign)


def pick(loss: Array, penalties: Array) -> float:
    """Return the penalty of the smallest loss, (n_penalties,) each, the larger one when they tie."""
    return float(penalties[np.flatnonzero(loss <= loss.min() * (1 + 1e-9))].max())
