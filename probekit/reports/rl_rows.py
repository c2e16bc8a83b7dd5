"""What an RL run left on disk, as plain values: its figures and tables are functions of these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from probekit.reports.rows import NO_VALUE, Metric, Metrics

ALL = "all"
"""Part of an evaluation that holds every held-out prompt; the others are `TAG=VALUE`."""
HEAD, RATE = "head:", "rate:"
"""How the names of a head's score and of a category's rate start."""


@dataclass(frozen=True)
class Sample:
    """One completion of a held-out prompt at one evaluation."""

    step: int
    prompt_id: str
    prompt: str
    text: str
    tags: dict[str, str]
    category: str | None
    values: dict[str, float]
    """Every number recorded of it by name, heads as `head:NAME`; nan for null."""

    def value(self, measure: str) -> float:
        """Return what an evaluation averages over completions; nan where it was not recorded.

        `rate:NAME,NAME` is whether the completion is in one of the categories.
        """
        if measure.startswith(RATE):
            return float(self.category in measure.removeprefix(RATE).split(","))
        return self.values.get(measure, math.nan)

    def within(self, part: str) -> bool:
        """Return whether the completion belongs to a part of the evaluation."""
        if part == ALL:
            return True
        tag, _, value = part.partition("=")
        return self.tags.get(tag, "") == value


@dataclass(frozen=True)
class Evaluation:
    """Every measure after a number of training steps, by part."""

    step: int
    parts: dict[str, Metrics]
    alarms: list[str] = field(default_factory=list)

    def value(self, measure: str, part: str = ALL) -> Metric:
        """Return a measure; no value where it was not taken."""
        return self.parts.get(part, {}).get(measure, NO_VALUE)

    @property
    def root_kl(self) -> float:
        """Root of the mean divergence from the frozen model per token."""
        kl = self.value("kl").value
        return math.sqrt(max(0.0, kl)) if math.isfinite(kl) else math.nan


class Refit(NamedTuple):
    """A new fit of the optimised head on outputs of the policy."""

    n_outputs: float
    n_wanted_left_out: float
    accuracy: float
    cosine: float
    """Of the new direction with the one before, mean over heads."""


@dataclass(frozen=True)
class Step:
    """A training step."""

    step: int
    values: dict[str, float]
    alarms: list[str]
    refit: Refit | None


class Point(NamedTuple):
    """An evaluation on the Goodhart curve, as changes from the first one."""

    step: int
    root_kl: float
    score: Metric
    independent: Metric
    behaviour: Metric


@dataclass(frozen=True)
class Curve:
    """The Goodhart curve and its verdict."""

    points: list[Point]
    sweet_spot: int | None
    verdict: str
    evidence: list[str]


@dataclass(frozen=True)
class RLRun:
    """Everything the report of an RL run shows."""

    name: str
    """What it is called beside other runs."""
    path: Path
    record: dict[str, Any]
    """run.json."""
    steps: list[Step]
    evaluations: list[Evaluation]
    samples: list[Sample]
    optimised: list[str]
    """Names of the heads whose score is the reward."""
    behaviour: str | None
    """The wanted behaviour, in words or as the name of a category."""
    chosen: dict[str, list[float]]
    """Scores that the target aims at, by value of its tag; all of them under the empty name."""
    chosen_tag: str | None
    curve: Curve | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> Evaluation:
        """The evaluation before training."""
        return self.evaluations[0]

    @property
    def last(self) -> Evaluation:
        """The last evaluation."""
        return self.evaluations[-1]

    @property
    def compared(self) -> bool:
        """Whether there are two evaluations to compare."""
        return len(self.evaluations) > 1

    @property
    def done(self) -> int:
        """Training steps that were done."""
        return max([row.step for row in self.steps[-1:]] + [e.step for e in self.evaluations[-1:]],
                   default=0)  # fmt: skip

    @property
    def planned(self) -> int:
        """Training steps that were asked for."""
        return int(self.settings.get("steps") or self.done)

    @cached_property
    def parts(self) -> list[str]:
        """Parts of the evaluations, all prompts first."""
        names = dict.fromkeys(part for item in self.evaluations for part in item.parts)
        return sorted(names, key=lambda part: part != ALL)

    @cached_property
    def measures(self) -> list[str]:
        """Measures of the evaluations, in the order they first appear."""
        return list(dict.fromkeys(name for item in self.evaluations for name in item.parts[ALL]))

    @property
    def wanted(self) -> str | None:
        """The measure that says how often the wanted behaviour is shown; None without one."""
        if "wanted" in self.measures:
            return "wanted"
        name = f"{RATE}{self.behaviour}"
        return name if name in self.measures else None

    @property
    def independent(self) -> list[str]:
        """Measures that read the score with heads that nothing optimises."""
        heads = [name for name in self.measures if name.startswith(HEAD)]
        found = [name for name in heads if name.removeprefix(HEAD) not in self.optimised]
        return [*found, *(["disjoint"] if "disjoint" in self.measures else [])]

    @property
    def refitted(self) -> list[int]:
        """Training steps before which heads were fitted again."""
        return [row.step for row in self.steps if row.refit is not None]

    @property
    def alarms(self) -> list[tuple[int, str]]:
        """Every alarm of a training step or of an evaluation, with its step."""
        rows: list[Step | Evaluation] = [*self.steps, *self.evaluations]
        return sorted((row.step, alarm) for row in rows for alarm in row.alarms)

    def prompts(self, part: str = ALL) -> int:
        """Return how many held-out prompts an evaluation has."""
        return len({
            row.prompt_id for row in self.samples
            if row.step == self.evaluations[0].step and row.within(part)
        })  # fmt: skip

    @property
    def completions(self) -> int:
        """Completions of each evaluation."""
        return len(self.at_step.get(self.first.step, {}))

    @cached_property
    def at_step(self) -> dict[int, dict[tuple[str, int], Sample]]:
        """Samples of every evaluation by prompt and place among the prompt's completions."""
        found: dict[int, dict[tuple[str, int], Sample]] = {}
        seen: dict[tuple[int, str], int] = {}
        for row in self.samples:
            place = seen.get((row.step, row.prompt_id), 0)
            seen[row.step, row.prompt_id] = place + 1
            found.setdefault(row.step, {})[row.prompt_id, place] = row
        return found

    def target_scores(self, part: str = ALL) -> list[float]:
        """Return the chosen scores that the target has for a part: those of its value, or all."""
        tag, _, value = part.partition("=")
        if part != ALL and tag == self.chosen_tag and self.chosen.get(value):
            return self.chosen[value]
        return self.chosen.get("", [])
