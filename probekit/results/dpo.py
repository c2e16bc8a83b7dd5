"""What `probekit dpo` leaves: held-out pairs before and after training, and the steps between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired

import numpy as np
from typing_extensions import TypedDict

from probekit.results import paired
from probekit.results.findings import BELOW, Finding, against
from probekit.results.intervals import Array, Interval
from probekit.results.measures import measure, measures
from probekit.results.runs import Run
from probekit.results.table import Document, Table

if TYPE_CHECKING:
    import pandas as pd

WHEN = ("before", "after", "change")
FEW_GROUPS = 20
"""Fewer held-out groups show large changes only."""
OF_REWARDS = ("accuracy", "margin")
"""Measures whose value before is known, and not estimated: all rewards are 0."""
DISPLACEMENT = "displacement"
"""Key of a finding: chosen and rejected completions both became less likely."""


class HeldOutPair(TypedDict):
    """A held-out pair: log-probabilities of both completions given the prompt, in nats."""

    id: str
    group: str
    tags: dict[str, str]
    n_chosen: int
    n_rejected: int
    """Tokens of the completions, with the end of the turn where it was not cut off."""
    chosen_before: float
    rejected_before: float
    chosen_after: float
    rejected_after: float


class DPOStep(TypedDict):
    """A training step: TRL's measures of its pairs, before its update."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    accuracy: float
    margin: float
    reward_chosen: float
    reward_rejected: float
    chosen: float
    rejected: float
    entropy: float


class DPORecord(TypedDict):
    """Keys of run.json that readers need."""

    command: str
    seed: int | None
    settings: dict[str, Any]
    labels: NotRequired[dict[str, str]]
    data: dict[str, Any]
    n_train: int
    n_held_out: int
    n_trainable: int
    n_cut: int
    left_out: dict[str, int]
    steps: int


DOCUMENT = Document("dpo", "training on preferences", "run.json", None, 1, DPORecord)
HELD_OUT = Table("held_out.jsonl", HeldOutPair, "a held-out pair", spread={"tags": "tag:"})
HISTORY = Table("history.jsonl", DPOStep, "a training step")
ADAPTER = "adapter"
"""Folder of the adapter in the run's directory."""


@dataclass(frozen=True, repr=False)
class DPORun(Run):
    """A model before and after training on preferences; intervals are over groups of held-out pairs."""

    DOCUMENT: ClassVar[Document] = DOCUMENT

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a held-out pair, with columns `tag:NAME`."""
        return HELD_OUT.read(self.directory, DOCUMENT.again, int(self.record["n_held_out"]))

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row a training step."""
        return HISTORY.read(self.directory, DOCUMENT.again)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a measure: `when` (before, after, change), `measure`, `value`, `low`, `high`."""
        import pandas as pd

        rows = [
            (when, name, *value)
            for name, values in self.measured.items()
            for when, value in zip(WHEN, values, strict=True)
        ]
        return pd.DataFrame(rows, columns=["when", "measure", *Interval._fields])

    @cached_property
    def measured(self) -> dict[str, tuple[Interval, Interval, Interval]]:
        """Every measure before and after, and its paired change."""
        groups, found = self.rows["group"].to_numpy(), {}
        for name, (before, after) in self.values.items():
            share = measure("dpo", name).share
            level = paired.mean(groups, after, share=share)
            if name in OF_REWARDS:
                known = float(before[0])
                found[name] = (Interval(known, known, known), level, _minus(level, known))
            else:
                change = paired.change(groups, before, after, share=share)
                found[name] = (paired.mean(groups, before, share=share), level, change)
        return found

    @cached_property
    def values(self) -> dict[str, tuple[Array, Array]]:
        """Every measure of every held-out pair, before and after, shape (n_held_out,) each."""
        rows, sides = self.rows, ("before", "after")
        chosen, rejected = (
            [rows[f"{side}_{when}"].to_numpy(float) for when in sides]
            for side in ("chosen", "rejected")
        )
        n_chosen, n_rejected = (rows[f"n_{s}"].to_numpy(float) for s in ("chosen", "rejected"))
        per_token = [c / n_chosen - r / n_rejected for c, r in zip(chosen, rejected, strict=True)]
        gap = [c - r for c, r in zip(chosen, rejected, strict=True)]
        margin = [float(self.record["settings"]["beta"]) * (now - gap[0]) for now in gap]
        found = {
            "accuracy": [_right(m) for m in margin],
            "margin": margin,
            "chosen": chosen,
            "rejected": rejected,
            "preference": [_right(g) for g in gap],
            "preference_per_token": [_right(g) for g in per_token],
        }
        return {name: (found[name][0], found[name][1]) for name in measures("dpo")}

    @property
    def findings(self) -> list[Finding]:
        """Where the change of each measure lies against 0."""
        return [against(name, name, change, 0.0) for name, (*_, change) in self.measured.items()]

    @property
    def warnings(self) -> list[str]:
        """Keys of what makes the result doubtful, `displacement` among them."""
        keys = {finding.id: finding.key for finding in self.findings}
        holds = {
            DISPLACEMENT: keys["chosen"] == keys["rejected"] == BELOW,
            "few groups": self.rows["group"].nunique() < FEW_GROUPS,
        }
        return [key for key, is_so in holds.items() if is_so]


def _minus(value: Interval, known: float) -> Interval:
    return Interval(*(end - known for end in value))


def _right(gap: Array) -> Array:
    """Return 1 where the chosen side is ahead, 0 where it is behind, a half where they are even; (n,)."""
    return np.asarray((np.sign(gap) + 1) / 2)
