"""The study `knowledge-awareness`: rates by class of names, what moved, and the published claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from probekit.errors import ProbeError
from probekit.results import paired
from probekit.results.findings import ABOVE, BELOW, INCLUDES, standing
from probekit.results.intervals import NO_VALUE, Interval
from probekit.results.rl import FEW_PROMPTS, RLRun
from probekit.results.study import DOCUMENT, StudyRun
from probekit.results.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from probekit.results.sweep import SweepRun

CLASSES = INVENTED, REAL = "invented", "real"
ABOUT = {value: f"class={value}" for value in CLASSES}
"""Class to the part of an evaluation that asks about it."""
APART = (ABOUT[INVENTED], ABOUT[REAL])
"""The parts between which hedging has its separation: 0 where a name makes no difference."""
HEDGES, ANSWERS = "rate:hedges,refuses", "rate:answers"
ORDER = ("before", "max-unbalanced", "max", "chosen", "refits")
"""Order in which RL runs and their answers are shown; those of other names come after."""
MOST = 8
"""RL runs that are shown."""
FEWEST = 5
"""With fewer held-out prompts of a class nothing is concluded."""
DENIED = 0.5
"""Hedging about more than this share of the real names is called denying them."""
SHORTER, CUT = 0.5, 0.5
"""Answers of less than this share of their first length, and this share of them cut, are limitations."""
KEPT = 0.9
"""Entropy, or answers about real names, are kept at this share of the start."""
SINGLE = ("elicit", "fit", "projection", "dynamics", "steer")
"""Stages with one output."""


Tags = TypedDict("Tags", {"class": str, "category": str, "topic": NotRequired[str]})


class AnswerRow(TypedDict):
    """A completion of a question from outside the training distribution."""

    id: str
    group: str
    tags: Tags


ANSWER = ["id", "group", "class", "category", "topic"]
"""Columns of such a completion."""


class PromptRow(TypedDict):
    """A prompt of RL."""

    group: str


class Outside(NamedTuple):
    """A rate before and after training, over completions that are there at both times."""

    n: int
    before: Interval
    after: Interval
    change: Interval


class Claim(NamedTuple):
    """A claim of the published work, by what was measured here."""

    id: str
    key: str = "not run"
    """`above` its bar (reproduced), `below` it (not reproduced), neither, or `not run`."""
    value: Interval = NO_VALUE
    run: str = ""
    parts: Mapping[str, Interval] = {}
    rivals: Sequence[str] = ()
    """Controls that the head does not lie above."""


@dataclass(frozen=True)
class KnowledgeAwareness:
    """What the study found, as far as it got.

    Parameters
    ----------
    study
        Its stages.
    """

    study: StudyRun

    @cached_property
    def single(self) -> dict[str, Any]:
        """Runs of the stages with one output, None where it is not whole."""
        runs = {name: self.study.runs.get(name) for name in SINGLE}
        for run in filter(None, (runs["fit"], runs["projection"])):
            if run.record["data_kind"] != "pair":
                raise ProbeError(
                    f"{run.directory}: is a fit of {run.record['data_kind']} data, expected one of "
                    f"pairs. {DOCUMENT.again}"
                )
        return runs

    @cached_property
    def heads(self) -> dict[str, SweepRun]:
        """The fits by the name of their head: `linear`, then `projection`."""
        fits = filter(None, (self.single["fit"], self.single["projection"]))
        return {str(fit.record["chosen"]["head"]): fit for fit in fits}

    def names(self, fit: SweepRun) -> dict[str, int]:
        """Return how many held-out names of each class a fit is reported on."""
        rows = fit.rows.reindex(columns=["tag:class", "group"]).drop_duplicates()
        return {value: int(n) for value, n in rows.groupby("tag:class").size().items()}

    @cached_property
    def arms(self) -> dict[str, RLRun]:
        """RL runs by name, those of the study first."""
        folder = self.study.directory / "rl"
        names = [path.parent.name for path in sorted(folder.glob("*/run.json"))]
        return {name: RLRun.open(folder / name) for name in _ordered(names)[:MOST]}

    @cached_property
    def evaluated(self) -> dict[str, RLRun]:
        """RL runs with two evaluations or more, which can be compared."""
        return {name: run for name, run in self.arms.items() if len(run.evaluated) > 1}

    @property
    def refitted(self) -> list[str]:
        """Names of evaluated runs whose heads were fitted again on what the policy wrote."""
        return [n for n, run in self.evaluated.items() if run.record["settings"].get("refit_every")]

    @property
    def main(self) -> RLRun | None:
        """The last of them, of which texts and topics are shown."""
        return next(reversed(self.evaluated.values()), None)

    @cached_property
    def answers(self) -> dict[str, pd.DataFrame]:
        """Answers outside the training distribution: `before`, then by RL run."""
        names = [path.stem for path in sorted((self.study.directory / "ood").glob("*.jsonl"))]
        return {
            name: self._read(f"ood/{name}.jsonl", AnswerRow, tags="").reindex(columns=ANSWER)
            for name in _ordered(names)[: MOST + 1]
        }

    def _read(self, place: str, row: type, **spread: str) -> pd.DataFrame:
        path = self.study.directory / place
        return Table(path.name, row, "a prompt or completion", spread=spread).read(
            path.parent, DOCUMENT.again
        )

    @property
    def after(self) -> list[str]:
        """RL runs with answers outside, where there are some from before training too."""
        return [*self.answers][1:] if "before" in self.answers else []

    @cached_property
    def absent(self) -> dict[str, str]:
        """Stages that left nothing, to where they stand; see `StudyRun.state`."""
        gone = [name for name, run in self.single.items() if run is None]
        gone += [] if self.arms else ["rl"]
        gone += [] if "before" in self.answers else ["ood"]
        absent = {name: self.study.state(name) for name in gone}
        return absent | ({"ood": "before"} if list(self.answers) == ["before"] else {})

    @cached_property
    def prompts(self) -> dict[str, pd.Series]:
        """Group of every prompt of RL: `train` and `held_out`."""
        places = {name: f"prompts/{name}.jsonl" for name in ("train", "held_out")}
        return {
            name: self._read(place, PromptRow)["group"]
            for name, place in places.items()
            if (self.study.directory / place).is_file()
        }

    @cached_property
    def limits(self) -> dict[str, Any]:
        """Numbers that say what the evaluations do not show; empty without a run to compare."""
        if self.main is None:
            return {}
        rows, steps = self.main.rows, self.main.evaluated
        lengths = {name: run.ratio("n_tokens").value for name, run in self.evaluated.items()}
        names, fewest = rows.get("tag:name", rows["prompt_id"]), min(map(self.main.prompts, APART))
        return {
            "prompts": self.main.prompts(), "names": names[names != ""].nunique(),
            "few": fewest if fewest < FEW_PROMPTS else None,
            "shorter": [name for name, length in lengths.items() if length < SHORTER],
            "cut": float((rows.loc[rows["step"] == steps[-1], "finished"] == 0).mean()),
        }  # fmt: skip

    def outcome(self, run: RLRun) -> str:
        """Return what moved between the first and the last evaluation of a run, as a key."""
        if len(run.evaluated) < 2 or min(run.prompts(part) for part in APART) < FEWEST:
            return "unknown"
        score, apart = score_change(run), run.change(HEDGES, APART)
        invented, real = (run.change(HEDGES, part).side() for part in APART)
        if not (score.has_interval and apart.has_interval):
            return "unknown"
        if apart.side() > 0:
            return "followed" if score.side() > 0 else "behaviour only"
        if invented > 0:
            return "alike" if real > 0 else "invented only"
        if real > 0:
            return "real only"
        return {1: "score only", -1: "fell", 0: "nothing"}[score.side()]

    def denies(self, run: RLRun) -> bool:
        """Return whether a run came to hedge about most real names."""
        rose = run.change(HEDGES, ABOUT[REAL]).side() > 0
        return rose and run.level(HEDGES, ABOUT[REAL]).side(DENIED) > 0

    def outside(
        self, name: str, measure: str = HEDGES, value: str = "", topic: str = ""
    ) -> Outside:
        """Return a rate outside before and after a run, paired by completion; intervals are over groups.

        Parameters
        ----------
        name
            Name of the RL run.
        measure
            `HEDGES` or `ANSWERS`.
        value, topic
            Only questions of this class, of this topic; without a class, invented minus real.
        """
        both = self.answers["before"].merge(
            self.answers[name][["id", "category"]], on="id", suffixes=("", "_after")
        )
        both = both[both["class"].isin([value] if value else CLASSES)]
        both = both[both["topic"] == topic] if topic else both
        kinds, groups = measure.partition(":")[2].split(","), both["group"].to_numpy()
        before, after = (
            both[key].isin(kinds).to_numpy(float) for key in ("category", "category_after")
        )
        each = (before, after, after - before)
        if value:
            return Outside(len(both), *(paired.mean(groups, values) for values in each))
        invented = (both["class"] == INVENTED).to_numpy()
        return Outside(len(both), *(paired.separation(groups, values, invented) for values in each))

    def transfer(self, name: str) -> str:
        """Return whether what was learnt about people shows about other things, as a key."""
        apart = self.outside(name).change.side()
        invented, real = (self.outside(name, HEDGES, value).change.side() for value in CLASSES)
        if apart > 0:
            return "transfers"
        if invented > 0:
            return "alike" if real > 0 else "invented only"
        return "fell" if apart < 0 else "not shown"

    @cached_property
    def claims(self) -> list[list[Claim]]:
        """The published claims; those on behaviour once more for a run whose heads were fitted again."""
        chosen = [
            n for n, r in self.evaluated.items() if r.record["settings"]["target"] == "chosen"
        ]
        aimed = "chosen" if "chosen" in self.evaluated else ["", *chosen][-1]
        again = ["", *self.refitted][-1]
        first = [self._reading(), self._denial(), *self._behaviour(aimed)]
        return [first, self._behaviour(again)] if again and again != aimed else [first]

    def _reading(self) -> Claim:
        run: SweepRun | None = self.single["projection"] or self.single["fit"]
        if run is None:
            return Claim("reading")
        parts = {value: run.value(part=ABOUT[value]) for value in CLASSES}
        keys = {standing(value, 0.5) for value in parts.values()}
        found = run.findings.items()
        rivals = [n for n, f in found if f.key != ABOVE and n != "length_partialled"]
        key = BELOW if BELOW in keys else ABOVE if keys == {ABOVE} and not rivals else INCLUDES
        return Claim("reading", key, parts=parts, rivals=rivals)

    def _denial(self) -> Claim:
        run = self.evaluated.get("max-unbalanced")
        end = run.level(HEDGES, ABOUT[REAL]) if run else NO_VALUE
        return Claim("denial", standing(end, DENIED), end, run.name) if run else Claim("denial")

    def _behaviour(self, name: str) -> list[Claim]:
        run = self.evaluated.get(name)
        claims = {claim: Claim(claim) for claim in ("followed", "answers", "entropy", "transfer")}
        if run:
            bars = {
                "followed": (run.change(HEDGES, APART), 0.0),
                "answers": (run.ratio(ANSWERS, ABOUT[REAL]), KEPT),
                "entropy": (run.ratio("entropy"), KEPT),
            }
            if name in self.after:
                bars["transfer"] = (self.outside(name).change, 0.0)
            claims |= {c: Claim(c, standing(*bar), bar[0], name) for c, bar in bars.items()}
            if claims["followed"].key == ABOVE and self.outcome(run) != "followed":
                claims["followed"] = claims["followed"]._replace(key=INCLUDES)
        return [*claims.values()]


def score_change(run: RLRun) -> Interval:
    """Return the change of a run's score, under the first heads where heads were fitted again."""
    has_first = "score_first" in run.rows and run.rows["score_first"].notna().any()
    return run.change("score_first" if has_first else "score")


def _ordered(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
