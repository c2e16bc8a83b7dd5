"""What `probekit dynamics` leaves: a trained vector a row, findings of each optimiser, a conclusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator
from typing_extensions import TypedDict

from probekit.errors import ProbeError
from probekit.results.runs import Run
from probekit.results.table import Document, Table, numbers

if TYPE_CHECKING:
    import pandas as pd

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD"}
CURVES = ("loss", "accuracy", "choose_loss", "choose_accuracy")
"""What is measured at every recorded step, on the fit split and on the choose split."""
Curve = list[Annotated[float, BeforeValidator(lambda value: math.inf if value is None else value)]]
"""A value for each recorded step; null, the loss of a run that left the numbers, is read as infinite."""


class TrainedVector(TypedDict):
    """One training run."""

    parametrisation: str
    optimizer: str
    learning_rate: float
    """On the grid."""
    own_learning_rate: float
    """What the optimiser was given: another one for `rescaled`."""
    seed: int
    loss: Curve
    """Mean softplus(-margin) over the fit split, nats."""
    accuracy: Curve
    choose_loss: Curve
    """The same over the choose split, which nothing is trained on."""
    choose_accuracy: Curve


class DynamicsRecord(TypedDict):
    """What dynamics.json holds; see docs/formats.md."""

    site: str
    layer: int
    position: str
    config: dict[str, Any]
    n: dict[str, int]
    steps: list[int]
    exact: Annotated[list[dict[str, Any]], numbers("name")]
    geometry: dict[str, dict[str, float]]
    mechanism: dict[str, dict[str, float]]
    findings: Annotated[dict[str, dict[str, Any]], numbers()]
    """Findings of each optimiser: see `probekit.analyses.windows.optimizer_findings`."""
    conclusion: Annotated[dict[str, Any], numbers("optimizer", "finding", "standardising")]
    """Keys and numbers: see `probekit.analyses.conclusion.conclude`."""
    provenance: dict[str, Any]


WORDS = "a head dynamics analysis"
RUNS = Table("runs.jsonl", TrainedVector, "a run")


@dataclass(frozen=True, repr=False)
class DynamicsRun(Run):
    """A head dynamics analysis."""

    DOCUMENT = Document("dynamics", WORDS, "dynamics.json", "probekit.dynamics", 1, DynamicsRecord)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a trained vector; its curves are lists with a value for each recorded step."""
        path, n_rates = self.directory / RUNS.file, len(self.record["config"]["learning_rates"])
        rows = RUNS.read(self.directory, self.DOCUMENT.again)
        counts = rows.value_counts(["optimizer", "parametrisation"])
        for optimizer, findings in self.record["findings"].items():
            for name, best in findings["parametrisations"].items():
                n, expected = counts.get((optimizer, name), 0), n_rates * best["seeds"]
                if n != expected:
                    raise ProbeError(
                        f"{path}: got {n} runs of {name} under {optimizer}, expected {expected}. "
                        f"{self.DOCUMENT.again}"
                    )
        steps = len(self.record["steps"])
        if not rows[list(CURVES)].map(len).eq(steps).all(axis=None):
            raise ProbeError(
                f"{path}: got a curve of another length, expected {steps} values, one for each "
                f"recorded step. {self.DOCUMENT.again}"
            )
        return rows

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a measure, learning rate and step: mean over starts, with the least and the most."""
        keys = ["optimizer", "parametrisation", "learning_rate", "step", "measure"]
        rows = self.rows.assign(step=[self.record["steps"]] * len(self.rows))
        values = rows.explode(["step", *CURVES]).melt(keys[:4], CURVES, "measure")
        groups = values.astype({"value": float}).groupby(keys, sort=False)["value"]
        return groups.agg(value="mean", low="min", high="max").reset_index()
