"""Fit a head of any kind to a task's fit split, l2 chosen by grouped folds inside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.errors import ProbeError
from probekit.probes.bradley_terry import BradleyTerryProbe
from probekit.probes.classifiers import calibrate
from probekit.probes.config import L2_FACTORS
from probekit.probes.linear import ALONE
from probekit.probes.solvers import (
    Choice,
    choose_l2,
    logistic_fold_loss,
    logistic_paths,
    ridge_fold_loss,
    solve_logistic,
    solve_ridge,
)
from probekit.probes.spectrum import Array, Scaling, Spectrum, l2_bounds, l2_grid
from probekit.probes.splits import fold_by_group
from probekit.probes.task import Task

KINDS = {
    "rating": ("ridge",),
    "label": ("logistic", "mean-difference"),
    "pair": ("bradley-terry", "mean-difference"),
}


class Head(NamedTuple):
    """A fitted head in raw feature space: score = features @ coef + bias."""

    coef: Array
    bias: float
    choice: Choice | None = None
    """The penalty and how it was chosen; None where there is none."""

    @property
    def l2(self) -> float | None:
        """The penalty."""
        return self.choice and self.choice.l2

    def scores(self, features: NDArray[Any]) -> Array:
        """Return the score of every row, shape (n,)."""
        return np.asarray(features @ self.coef + self.bias)


@dataclass(frozen=True)
class HeadFitter:
    """Fits one kind of head to any features of a task's rows.

    The same fitter serves the activations and the text controls, so that they are compared under
    the same rules.
    """

    task: Task
    kind: str
    head: str | None = None
    """`linear` or `projection` for bradley-terry, else None."""
    standardize: bool = True
    n_folds: int = 5
    l2_factors: tuple[float, ...] = L2_FACTORS

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """Fold of every unit of the fit split, shape (n_fit,)."""
        fit = self.task.splits.fit
        return fold_by_group(self.task.group_codes[fit], self.n_folds, seed=self.task.seed)

    def fit(
        self, features: NDArray[Any], *, shuffles: int = 0, seed: int = 0
    ) -> tuple[Head, list[Head]]:
        """Fit on the fit split; return the head and others fitted to shuffled targets.

        Parameters
        ----------
        features
            One row for every example of the task, shape (n_examples, n_features).
        shuffles
            Heads fitted to shuffled targets, at the l2 of the real one.
        seed
            Seed of the shuffles.
        """
        fit, task = self.task.splits.fit, self.task
        rng = np.random.default_rng(seed)
        shuffled = [task.shuffled(rng) for _ in range(shuffles)]
        design = task.design(features, fit).astype(np.float64)
        target = task.target[fit]
        if self.kind == "mean-difference":
            return self._mean_difference(design, target), [
                self._mean_difference(design, other) for other in shuffled
            ]
        scaling = Scaling.fit(design, center=task.kind != "pair", standardize=self.standardize)
        spectrum = Spectrum.of(scaling.apply(design))
        penalties = l2_grid(spectrum, self.l2_factors)
        solve = self._ridge if self.kind == "ridge" else self._logistic
        return solve(scaling, spectrum, target, penalties, shuffled)

    def scores(self, features: NDArray[Any]) -> Array:
        """Fit on the fit split and return the score of every example, shape (n_examples,); see `fit`."""
        return self.fit(features)[0].scores(features)

    def _ridge(
        self,
        scaling: Scaling,
        spectrum: Spectrum,
        target: Array,
        penalties: Array,
        shuffled: list[Array],
    ) -> tuple[Head, list[Head]]:
        loss = ridge_fold_loss(spectrum, target, self.folds)
        choice = choose_l2(loss, penalties, l2_bounds(spectrum, penalties))
        targets = np.column_stack([target, *shuffled])
        centre = targets.mean(axis=0)
        weights = spectrum.weights(solve_ridge(spectrum, targets - centre, choice.l2))
        heads = [
            Head(*scaling.unfold(weights[:, k], float(centre[k])), choice)
            for k in range(targets.shape[1])
        ]
        return heads[0], heads[1:]

    def _logistic(
        self,
        scaling: Scaling,
        spectrum: Spectrum,
        target: Array,
        penalties: Array,
        shuffled: list[Array],
    ) -> tuple[Head, list[Head]]:
        intercept = self.task.kind != "pair"
        loss = logistic_fold_loss(spectrum, target, self.folds, intercept=intercept)
        choice = choose_l2(loss, penalties, l2_bounds(spectrum, penalties))
        # One batched pass starts the exact solve and is all that the shuffled controls need.
        signs = np.column_stack([target, *shuffled])
        w, b, converged = logistic_paths(
            spectrum, signs, np.array([choice.l2]), np.ones_like(signs), intercept=intercept
        )
        choice = choice._replace(converged=choice.converged and bool(converged[0, 0]))
        start, bias = w[:, :, 0].double().numpy(), b[:, 0].double().numpy()
        if converged[0, 0] and self.head != "projection":
            start[:, 0], bias[0] = solve_logistic(
                spectrum.features, target, choice.l2, intercept=intercept, start=start[:, 0]
            )
        heads = [
            Head(*scaling.unfold(spectrum.weights(start[:, k]), float(bias[k])), choice)
            for k in range(signs.shape[1])
        ]
        if self.head == "projection":
            heads[0] = self._projection(scaling, spectrum, choice)
        return heads[0], heads[1:]

    def _projection(self, scaling: Scaling, spectrum: Spectrum, choice: Choice) -> Head:
        features = spectrum.features @ spectrum.rotation.T
        probe = BradleyTerryProbe(choice.l2, head="projection", standardize=False)
        probe.fit(features, np.zeros_like(features))
        return Head(*scaling.unfold(probe.coef_), choice)

    def _mean_difference(self, design: Array, target: Array) -> Head:
        if self.task.kind == "pair":
            direction = (design * target[:, None]).mean(axis=0)
        else:
            direction = design[target > 0].mean(axis=0) - design[target < 0].mean(axis=0)
        intercept = self.task.kind != "pair"
        coef, bias = calibrate(design @ direction, target, direction, intercept=intercept)
        return Head(coef, bias)


def resolve_kinds(text: str, data_kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the linear kinds and the others that `text` (`auto` or a comma-separated list) names.

    Others stand beside linear heads: where none is named, these are those of `auto`.

    Raises
    ------
    ProbeError
        When a kind is unknown or does not fit the data.
    """
    linear, others = KINDS[data_kind], ALONE if data_kind == "label" else ()
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    words = " or ".join(("auto", *linear, *others))
    for kind in kinds:
        if kind not in ("auto", *linear, *others):
            raise ProbeError(
                f"kind {kind!r}: does not fit a store of {data_kind} rows. Expected {words}."
            )
    if not kinds:
        raise ProbeError(f"kind {text!r}: names none. Expected {words}.")
    swept = tuple(kind for kind in kinds if kind in linear)
    swept = swept if swept and "auto" not in kinds else linear[:1]
    return swept, tuple(kind for kind in kinds if kind in others)
