"""One linear reward head trained under several parametrisations, and the algebra between them.

Every parametrisation is a score x . v with an effective vector v (d_model,) in raw activation
space; they differ in what the optimiser moves. With g the gradient of the loss with respect to v,
c = 0.01 and d = d_model, the matrix of the projection head has v = c 1'W and gradient c 1 g':

    SGD     dW = -lr (c 1 g' + wd W)               ->  dv = -(c^2 d lr) g - lr wd v
    AdamW   dW = -lr c m / (c sqrt(s) + eps) - lr wd W
                                                   ->  dv = -(c d lr) m / (sqrt(s) + eps/c) - lr wd v

where m and s are Adam's averages of g and g^2: they scale with c and c^2, so c cancels but for
eps, and all d rows of W move alike. So the projection is a direct vector with learning rate
c^2 d lr (SGD) or c d lr (AdamW), eps/c, the same shrinkage lr wd a step, and another start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.probes.bradley_terry import PROJECTION_SCALE

PARAMETRISATIONS = ("direct", "projection", "rescaled", "small-start", "standardised")
DEFAULT_EPS, ADAMW_DECAY = 1e-8, 1e-2
"""Of torch.optim.AdamW; torch.optim.SGD has neither by default."""


class StepSize(NamedTuple):
    """What an optimiser is given."""

    learning_rate: float
    weight_decay: float = 0.0
    eps: float = DEFAULT_EPS
    """Only Adam's."""


def step_factor(optimizer: str, d: int, scale: float = PROJECTION_SCALE) -> float:
    """Return how many times its learning rate the projection's effective vector moves at.

    Parameters
    ----------
    optimizer
        `adamw` or `sgd`.
    d
        Width of the matrix, d_model.
    scale
        c in score = c * sum(W x).
    """
    return scale * d if optimizer == "adamw" else scale**2 * d


def start_scale(parametrisation: str, d: int) -> float:
    """Return the standard deviation of a coordinate of the effective vector at the start.

    torch.nn.Linear draws uniformly in +-1/sqrt(d): 1/sqrt(3 d) for a vector; for the projection
    c times the root of a sum of d such variances, c/sqrt(3) whatever the width.
    """
    wide = parametrisation in ("direct", "standardised")
    return 1 / math.sqrt(3 * d) if wide else PROJECTION_SCALE / math.sqrt(3)


def base_setting(optimizer: str, learning_rate: float) -> StepSize:
    """Return torch's defaults at a learning rate."""
    return StepSize(learning_rate, ADAMW_DECAY if optimizer == "adamw" else 0.0)


def rescaled_setting(optimizer: str, setting: StepSize, d: int) -> StepSize:
    """Return the setting under which a direct vector moves as the projection does under `setting`."""
    factor = step_factor(optimizer, d)
    return StepSize(
        setting.learning_rate * factor,
        # Both optimisers shrink by lr * wd a step: what the rate gains the decay loses.
        setting.weight_decay / factor,
        setting.eps / PROJECTION_SCALE,
    )


@dataclass(frozen=True)
class Starts:
    """Where one seed begins: the same draws for every optimiser and learning rate."""

    vector: torch.Tensor
    """Shape (d_model,), nn.Linear(d, 1)'s own initialisation."""
    matrix: torch.Tensor
    """Shape (d_model, d_model), nn.Linear(d, d)'s own."""

    @classmethod
    def draw(cls, d: int, seed: int, dtype: torch.dtype = torch.float32) -> Starts:
        """Draw both from one seed."""
        generator = torch.Generator().manual_seed(seed)
        vector, matrix = (
            ((torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(d)).to(dtype)
            for shape in ((d,), (d, d))
        )
        return cls(vector, matrix)

    @property
    def effective(self) -> torch.Tensor:
        """The projection's vector 0.01 1'W, shape (d_model,)."""
        return PROJECTION_SCALE * self.matrix.sum(dim=0)


def batch_order(n: int, batch: int, steps: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of every minibatch, shape (steps, min(batch, n)), epoch after epoch."""
    rng = np.random.default_rng(seed)
    size = min(batch, n)
    epochs = math.ceil(steps * size / n)
    order = np.concatenate([rng.permutation(n) for _ in range(epochs)])
    return order[: steps * size].reshape(steps, size)


def train_vectors(
    differences: torch.Tensor,
    start: torch.Tensor,
    batches: NDArray[np.int64],
    settings: Sequence[StepSize],
    optimizer: str,
    scale: torch.Tensor | None = None,
) -> Iterator[torch.Tensor]:
    """Train a vector under every setting at once; yield the effective ones before and after each step.

    Parameters
    ----------
    differences
        Chosen minus rejected, shape (n, d_model).
    start
        Shape (d_model,).
    batches
        Rows of every minibatch, shape (steps, batch).
    settings
        One for each vector trained.
    optimizer
        `adamw` or `sgd`.
    scale
        Features are divided by it, shape (d_model,); None: raw ones.

    Yields
    ------
    Tensor
        Shape (n_settings, d_model), raw activation space.
    """
    every = start.expand(len(settings), -1).clone()
    # Rows of one tensor as parameters of their own: one product serves all, each has its setting.
    parameters = [torch.nn.Parameter(row) for row in every]
    stepper = _optimiser(optimizer, list(zip(parameters, settings, strict=True)))
    divide = torch.ones_like(start) if scale is None else scale
    yield every / divide
    for rows in batches:
        x = differences[torch.from_numpy(rows)]
        pull = torch.sigmoid(-(x @ (every / divide).T))  # (batch, n_settings)
        gradient = -(pull.T @ x) / (len(rows) * divide)
        for parameter, row in zip(parameters, gradient, strict=True):
            parameter.grad = row
        stepper.step()
        yield every / divide


def train_projection(
    differences: torch.Tensor,
    start: torch.Tensor,
    batches: NDArray[np.int64],
    setting: StepSize,
    optimizer: str,
) -> Iterator[torch.Tensor]:
    """Train the matrix by autograd; yield the effective vector, shape (1, d_model), as above.

    Nothing here knows that the rows move alike, so that it can bear witness.
    """
    w = start.clone().requires_grad_()
    stepper = _optimiser(optimizer, [(w, setting)])
    yield PROJECTION_SCALE * w.detach().sum(dim=0, keepdim=True)
    for rows in batches:
        stepper.zero_grad()
        # sum(W x) over outputs is x times the column sums of W: no (n, d) product needed.
        margin = PROJECTION_SCALE * (differences[torch.from_numpy(rows)] @ w.sum(dim=0))
        torch.nn.functional.softplus(-margin).mean().backward()  # type: ignore[no-untyped-call]
        stepper.step()
        yield PROJECTION_SCALE * w.detach().sum(dim=0, keepdim=True)


def _optimiser(
    optimizer: str, parameters: Sequence[tuple[torch.Tensor, StepSize]]
) -> torch.optim.Optimizer:
    groups = [
        {"params": [p], "lr": s.learning_rate, "weight_decay": s.weight_decay}
        | ({"eps": s.eps} if optimizer == "adamw" else {})
        for p, s in parameters
    ]
    return torch.optim.AdamW(groups) if optimizer == "adamw" else torch.optim.SGD(groups)
