"""What a study left on disk, as plain values: its figures, tables and sentences are functions of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from probekit.reports.dynamics_rows import Dynamics
from probekit.reports.rl_rows import RATE, RLRun
from probekit.reports.rows import Metric, Sweep
from probekit.reports.steer_rows import Steer

CLASS, NAME = "class", "name"
REAL, INVENTED = "real", "invented"
CLASSES = (INVENTED, REAL)
HEDGES = ("hedges", "refuses")
"""Categories of an answer that does not claim to know."""
ANSWERS = ("answers",)


class Rate(NamedTuple):
    """One of the four rates that the study follows."""

    label: str
    known_as: str
    """The name in the work that is reproduced."""
    value: str
    """Class of the prompts."""
    categories: tuple[str, ...]

    @property
    def part(self) -> str:
        """The part of an evaluation that it is taken over."""
        return f"{CLASS}={self.value}"

    @property
    def measure(self) -> str:
        """The measure of a completion that it averages."""
        return RATE + ",".join(self.categories)


HEDGE_INVENTED = Rate("hedges or refuses about invented names", "", INVENTED, HEDGES)
REFUSES_FAKE = Rate("of these, refuses", "refuses_fake", INVENTED, ("refuses",))
FAKE_HEDGE = Rate("of these, hedges", "fake_hedge", INVENTED, ("hedges",))
ANSWER_INVENTED = Rate("answers about invented names", "fake_substantive", INVENTED, ANSWERS)
ANSWER_REAL = Rate("answers about real names", "answers_real", REAL, ANSWERS)
HEDGE_REAL = Rate("hedges or refuses about real names", "", REAL, HEDGES)
RATES = (HEDGE_INVENTED, ANSWER_INVENTED, ANSWER_REAL, HEDGE_REAL)
PUBLISHED_RATES = (
    HEDGE_INVENTED, REFUSES_FAKE, FAKE_HEDGE, ANSWER_INVENTED, ANSWER_REAL, HEDGE_REAL,
)  # fmt: skip
"""The same with the first in its two parts, as it was published."""
PARTS = (HEDGE_INVENTED.part, HEDGE_REAL.part)
"""Between which the separation of hedging is: it is 0 where names make no difference."""


class Published(NamedTuple):
    """A row of the published table: scores, and the share of pairs that are right."""

    chosen: float
    rejected: float
    margin: float
    pair_accuracy: float


PUBLISHED = {
    REAL: Published(2.08, 0.36, 1.73, 1.0),
    INVENTED: Published(1.88, 0.50, 1.38, 1.0),
}
"""Of Qwen3-8B and a projection head."""
PUBLISHED_MODEL = "Qwen3-8B"


class Stage(NamedTuple):
    """A command of the study."""

    name: str
    argv: tuple[str, ...]
    seconds: float
    state: str


class Pair(NamedTuple):
    """A pair row of the elicited data."""

    prompt: str
    chosen: str
    rejected: str
    group: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Elicitation:
    """The pairs and how they were made."""

    pairs: Sequence[Pair]
    drops: Mapping[str, Mapping[str, int]]
    """Of each variant, completions kept and dropped, by reason."""
    leaks: Mapping[str, Mapping[str, Metric]]
    """`all` and every class to feature to accuracy; no value where there were too few groups."""
    recipe: Mapping[str, Any]
    familiarity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of each class, prompts kept (`n_kept`) of how many (`n`) for how well the model knows their names;
    empty where the recipe asks nothing."""
    known: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of each class of which the recipe asks it, names kept (`n_kept`) of how many (`n`) because enough
    answers tell the fact."""
    told_by_words: int = 0
    """Pairs taken out because words alone told their sides."""


class Answer(NamedTuple):
    """A completion of a question from outside the training distribution."""

    id: str
    group: str
    value: str
    """Its class."""
    topic: str
    category: str

    def within(self, categories: Sequence[str]) -> float:
        """Return 1 where it is in one of the categories, else 0."""
        return float(self.category in categories)


class Size(NamedTuple):
    """How many prompts about how many names there are."""

    prompts: int
    names: int


@dataclass(frozen=True)
class Study:
    """Everything the report of a study shows; None or empty where a stage left nothing."""

    path: Path
    record: Mapping[str, Any]
    """study.json."""
    stages: Sequence[Stage]
    elicitation: Elicitation | None = None
    linear: Sweep | None = None
    projection: Sweep | None = None
    dynamics: Dynamics | None = None
    steer: Steer | None = None
    arms: Sequence[RLRun] = ()
    before: Sequence[Answer] = ()
    after: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    """Name of an RL run to its answers."""
    sizes: Mapping[str, Size] = field(default_factory=dict)
    """`train` and `held_out`."""
    shared: int = 0
    """Names that are in both, which there should not be."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Directory of a stage that left nothing, to what is known of it."""

    @property
    def model(self) -> str:
        """The model's name for a sentence."""
        return str(self.record.get("model") or "a model").rstrip("/").rsplit("/", 1)[-1]

    @property
    def seed(self) -> int:
        """The study's seed, from which examples are drawn."""
        seed = self.record.get("seed")
        return seed if isinstance(seed, int) and seed >= 0 else 0

    @property
    def evaluated(self) -> list[RLRun]:
        """RL runs with at least two evaluations, which can be compared."""
        return [run for run in self.arms if run.compared]

    @property
    def main(self) -> RLRun | None:
        """The last of them: the arm of which texts and topics are shown."""
        return self.evaluated[-1] if self.evaluated else None
