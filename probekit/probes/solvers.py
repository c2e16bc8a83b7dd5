"""Exact convex solves, and l2 chosen by grouped folds for all penalties and folds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit

from probekit.errors import ProbeError
from probekit.probes.spectrum import Array, Spectrum

GAP = 3e-6
"""How near its minimum, in loss a row, a batched logistic fit ends: fold losses are within 1 % then."""
FoldLoss = Callable[[Array], tuple[Array, bool]]
"""Takes penalties (n_penalties,); returns their out-of-fold losses and whether all fits converged."""
End = Literal["low", "high"]


class Paths(NamedTuple):
    """Logistic fits of every penalty on every row mask."""

    weights: torch.Tensor
    """Shape (rank, n_masks, n_penalties)."""
    bias: torch.Tensor
    """Shape (n_masks, n_penalties)."""
    converged: NDArray[np.bool_]
    """Shape (n_masks, n_penalties)."""


class Choice(NamedTuple):
    """The penalty that the folds chose."""

    l2: float
    end: End | None
    """The end of all penalties tried that it lies at: the loss still falls there."""
    converged: bool
    """Whether every fit behind the choice converged."""


def solve_ridge(spectrum: Spectrum, target: Array, l2: float) -> Array:
    """Return the rotated weights that minimise |y - Z w|^2 + l2 |w|^2 for a centred target.

    `target` is (n,) or (n, n_targets); the result (rank,) or (rank, n_targets).
    """
    shrunk = (spectrum.features.T @ target).T / (spectrum.energy + l2)
    return np.asarray(shrunk.T)


def ridge_fold_loss(spectrum: Spectrum, target: Array, folds: NDArray[np.int64]) -> FoldLoss:
    """Return the out-of-fold mean squared error of any penalties, both of shape (n_penalties,).

    Exact, with an unpenalised intercept, without a refit for every penalty. A small fold is left
    out by its block of the hat matrix, a large one by subtracting its Gram matrix; either costs no
    more than the factorisation did. In float32, which is ample for comparing penalties.
    """
    y = torch.from_numpy((target - target.mean()).astype(np.float32))
    parts: list[Callable[[torch.Tensor], torch.Tensor]] = []
    for fold in np.unique(folds):
        rows = torch.from_numpy(np.flatnonzero(folds == fold))
        small = len(rows) <= len(spectrum.energy)
        parts.append((_block_left_out if small else _gram_left_out)(spectrum, y, rows))

    def fold_loss(penalties: Array) -> tuple[Array, bool]:
        l2 = torch.from_numpy(penalties.astype(np.float32))
        loss = torch.stack([part(l2) for part in parts]).sum(dim=0)
        return np.asarray(loss.numpy(), dtype=np.float64) / len(target), True

    return fold_loss


def _block_left_out(
    spectrum: Spectrum, y: torch.Tensor, rows: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Squared error on `rows` when they are left out: |(I - H_BB)^-1 (y - H y)_B|^2 by penalty.

    H is the hat matrix of the fit on all rows; the intercept adds 1/n to it.
    """
    left, energy = spectrum.left32, torch.from_numpy(spectrum.energy.astype(np.float32))
    block, pull = left[rows], left.T @ y

    def error(l2: torch.Tensor) -> torch.Tensor:
        shrink = energy / (energy + l2[:, None])
        residual = y[rows] - (shrink * pull) @ block.T  # (n_penalties, n_rows)
        inner = torch.eye(len(rows)) - (block * shrink[:, None, :]) @ block.T - 1.0 / len(y)
        factor, failed = torch.linalg.cholesky_ex(inner)
        left_out = torch.cholesky_solve(residual[:, :, None], factor)[:, :, 0]
        # Where the rest of the rows does not determine these (no penalty to speak of) it fails.
        return torch.where(failed == 0, left_out.square().sum(dim=1), torch.inf)

    return error


def _gram_left_out(
    spectrum: Spectrum, y: torch.Tensor, rows: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Squared error on `rows` when they are left out, by the Gram matrix of the other rows."""
    z, energy = spectrum.features32, torch.from_numpy(spectrum.energy.astype(np.float32))
    block, target = z[rows], y[rows]
    n = len(y) - len(rows)
    # All rows have mean zero, so the others' means follow from the block's.
    mean, y_mean = -block.sum(dim=0) / n, -target.sum() / n
    gram = torch.diag(energy) - block.T @ block - n * torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(gram)
    pull = vectors.T @ (z.T @ y - block.T @ target - n * mean * y_mean)
    turned = (block - mean) @ vectors

    def error(l2: torch.Tensor) -> torch.Tensor:
        # (n_rows, n_penalties)
        predicted = turned @ (pull[:, None] / (values.clamp_min(0.0)[:, None] + l2)) + y_mean
        missed: torch.Tensor = target[:, None] - predicted
        return missed.square().sum(dim=0)

    return error


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


def solve_multinomial(
    features: Array, code: NDArray[np.int64], l2: float, n_classes: int, start: Array | None = None
) -> tuple[Array, Array]:
    """Minimise sum -log softmax(Z W + b)[code] + l2/2 |W|^2 by L-BFGS.

    Parameters
    ----------
    features
        Z, shape (n, rank).
    code
        Class of every row, 0 to n_classes - 1, shape (n,).
    l2
        Penalty, positive. scikit-learn's C is 1 / l2.
    n_classes
        K.
    start
        W and b to start from, shape (rank + 1, K).

    Returns
    -------
    weights, bias
        Shapes (rank, K) and (K,); the biases sum to 0.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    design = np.column_stack([features, np.ones(len(code))])
    penalty = np.append(np.full(features.shape[1], l2), 0.0)[:, None]
    # The Hessian is at most diag(z'z)/2 + l2 (Boehning): in units of its root all is about as curved.
    unit = 1 / np.sqrt((design**2).sum(axis=0)[:, None] / 2 + penalty)
    truth, shape = np.eye(n_classes)[code], (design.shape[1], n_classes)

    def loss(at: Array) -> tuple[float, Array]:
        w = at.reshape(shape) * unit
        told = log_softmax(design @ w, axis=1)
        rise = design.T @ (np.exp(told) - truth) + penalty * w
        value = -told[truth == 1].sum() + (penalty * w * w).sum() / 2
        return float(value), (rise * unit).ravel()

    first = np.zeros(shape) if start is None else start / unit
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-7}
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    w = found.x.reshape(shape) * unit
    return w[:-1], w[-1] - w[-1].mean()


def logistic_paths(
    spectrum: Spectrum,
    sign: Array,
    penalties: Array,
    masks: Array,
    *,
    intercept: bool,
    steps: int = 300,
) -> Paths:
    """Fit every penalty on every row mask, all at once, to the accuracy that choosing l2 needs.

    In the rotated features the Hessian is bounded by diag(s) / 4 + l2 (Boehning), for every mask
    too, so one diagonal matrix preconditions all problems; Nesterov's momentum with restarts does
    the rest. A problem is done when its penalised loss is within `GAP` a row of the minimum;
    those that are not after `steps` are solved by Newton steps from where they are.

    Parameters
    ----------
    sign
        +1 or -1, shape (n,) or (n, n_masks).
    penalties
        Shape (n_penalties,).
    masks
        1 where a row is trained on, shape (n, n_masks).
    """
    z = spectrum.features32
    (n, rank), n_masks, n_penalties = z.shape, masks.shape[1], len(penalties)
    signed = torch.from_numpy((masks * sign.reshape(n, -1)).astype(np.float32))
    sides = signed.repeat_interleave(n_penalties, dim=1)  # a column a problem
    l2 = torch.from_numpy(penalties.astype(np.float32)).repeat(n_masks)
    curve = torch.from_numpy(spectrum.energy.astype(np.float32))[:, None] / 4 + l2
    weights, biases = torch.zeros(rank, len(l2)), torch.zeros(len(l2))
    w, b, ahead_w, ahead_b = (v.clone() for v in (weights, biases, weights, biases))
    momentum, open_ = torch.ones(len(l2)), torch.arange(len(l2))
    for step in range(1, steps + 1):
        pull = sides * torch.sigmoid(-sides * (z @ ahead_w + ahead_b))
        gradient, lift = l2 * ahead_w - z.T @ pull, pull.sum(dim=0)
        new_w = ahead_w - gradient / curve
        new_b = ahead_b + (4.0 / n) * lift if intercept else b
        move_w, move_b = new_w - w, new_b - b
        # Restart a problem's momentum when it points uphill.
        uphill = (gradient * move_w).sum(dim=0) - lift * move_b > 0
        following = (1 + torch.sqrt(1 + 4 * momentum**2)) / 2
        push = torch.where(uphill, 0.0, (momentum - 1) / following)
        momentum = torch.where(uphill, 1.0, following)
        ahead_w, ahead_b = new_w + push * move_w, new_b + push * move_b
        w, b = new_w, new_b
        if step % 5:
            continue
        # The loss is l2-strongly convex in w, and a gradient bounds the way down; so nearly in b.
        way = gradient.square().sum(dim=0) / (2 * l2) + (4.0 / n * lift**2 if intercept else 0.0)
        if (kept := way > GAP * n).all():
            continue
        weights[:, open_[~kept]], biases[open_[~kept]] = w[:, ~kept], b[~kept]
        w, ahead_w, curve, sides = w[:, kept], ahead_w[:, kept], curve[:, kept], sides[:, kept]
        b, ahead_b, l2, momentum, open_ = (v[kept] for v in (b, ahead_b, l2, momentum, open_))
        if not len(open_):
            break
    weights[:, open_], biases[open_] = w, b
    converged = np.ones(len(biases), dtype=bool)
    for at in open_.tolist():
        side, penalty = signed[:, at // n_penalties].numpy(), float(penalties[at % n_penalties])
        rows, start = side != 0, weights[:, at].double().numpy()
        try:
            exact, bias = solve_logistic(
                spectrum.features[rows], side[rows], penalty, intercept=intercept, start=start
            )
        except (ProbeError, LinAlgError):
            converged[at] = False
        else:
            weights[:, at], biases[at] = torch.from_numpy(exact), bias
    shape = (n_masks, n_penalties)
    return Paths(weights.reshape(rank, *shape), biases.reshape(shape), converged.reshape(shape))


def logistic_fold_loss(
    spectrum: Spectrum, sign: Array, folds: NDArray[np.int64], *, intercept: bool
) -> FoldLoss:
    """Return the out-of-fold mean log loss of any penalties, both of shape (n_penalties,)."""
    names = np.unique(folds)
    masks = (folds[:, None] != names).astype(np.float64)
    signs = torch.from_numpy(sign.astype(np.float32))

    def fold_loss(penalties: Array) -> tuple[Array, bool]:
        w, b, converged = logistic_paths(spectrum, sign, penalties, masks, intercept=intercept)
        loss = np.zeros(len(penalties))
        for k, fold in enumerate(names):
            rows = torch.from_numpy(np.flatnonzero(folds == fold))
            logits = spectrum.features32[rows] @ w[:, k] + b[k]
            loss += torch.nn.functional.softplus(-signs[rows, None] * logits).sum(dim=0).numpy()
        return loss / len(sign), bool(converged.all())

    return fold_loss


def pick(loss: Array, penalties: Array) -> float:
    """Return the penalty of the smallest loss, (n_penalties,) each, the larger one when they tie."""
    return float(penalties[np.flatnonzero(loss <= loss.min() * (1 + 1e-9))].max())


def choose_l2(fold_loss: FoldLoss, penalties: Array, bounds: tuple[float, float]) -> Choice:
    """Return the penalty that the folds choose, beyond the given ones while their loss falls there.

    Of the smallest third, which costs most, each is tried only while the loss falls towards it.
    While the smallest or the largest of all is best, two more of the same spacing are tried.

    Parameters
    ----------
    fold_loss
        Loss of any penalties; infinite where there is none.
    penalties
        The first to try, shape (n_penalties,). One alone is taken as it is.
    bounds
        No penalty below the first or above the second is added.
    """
    tried = np.unique(penalties)
    rest, tried = np.split(tried, [len(tried) // 3])
    loss, converged = fold_loss(tried)
    while len(rest) and loss.argmin() == 0:
        added, good = fold_loss(rest[-1:])
        tried, loss = np.r_[rest[-1:], tried], np.r_[added, loss]
        rest, converged = rest[:-1], converged and good
    while True:
        l2, usable = pick(loss, tried), tried[np.isfinite(loss)]
        if len(tried) < 2 or l2 not in usable[[0, -1]]:
            return Choice(l2, None, converged)
        end: End = "low" if l2 == usable[0] else "high"
        edge, inner = (tried[0], tried[1]) if end == "low" else (tried[-1], tried[-2])
        more = edge * (edge / inner) ** np.arange(1, 3)
        more = more[(more >= bounds[0] * (1 - 1e-9)) & (more <= bounds[1])]
        if l2 != edge or not len(more):
            return Choice(l2, end, converged)
        added, good = fold_loss(more)
        order = np.argsort(tried := np.r_[tried, more])
        tried, loss, converged = tried[order], np.r_[loss, added][order], converged and good
