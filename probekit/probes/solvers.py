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

    Exact without refitting: leaving out the rows B changes the residuals there to
    (I - H_BB)^-1 (y - H y)_B, where H is the hat matrix of the fit on all rows (the unpenalised
    intercept adds 1/n to it). Done in float32, which is ample for comparing penalties.
    """
    left, n = spectrum.left32, len(target)
    y = torch.from_numpy((target - target.mean()).astype(np.float32))
    energy = torch.from_numpy(spectrum.energy.astype(np.float32))
    shrink = energy / (energy + torch.from_numpy(penalties.astype(np.float32))[:, None])
    aligned = left.T @ y
    loss = np.zeros(len(penalties))
    for fold in np.unique(folds):
        rows = torch.from_numpy(np.flatnonzero(folds == fold))
        block = left[rows]
        residual = y[rows] - (shrink * aligned) @ block.T  # (n_penalties, n_rows)
        hat = (block * shrink[:, None, :]) @ block.T + 1.0 / n
        inner = torch.eye(len(rows)) - hat
        # Rows that leave-out fits badly determine get a tiny pivot; keep the matrix solvable.
        inner.diagonal(dim1=-2, dim2=-1).add_(1e-6)
        left_out = torch.linalg.solve(inner, residual)
        loss += left_out.square().sum(dim=1).numpy()
    return loss / n


def solve_logistic(
    features: Array,
    sign: Array,
    l2: float,
    *,
    intercept: bool,
    start: Array | None = None,
    tolerance: float = 1e-10,
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
        Shape (rank,) and a float; the largest gradient entry is below `tolerance * n`.
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
        if np.abs(gradient).max() < tolerance * len(sign):
            return w[: features.shape[1]], float(w[-1]) if intercept else 0.0
        hessian = (design.T * (p * (1 - p))) @ design
        hessian[np.diag_indices_from(hessian)] += penalty + 1e-12 * len(sign)
        step = cho_solve(cho_factor(hessian, overwrite_a=True), gradient)
        size = 1.0
        while (new := loss(w - size * step)) > now - 1e-4 * size * float(step @ gradient):
            size /= 2
            if size < 1e-10:  # at the floor of float64
                return w[: features.shape[1]], float(w[-1]) if intercept else 0.0
        w, now = w - size * step, new
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
    """Return the penalty of the smallest loss, the larger one when they tie."""
    return float(penalties[np.flatnonzero(loss <= loss.min() * (1 + 1e-9))].max())
