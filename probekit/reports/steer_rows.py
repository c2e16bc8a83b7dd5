"""What a steering run left on disk, as plain values: its figures and tables are functions of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from probekit.reports.rows import NO_VALUE, Metric, Metrics

BASELINE = "none"
"""Direction of the unsteered condition."""
PROBE = "probe"
"""Direction of the steered condition."""
RANDOM = "random-"
"""How the name of every random control starts; directions of other layers have other names."""


@dataclass(frozen=True)
class SteerProbe:
    """The probe whose direction is steered along, or that reads the score."""

    path: str
    kind: str
    head: str | None
    site: str
    layer: int
    position: str
    data_kind: str
    classes: tuple[str, str] | None
    score_range: tuple[float, float] | None
    metric_name: str
    metric: Metric
    """Held-out metric of the probe; no value where none was recorded."""


@dataclass(frozen=True)
class Measure:
    """One number that is taken from completions."""

    name: str
    label: str
    unit: str
    group: str
    """`effect`, `layers`, `behaviour` or `damage`."""
    layer: int | None = None


@dataclass(frozen=True)
class Condition:
    """What every measure is under one direction at one coefficient."""

    direction: str
    mode: str
    coeff: float
    """Mean residual norms; nan for the ablated model."""
    n: int
    values: Metrics
    differences: Metrics = field(default_factory=dict)
    """Each measure minus the unsteered, paired over prompts; empty where it was not recorded."""

    @property
    def ablated(self) -> bool:
        """Whether the direction is projected out instead of steered along."""
        return self.mode == "ablate"

    def value(self, measure: str) -> Metric:
        """Return a measure; no value where it was not taken."""
        return self.values.get(measure, NO_VALUE)


@dataclass(frozen=True)
class Change:
    """A slope or a difference with what random directions gave for the same."""

    metric: Metric = NO_VALUE
    random: tuple[float, ...] = ()
    p: float = math.nan
    coeffs: tuple[float, ...] = ()
    """Doses the slope was fitted on; empty for a difference."""

    @property
    def controls(self) -> list[float]:
        """Random directions that have a value."""
        return [value for value in self.random if not math.isnan(value)]

    @property
    def as_large(self) -> int:
        """How many random directions change at least as much, whatever their sign."""
        return sum(abs(value) >= abs(self.metric.value) for value in self.controls)


@dataclass(frozen=True)
class Usable:
    """The doses at which the text is still taken for text."""

    low: float
    high: float
    coeffs: tuple[float, ...]
    bound: float
    reasons: dict[str, str]
    """Coefficient, as it is written in the file, to why it is not usable."""


@dataclass(frozen=True)
class RankedLayer:
    """What one layer's direction predicts, does, and costs."""

    layer: int
    metric: Metric
    effect: Metric
    damage: Metric
    ratio: Metric
    """Effect over the root of the damage."""
    rank: int | None
    steered: bool


@dataclass(frozen=True)
class Ranking:
    """Layers by what steering them does, beside what their probes predict."""

    coeff: float
    metric: str
    measure: str
    rows: list[RankedLayer]
    spearman: Metric
    prompts: int | None = None
    """How many prompts it was run on, where they were fewer than all."""

    @property
    def first(self) -> RankedLayer | None:
        """The layer of rank 1, None where its effect for its damage may be 0."""
        known = [row for row in self.rows if row.ratio.has_interval and row.rank is not None]
        best = min(known, key=lambda row: row.rank or 0, default=None)
        return None if best is None or best.ratio.low <= 0 <= best.ratio.high else best


@dataclass(frozen=True)
class Judge:
    """The model that judged completions, and how often it answered."""

    url: str
    model: str
    asked: int
    answered: int
    failed: int
    agreement: Metric


@dataclass(frozen=True)
class Reference:
    """Scores of the probe's own data: a named mean with its standard deviation."""

    name: str
    mean: float
    sd: float


@dataclass(frozen=True)
class Completion:
    """One completion under one condition."""

    direction: str
    mode: str
    coeff: float
    prompt_id: str
    sample: int
    prompt: str
    text: str
    n_tokens: int
    finished: bool
    score: float
    category: str | None
    judge: str | None


@dataclass(frozen=True)
class Steer:
    """Everything the steering report shows."""

    probe: SteerProbe
    source: str
    layers: list[int]
    norms: dict[int, float]
    mode: str
    where: str
    coeffs: list[float]
    n: dict[str, int]
    measures: list[Measure]
    conditions: list[Condition]
    doses: dict[str, Change]
    """Change of each measure per unit coefficient; empty where nothing but ablation was run."""
    ablation: dict[str, Change]
    """Ablated minus unsteered; empty where the direction was not ablated."""
    usable: Usable
    completions: list[Completion]
    rerank: Ranking | None = None
    judge: Judge | None = None
    reference: list[Reference] = field(default_factory=list)
    seed: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    """`max_new_tokens`, `temperature` and `top_p`."""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> Condition:
        """The unsteered model."""
        return next(item for item in self.conditions if item.direction == BASELINE)

    @property
    def ablate_only(self) -> bool:
        """Whether there are no doses: the direction was only projected out."""
        return self.mode == "ablate"

    @property
    def controls(self) -> list[str]:
        """Names of the random directions, in the order they first appear."""
        names = dict.fromkeys(item.direction for item in self.conditions)
        return [name for name in names if name.startswith(RANDOM)]

    @property
    def own_direction(self) -> bool:
        """Whether the model is steered along the direction of probes, not one from elsewhere."""
        return self.source == "probe" or " probe at " in self.source

    @property
    def slopes_on_all(self) -> bool:
        """Whether slopes are fitted on doses beyond the usable ones, which were too few."""
        return bool(set(self.change("score").coeffs) - set(self.usable.coeffs))

    def measure(self, name: str) -> Measure | None:
        """Return a measure by its name, None where it was not taken."""
        return next((item for item in self.measures if item.name == name), None)

    def grouped(self, *groups: str) -> list[Measure]:
        """Return the measures of the groups, in the order of the file."""
        return [item for item in self.measures if item.group in groups]

    def curve(self, direction: str) -> list[Condition]:
        """Return a direction's conditions by coefficient, the unsteered model at 0."""
        found = [item for item in self.conditions if item.direction == direction]
        doses = [item for item in found if not item.ablated]
        if 0.0 not in [item.coeff for item in doses]:
            doses.append(self.baseline)
        return sorted(doses, key=lambda item: item.coeff)

    def ablated(self, direction: str) -> Condition | None:
        """Return the condition with a direction projected out, None where it was not run."""
        found = (c for c in self.conditions if c.direction == direction and c.ablated)
        return next(found, None)

    def change(self, name: str) -> Change:
        """Return a measure's slope; its difference under ablation where there are no doses."""
        return (self.ablation if self.ablate_only else self.doses).get(name, Change())


def span(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the lowest and highest known value, None where there is none."""
    known = [value for value in values if not math.isnan(value)]
    return (min(known), max(known)) if known else None


def steered_ends(steer: Steer) -> tuple[float, float]:
    """Return the lowest and the highest usable dose, 0 where one side has none."""
    if steer.ablate_only:
        return 0.0, 0.0
    return min((0.0, *steer.usable.coeffs)), max((0.0, *steer.usable.coeffs))
