"""The rows a head was fitted on: for refits, an independent twin, and a distance from them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.activations.store import ActivationStore
from probekit.errors import ProbeError
from probekit.probes.bradley_terry import BradleyTerryProbe
from probekit.probes.classifiers import LogisticProbe, MeanDifferenceProbe, calibrate
from probekit.probes.distributions import score_distributions
from probekit.probes.probe import Probe
from probekit.probes.ridge import RidgeProbe
from probekit.probes.task import Task
from probekit.results.intervals import Array
from probekit.results.sweep import SweepRun

NEAR = 0.95
"""Share of held-back rows that count as near: see `HeadData.excess`."""


class Outputs(NamedTuple):
    """Completions of the policy that are to count as bad ones."""

    acts: NDArray[np.float32]
    """On the frozen model at the head's cell, shape (n, d_model)."""
    groups: Sequence[str]
    """Group of each output's prompt, n of them."""
    tags: Sequence[str]
    """Value of the class tag of each output's prompt; an empty string where there is none."""
    tag: str = ""
    """Name of that tag."""


def store_of(directory: str | Path, given: str | Path | None = None) -> Path:
    """Return where a fit's store is: what was given, else what its record names, from its folder.

    Raises
    ------
    ProbeError
        When nothing is there.
    """
    known = SweepRun.open(Path(directory)).provenance.get("arguments", {})
    name = str(given or known.get("store") or "")
    place = Path(directory) / name
    path = place if name and not given and place.is_file() else Path(name)
    if not path.is_file():
        raise ProbeError(
            f"{path}: the store that {directory} was fitted on is not there. Name it with --store."
        )
    return path


@dataclass(frozen=True)
class HeadData:
    """A head with the activations and targets it was fitted on."""

    head: Probe
    task: Task
    acts: NDArray[np.float32]
    """Activations of the head's cell, shape (n_examples, d_model)."""
    standardize: bool

    @classmethod
    def open(cls, directory: str | Path, head: Probe, store: str | Path | None = None) -> HeadData:
        """Read what `probekit fit` was given, from the store it names or from `store`.

        Raises
        ------
        ProbeError
            When the store is gone or is another one.
        StoreError
            When it cannot be read.
        """
        run = SweepRun.open(Path(directory))
        try:
            settings = run.record["provenance"]["fit"]["arguments"]
            settings["seed"], settings["n_boot"], settings["standardize"]
        except (KeyError, TypeError) as error:
            raise ProbeError(
                f"{directory}: does not say what it was fitted on ({error!r}). Fit again."
            ) from error
        path = store_of(directory, store)
        with ActivationStore.open(path) as source:
            if json.dumps(source.provenance, sort_keys=True) != json.dumps(
                head.provenance, sort_keys=True
            ):
                raise ProbeError(
                    f"{path}: is not the store that {directory} was fitted on. Name that one with "
                    "--store, or fit again."
                )
            task = Task.of(
                source.examples,
                seed=settings["seed"],
                n_boot=settings["n_boot"],
                stratify=settings.get("stratify"),
                group_cap=settings.get("group_cap", 0),  # an earlier version took all
                scale=settings.get("scale"),
            )
            return cls(
                head, _facing(task, head), source.read(head.cell), bool(settings["standardize"])
            )

    def with_distributions(self, head: Probe) -> Probe:
        """Return a head of the same cell with the choose split's scores under it."""
        distributions = score_distributions(self.task, head.score(self.acts))
        return dataclasses.replace(head, distributions=distributions)

    def disjoint(self) -> Probe:
        """Return a head of the same kind from groups that the head was not fitted on.

        Those of the choose and the report split. The choose split had a say in which cell it is.
        """
        splits = self.task.splits
        units = np.concatenate([splits.choose, splits.report])
        rows, target = self._rows(units)
        return self._fit(rows, target)

    def refit(self, outputs: Outputs, *, seed: int) -> Probe:
        """Return the head fitted again with outputs of the policy among the rejected.

        The rows are those of the fit split, so a refit is convex and cheap. Of pairs, every output
        is set against a chosen completion of the same prompt, else of the same class, else of any
        prompt; of labels it is class 0; of ratings it gets the lowest one. The penalty a row is kept.

        Parameters
        ----------
        outputs
            What the policy wrote.
        seed
            Seed of the choice of the chosen completions.
        """
        rows, target = self._rows(self.task.splits.fit)
        if self.task.kind == "pair":
            partners = self.acts[self._partners(outputs, np.random.default_rng(seed))]
            extra = partners - outputs.acts
            added = np.ones(len(extra))
        else:
            extra, added = outputs.acts, np.full(len(outputs.acts), -1.0)
        refitted = self._fit(
            np.concatenate([rows, extra.astype(np.float64)]), np.concatenate([target, added])
        )
        return self.with_distributions(refitted)

    def accuracy(self, head: Probe) -> float:
        """Return the head's primary metric on the choose split."""
        scores = head.score(self.acts)[:, None]
        return float(self.task.primary_values(scores, self.task.splits.choose)[0])

    @cached_property
    def typical(self) -> tuple[Array, Array, float]:
        """Mean (d_model,), precision (d_model, d_model) and root mean square distance: see `distance`."""
        from sklearn.covariance import LedoitWolf

        fit, held_back = (
            self._examples(units) for units in (self.task.splits.fit, self.task.splits.choose)
        )
        model = LedoitWolf().fit(self.acts[fit].astype(np.float64))
        mean, precision = model.location_, model.precision_
        scale = float(np.sqrt(_squared(self.acts[held_back], mean, precision).mean()))
        return mean, precision, scale

    def excess(self, acts: NDArray[np.float32]) -> Array:
        """Return how much further activations are than 95 % of the choose split's rows, shape (n,).

        0 for what is as near; NaN stays NaN.

        Parameters
        ----------
        acts
            Shape (n, d_model).
        """
        return np.maximum(self.distance(acts) - self._far, 0.0)

    @cached_property
    def _far(self) -> float:
        rows = self._examples(self.task.splits.choose)
        return float(np.quantile(self.distance(self.acts[rows]), NEAR))

    def distance(self, acts: NDArray[np.float32]) -> Array:
        """Return the Mahalanobis distance of activations from the fit split, shape (n,).

        With the Ledoit-Wolf covariance (d_model is often more than there are rows), in units of the
        root mean square distance of the choose split: 1 is as far as new rows of the data are.
        """
        mean, precision, scale = self.typical
        return np.asarray(np.sqrt(_squared(acts, mean, precision)) / scale)

    def standardised(self, acts: NDArray[np.float32]) -> Array:
        """Return activations from the mean of the fit split in its standard deviations, (n, d_model)."""
        rows = self.acts[self._examples(self.task.splits.fit)].astype(np.float64)
        spread = rows.std(axis=0)
        return np.asarray((acts - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0))

    def _rows(self, units: NDArray[np.int64]) -> tuple[Array, Array]:
        design = self.task.design(self.acts, units).astype(np.float64)
        return design, self.task.target[units]

    def _examples(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = self.task.rows[units]
        return np.concatenate([rows, rows + 1]) if self.task.kind == "pair" else rows

    def _partners(self, outputs: Outputs, rng: np.random.Generator) -> NDArray[np.int64]:
        fit, examples = self.task.splits.fit, self.task.examples
        rows = self.task.rows[fit]
        classes = examples.tags.get(outputs.tag, np.full(len(examples), ""))
        pools: dict[tuple[str, str], list[int]] = {}
        for row in rows:
            pools.setdefault(("group", str(examples.group[row])), []).append(int(row))
            if value := str(classes[row]):
                pools.setdefault(("class", value), []).append(int(row))
        every = [int(row) for row in rows]
        partners = []
        for group, tag in zip(outputs.groups, outputs.tags, strict=True):
            pool = pools.get(("group", group)) or pools.get(("class", tag)) or every
            partners.append(pool[int(rng.integers(len(pool)))])
        return np.array(partners)

    def _fit(self, design: Array, target: Array) -> Probe:
        """Fit a head of the same kind to rows (differences, for pairs) at the same penalty a row."""
        head = self.head
        l2 = (head.l2 or 1.0) * len(design) / len(self.task.splits.fit)
        zeros = np.zeros_like(design)
        if head.kind == "bradley-terry":
            probe: Any = BradleyTerryProbe(
                l2, head=head.head or "linear", standardize=self.standardize
            ).fit(design, zeros)
        elif head.kind == "ridge":
            probe = RidgeProbe(l2, standardize=self.standardize, scale_target=False).fit(
                design, target
            )
        elif head.kind == "logistic":
            probe = LogisticProbe(l2, standardize=self.standardize).fit(design, target)
        elif self.task.kind == "pair":
            coef, bias = calibrate(design @ design.mean(0), target, design.mean(0), intercept=False)
            return self._copy(coef, bias)
        else:
            probe = MeanDifferenceProbe().fit(design, target)
        return self._copy(probe.coef_, float(probe.intercept_))

    def _copy(self, coef: Array, bias: float) -> Probe:
        return dataclasses.replace(
            self.head, coef=np.asarray(coef), bias=float(bias), metrics={}, distributions={}
        )


def _facing(task: Task, head: Probe) -> Task:
    """Return the task with its classes in the head's order, and the splits as they are."""
    examples = task.examples
    if examples.label is None or head.classes == examples.classes:
        return task
    mirrored = dataclasses.replace(examples, classes=head.classes, label=1 - examples.label)
    return dataclasses.replace(task, examples=mirrored)


def _squared(acts: NDArray[np.float32], mean: Array, precision: Array) -> Array:
    gap = acts.astype(np.float64) - mean
    return np.asarray(np.einsum("ij,ij->i", gap @ precision, gap))
