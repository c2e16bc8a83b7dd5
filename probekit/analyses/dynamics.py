"""Why the d x d projection head trains where a direct vector may not: the same class, other steps.

Trains one Bradley-Terry head under five parametrisations over a grid of learning rates, on the same
minibatches from paired starts, beside the exact convex solution; see `parametrisations` for the
algebra that makes `rescaled`, a direct vector, the prediction for `projection`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.analyses.conclusion import conclude
from probekit.analyses.config import DynamicsConfig
from probekit.analyses.geometry import exact_solutions, geometry
from probekit.analyses.parametrisations import (
    PARAMETRISATIONS,
    Starts,
    base_setting,
    batch_order,
    rescaled_setting,
    start_scale,
    step_factor,
    train_projection,
    train_vectors,
)
from probekit.analyses.windows import optimizer_findings
from probekit.errors import ProbeError
from probekit.probes.probe import Probe
from probekit.probes.spectrum import Scaling
from probekit.results.dynamics import DynamicsRun, TrainedVector
from probekit.rl.head_data import HeadData

Progress = Callable[[str, int, int], None]
WIDE = 2048
"""Above this width the matrix is trained from one start only: its steps cost d^2."""
RECORDED = 60
"""About how many steps of a run are looked at."""


@dataclass(frozen=True)
class HeadDynamics:
    """What the analysis found; `summary` is JSON, `runs` one row a run."""

    config: DynamicsConfig
    n: dict[str, int]
    steps: list[int]
    """Steps at which every run was looked at."""
    exact: list[dict[str, Any]]
    geometry: dict[str, dict[str, float]]
    mechanism: dict[str, dict[str, float]]
    """Step factor of each optimiser, scales of each start."""
    findings: dict[str, dict[str, Any]]
    """Findings of each optimiser: see `windows.optimizer_findings`."""
    conclusion: dict[str, Any]
    runs: list[TrainedVector] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """Return everything but the runs as JSON values."""
        return {
            "config": asdict(self.config),
            "n": self.n,
            "steps": self.steps,
            "exact": self.exact,
            "geometry": self.geometry,
            "mechanism": self.mechanism,
            "findings": self.findings,
            "conclusion": self.conclusion,
        }

    def to_json(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
        """Return the content of `dynamics.json`: header, the head and `more`, and the summary."""
        return {**DynamicsRun.DOCUMENT.header, **more, **self.summary()}


def head_dynamics(
    fit: NDArray[np.floating[Any]],
    choose: NDArray[np.floating[Any]],
    config: DynamicsConfig,
    *,
    l2: float | None = None,
    standardize: bool = True,
    progress: Progress = lambda *_: None,
) -> HeadDynamics:
    """Train every parametrisation over the grid and say what separates them.

    Parameters
    ----------
    fit
        Chosen minus rejected, shape (n_fit, d_model), raw activation units. Trained on.
    choose
        The same of held-out pairs, shape (n_choose, d_model). Only looked at.
    config
        Settings.
    l2, standardize
        Penalty of the fitted head on features divided by their root mean square, for the
        exact solution.
    progress
        Called with `training`, runs done and runs in all.
    """
    fit, choose = (
        _capped(split, config.max_pairs, config.seed + index)
        for index, split in enumerate((fit, choose))
    )
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    data = _Data(
        torch.from_numpy(np.ascontiguousarray(fit)).to(dtype),
        torch.from_numpy(np.ascontiguousarray(choose)).to(dtype),
        torch.from_numpy(Scaling.fit(fit, center=False, standardize=True).scale).to(dtype),
    )
    steps = recorded_steps(config.steps)
    runs: list[TrainedVector] = []
    total = len(config.optimizers) * len(config.learning_rates)
    total *= (len(PARAMETRISATIONS) - 1) * config.n_seeds + _matrix_seeds(config, data.d)
    for run in _runs(data, config, steps):
        runs.append(run)
        progress("training", len(runs), total)
    findings: dict[str, dict[str, Any]] = {
        name: optimizer_findings([run for run in runs if run["optimizer"] == name], steps, data.d)
        for name in config.optimizers
    }
    shape = geometry(fit)
    mechanism = _mechanism(fit, runs, config)
    exact = exact_solutions(fit, choose, l2=l2, standardize=standardize)
    n = {"fit": len(fit), "choose": len(choose), "d_model": data.d}
    return HeadDynamics(
        config, n, steps, exact, shape, mechanism, findings,
        conclude(findings, shape, exact, d=data.d), runs,
    )  # fmt: skip


def recorded_steps(steps: int) -> list[int]:
    """Return the steps that are looked at: 0, the first few, then evenly to the last."""
    stride = max(1, steps // RECORDED)
    return sorted({*range(min(stride, steps) + 1), *range(0, steps + 1, stride), steps})


@dataclass(frozen=True)
class _Data:
    fit: torch.Tensor
    choose: torch.Tensor
    scale: torch.Tensor

    @property
    def d(self) -> int:
        """Width of the activations."""
        return self.fit.shape[1]

    def look(self, vectors: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return mean loss and accuracy of (k, d_model) vectors on both splits."""
        rows = []
        for split in (self.fit, self.choose):
            margin = split @ vectors.T
            right = (margin > 0).double() + 0.5 * (margin == 0)
            loss = torch.nn.functional.softplus(-margin).double().mean(dim=0)
            rows.append((loss, right.mean(dim=0)))
        return rows


def _runs(data: _Data, config: DynamicsConfig, steps: Sequence[int]) -> Iterator[TrainedVector]:
    """Yield every run; one seed's starts and batches serve all of its runs."""
    for index in range(config.n_seeds):
        seed = config.seed + index
        starts = Starts.draw(data.d, seed, data.fit.dtype)
        batches = batch_order(len(data.fit), config.batch_pairs, config.steps, seed)
        for optimizer in config.optimizers:
            settings = [base_setting(optimizer, rate) for rate in config.learning_rates]
            for name in PARAMETRISATIONS:
                own = settings
                if name == "rescaled":
                    own = [rescaled_setting(optimizer, setting, data.d) for setting in settings]
                if name == "projection":
                    if index >= _matrix_seeds(config, data.d):
                        continue
                    paths = [
                        train_projection(data.fit, starts.matrix, batches, setting, optimizer)
                        for setting in settings
                    ]
                else:
                    wide = name in ("direct", "standardised")
                    start = starts.vector if wide else starts.effective
                    scale = data.scale if name == "standardised" else None
                    paths = [train_vectors(data.fit, start, batches, own, optimizer, scale)]
                rates = zip(config.learning_rates, own, strict=True)
                for path in paths:
                    for curves in _curves(data, path, steps):
                        rate, setting = next(rates)
                        loss, accuracy, choose_loss, choose_accuracy = curves
                        yield TrainedVector(
                            parametrisation=name,
                            optimizer=optimizer,
                            learning_rate=rate,
                            own_learning_rate=setting.learning_rate,
                            seed=seed,
                            loss=loss,
                            accuracy=accuracy,
                            choose_loss=choose_loss,
                            choose_accuracy=choose_accuracy,
                        )


def _curves(
    data: _Data, path: Iterator[torch.Tensor], steps: Sequence[int]
) -> list[list[list[float]]]:
    """Return `CURVES` of every vector of a path at the recorded steps."""
    wanted = set(steps)
    seen = [
        torch.stack([value for pair in data.look(vectors) for value in pair])
        for step, vectors in enumerate(path)
        if step in wanted
    ]
    curves: list[list[list[float]]] = torch.stack(seen).permute(2, 1, 0).tolist()
    return curves  # (vectors, measures, steps)


def _matrix_seeds(config: DynamicsConfig, d: int) -> int:
    return config.n_seeds if d <= WIDE else 1


def _capped(split: NDArray[Any], most: int, seed: int) -> NDArray[Any]:
    if len(split) <= most:
        return split
    rows = np.random.default_rng(seed).choice(len(split), size=most, replace=False)
    return split[np.sort(rows)]


def _mechanism(
    fit: NDArray[Any], runs: Sequence[TrainedVector], config: DynamicsConfig
) -> dict[str, dict[str, float]]:
    """Return what the step size and the start are, predicted and measured.

    `margin` is the root mean square margin of the start over pairs, predicted from its scale;
    `loss` the loss it was measured to begin with.
    """
    d = fit.shape[1]
    length = float(np.sqrt(np.mean(np.sum(fit.astype(np.float64) ** 2, axis=1))))
    mechanism: dict[str, dict[str, float]] = {
        "step_factor": {name: step_factor(name, d) for name in config.optimizers}
    }
    for name in ("direct", "projection"):
        first = [run["loss"][0] for run in runs if run["parametrisation"] == name]
        scale = start_scale(name, d)
        mechanism[name] = {
            "start_scale": scale,
            "margin": scale * length,
            "loss": float(np.mean(first)),
        }
    mechanism["data"] = {
        "rms_length": length,
        "mean_l1": float(np.abs(fit).astype(np.float64).sum(axis=1).mean()),
    }
    return mechanism


@dataclass(frozen=True)
class Pairs:
    """A Bradley-Terry head with the differences of its fit and its choose split.

    The report split is not read: no analysis may spend it.
    """

    head: Probe
    fit: NDArray[np.float32]
    """Chosen minus rejected at the head's cell, shape (n_fit, d_model), raw activation units."""
    choose: NDArray[np.float32]
    """Shape (n_choose, d_model)."""
    standardize: bool
    """Whether the fit divided features by their root mean square."""

    @classmethod
    def open(cls, directory: str | Path, store: str | Path | None = None) -> Pairs:
        """Read the chosen head of a fit, and its pairs from the store the fit names or from `store`.

        Raises
        ------
        ProbeError
            When the directory is not a fit, its chosen head is of another kind, or the store is
            gone or another one.
        StoreError
            When the store cannot be read.
        """
        head = Probe.load(directory)
        if head.kind != "bradley-terry":
            raise ProbeError(
                f"{directory}: its chosen probe is {head.kind} on {head.data_kind} rows, expected "
                "bradley-terry. Fit a store of pairs with --kind bradley-terry."
            )
        data = HeadData.open(directory, head, store)
        splits = data.task.splits
        return cls(
            head,
            data.task.design(data.acts, splits.fit).astype(np.float32),
            data.task.design(data.acts, splits.choose).astype(np.float32),
            data.standardize,
        )
