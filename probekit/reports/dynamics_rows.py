"""Read back what `probekit dynamics` wrote, as typed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probekit.reports.dynamics import dynamics_words
from probekit.reports.output import Kind, json_number
from probekit.reports.rows import Metric
from probekit.results import dynamics

KIND = Kind("dynamics", "a head dynamics analysis", "dynamics.json", "probekit.dynamics", 1)
NAMES = {
    "direct": "direct vector",
    "projection": "projection",
    "rescaled": "rescaled vector (predicted)",
    "small-start": "direct, projection's start",
    "standardised": "direct, standardised",
}
"""Parametrisations in the order they are drawn."""
TITLES = {"adamw": "AdamW", "sgd": "SGD"}


@dataclass(frozen=True)
class DynamicsRun:
    """One training run; curves have a value for each recorded step."""

    parametrisation: str
    optimizer: str
    learning_rate: float
    seed: int
    loss: list[float]
    choose_loss: list[float]

    @classmethod
    def of(cls, row: dict[str, Any]) -> DynamicsRun:
        """Read a row of `runs.jsonl`."""
        return cls(
            str(row["parametrisation"]),
            str(row["optimizer"]),
            float(row["learning_rate"]),
            int(row["seed"]),
            [json_number(value) for value in row["loss"]],
            [json_number(value) for value in row["choose_loss"]],
        )

    def curve(self, measure: str) -> list[float]:
        """Return `loss` or `choose_loss`."""
        return self.loss if measure == "loss" else self.choose_loss


@dataclass(frozen=True)
class Dynamics:
    """An analysis as it lies on disk."""

    value: dict[str, Any]
    """`dynamics.json`."""
    runs: Sequence[DynamicsRun]

    @property
    def optimizers(self) -> list[str]:
        """Optimisers in the order they were named."""
        return list(self.value["findings"])

    @property
    def steps(self) -> list[int]:
        """The recorded steps."""
        return [int(step) for step in self.value["steps"]]

    def findings(self, optimizer: str) -> dict[str, Any]:
        """Return the findings of an optimiser."""
        return dict(self.value["findings"][optimizer])

    def of(self, optimizer: str, name: str) -> list[DynamicsRun]:
        """Return the runs of a parametrisation."""
        return [r for r in self.runs if (r.optimizer, r.parametrisation) == (optimizer, name)]

    def rate(self, optimizer: str, name: str, *, same: bool) -> float:
        """Return the best learning rate, or the one at which projection and vector differ most."""
        findings = self.findings(optimizer)
        found = findings["contrast"] if same else findings["parametrisations"][name]
        return float(found["learning_rate"])

    def curve(self, optimizer: str, name: str, measure: str, *, same: bool) -> list[Metric]:
        """Return mean and range over seeds at every recorded step, at that `rate`."""
        rate = self.rate(optimizer, name, same=same)
        own = [r.curve(measure) for r in self.of(optimizer, name) if r.learning_rate == rate]
        return [over_seeds(values) for values in zip(*own, strict=True)]

    def last(self, optimizer: str, name: str, measure: str) -> tuple[list[float], list[Metric]]:
        """Return the grid and mean and range over seeds of the last loss on it."""
        own = self.of(optimizer, name)
        rates = sorted({run.learning_rate for run in own})
        return rates, [
            over_seeds([run.curve(measure)[-1] for run in own if run.learning_rate == rate])
            for rate in rates
        ]


def over_seeds(values: Sequence[float]) -> Metric:
    """Return mean, least and most."""
    return Metric(sum(values) / len(values), min(values), max(values))


def load_dynamics(directory: Path) -> Dynamics:
    """Read the output of `probekit dynamics`.

    Raises
    ------
    ProbeError
        When the directory is not one, is partial or damaged, or is of a newer probekit.
    """
    words = dynamics_words(dynamics.DynamicsRun.open(directory))
    value = {**KIND.read(directory), "conclusion": words}
    runs = KIND.read_rows(directory / "runs.jsonl", DynamicsRun.of, "run")
    path = directory / KIND.file
    found = Dynamics(value, runs)
    KIND.whole(path, lambda: _check(found))
    return found


def _check(found: Dynamics) -> None:
    """Touch everything a report needs, so that a damaged file is one line and no page."""
    for key in (
        "conclusion",
        "exact",
        "geometry",
        "mechanism",
        "n",
        "config",
        "provenance",
        "layer",
    ):
        found.value[key]
    rates = len(found.value["config"]["learning_rates"])
    for optimizer in found.optimizers:
        for name in NAMES:
            seeds = found.findings(optimizer)["parametrisations"][name]["seeds"]
            if (runs := len(found.of(optimizer, name))) != rates * seeds:
                raise ValueError(f"{runs} runs of {name} under {optimizer}, not {rates * seeds}")
            for measure in ("loss", "choose_loss"):
                for same in (True, False):
                    if len(found.curve(optimizer, name, measure, same=same)) != len(found.steps):
                        raise ValueError(f"{name} under {optimizer} has no value for every step")
