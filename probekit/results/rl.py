"""`RLRun`: what `probekit rl` leaves in a directory, as frames, levels and changes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import ProbeError
from probekit.results import diversity, paired
from probekit.results.best_of import Picks, picks
from probekit.results.goodhart import SMALLEST, Goodhart, detectable, goodhart
from probekit.results.intervals import NO_VALUE, Array, Interval
from probekit.results.measures import measure as measure_of
from probekit.results.measures import measures
from probekit.results.outcomes import Threshold, outcomes, threshold
from probekit.results.rl_files import BEST_OF, DOCUMENT, EVALUATIONS, SAMPLES, STEPS
from probekit.results.runs import Run
from probekit.results.table import measured

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
"""Part of an evaluation that holds every held-out prompt; the others are `TAG=VALUE`."""
KEY = ["prompt_id", "sample"]
"""A completion: its prompt, and its place among the prompt's completions."""
Part = str | tuple[str, str]
"""One part, or two: the first minus the second."""
FEW_PROMPTS = 20
"""Fewer prompts show large changes only."""
COLLAPSE = 0.5
"""Below this share of its start in entropy the completions of a prompt are alike; above it as the share
of one opening, so are those of different prompts."""
FAR = 2.0
"""From this Mahalanobis distance on a head reads what it was not fitted for."""


class RLRun(Run):
    """A run, as far as it got; intervals are over prompts, changes are paired over completions."""

    DOCUMENT = DOCUMENT

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A row a training step."""
        return STEPS.read(self.directory, DOCUMENT.again).drop_duplicates("step", keep="last")

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a completion, with columns `head:NAME`, `tag:NAME` and `sample`."""
        rows = SAMPLES.read(self.directory, DOCUMENT.again)
        tags = rows.filter(regex="^tag:").fillna("")
        return rows.assign(sample=rows.groupby(["step", "prompt_id"]).cumcount(), **tags)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """A row an evaluation; the last is left out while its completions are on their way."""
        table = EVALUATIONS.read(self.directory, DOCUMENT.again)
        table = table.drop_duplicates("step", keep="last").sort_values("step")
        has_rows = table["step"].isin(self.rows["step"])
        if not has_rows[:-1].all():
            raise ProbeError(
                f"{self.directory / SAMPLES.file}: has no rows of the evaluation after step "
                f"{table['step'][~has_rows].iloc[0]}, the file is partial. {DOCUMENT.again}"
            )
        return table[has_rows]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a measure of an evaluation: `step`, `part`, `measure`, `value`, `low`, `high`."""
        rows = [
            (row.step, part, *item)
            for row in self.evaluations.itertuples()
            for part, measures in row.evaluation.items()
            for item in measures.items()
        ]
        return measured(["step", "part"], rows)

    @cached_property
    def evaluated(self) -> list[int]:
        """After how many steps the policy was evaluated."""
        return [int(step) for step in self.evaluations["step"]]

    @property
    def done(self) -> int:
        """Training steps that were done."""
        return max([0, *self.evaluated, *map(int, self.steps["step"])])

    @property
    def late(self) -> list[int]:
        """The evaluations in the last third of training."""
        return [step for step in self.evaluated if step and 3 * step >= 2 * self.done]

    @property
    def planned(self) -> int:
        """Training steps that were asked for."""
        return int(self.record["settings"]["steps"])

    @cached_property
    def measures(self) -> list[str]:
        """Measures of the evaluations, in reading order; those of texts, old files do not have."""
        order = {name.rstrip(":"): rank for rank, name in enumerate(measures("rl"))}
        own = [*self.metrics["measure"], *(diversity.TEXTS if self.evaluated else ())]
        names = dict.fromkeys(own)
        return sorted(names, key=lambda name: order.get(name.partition(":")[0], len(order)))

    @cached_property
    def parts(self) -> list[str]:
        """Parts of the evaluations, all prompts first."""
        return sorted(self.metrics["part"].unique(), key=lambda part: part != ALL)

    @property
    def alarms(self) -> pd.DataFrame:
        """A row an alarm of a training step or of an evaluation: `step`, `alarm`."""
        import pandas as pd

        rows = pd.concat([self.steps, self.evaluations]).rename(columns={"alarms": "alarm"})
        return rows[["step", "alarm"]].explode("alarm").dropna().sort_values("step")

    @property
    def warnings(self) -> list[str]:
        """Keys of what makes the run's numbers doubtful."""
        evaluated, compared = bool(self.evaluated), len(self.evaluated) > 1
        counted = any(name.startswith(("wanted", "rate:")) for name in self.measures)
        holds = {
            "unfinished": self.done < self.planned,
            "not evaluated": evaluated and self.evaluated[-1] < self.done >= self.planned,
            "few prompts": evaluated and self.prompts() < FEW_PROMPTS,
            "entropy": compared and self.ratio("entropy").value < COLLAPSE,
            "opening": compared
            and self.level("opening").value > COLLAPSE
            and self.change("opening").side() > 0,
            "far": compared and self.level("mahalanobis").value > FAR,
            "cut": compared and self.change("finished").side() < 0,
            "no behaviour": compared and not counted,
            "refits": self.steps["refit"].notna().any(),
            "alarms": len(self.alarms) > 0,
        }
        return [key for key, held in holds.items() if held]

    @cached_property
    def curve(self) -> Goodhart | None:
        """The Goodhart curve; None while there are no two evaluations to compare."""
        rows = self.rows[self.rows["step"].isin(self.evaluated)]
        names = {name: self.record[name] for name in ("optimised", "behaviour")}
        names["smallest_effect"] = self.record["settings"].get("smallest_effect", SMALLEST)
        return goodhart(rows, **names) if len(self.evaluated) > 1 else None

    @cached_property
    def picks(self) -> Picks | None:
        """Best-of-n of the model before training beside the policy; None where it was not sampled."""
        if not (self.directory / BEST_OF.file).is_file() or len(self.evaluated) < 2:
            return None
        last = self.rows[self.rows["step"] == self.evaluated[-1]]
        policy = last.assign(score=last[self.text])
        return picks(BEST_OF.read(self.directory, DOCUMENT.again), policy, self.record["optimised"])

    @cached_property
    def placebos(self) -> dict[str, Interval]:
        """Change of every placebo head, in its standard deviations at the first evaluation."""
        names = [name for name in self.measures if name.startswith("placebo:")]
        return {name: self.scaled(name) for name in names}

    @property
    def over_placebo(self) -> tuple[str, Interval]:
        """The placebo head that moved most, and how much further the score moved than it, paired.

        Sizes, in standard deviations at the first evaluation. Empty without placebo heads.
        """
        known = {name: change for name, change in self.placebos.items() if change.known}
        if not known or len(self.evaluated) < 2:
            return "", NO_VALUE
        name = max(known, key=lambda name: abs(known[name].value))
        moved, sides = 0.0, ((self.text, self.scaled(self.text)), (name, known[name]))
        for sign, (measure, change) in zip((1, -1), sides, strict=True):
            prompts, before, after = self.paired(measure)
            moved += sign * np.copysign(1.0, change.value) * (after - before) / np.nanstd(before)
        return name, paired.mean(prompts, np.asarray(moved))

    def scaled(self, measure: str, at: str | int = "last") -> Interval:
        """Return the paired change of a measure in its standard deviations at the first evaluation."""
        return paired.change(*self.paired(measure, at=at), scaled=True)

    @property
    def detectable(self) -> float:
        """The smallest change of the wanted rate that the evaluations can show; NaN where none."""
        rows = self.rows[self.rows["wanted"].notna() & (self.rows["step"] == self.evaluated[0])]
        n = rows["prompt_id"].nunique()
        return detectable(n, len(rows) // n) if n else float("nan")

    def within(self, part: Part) -> NDArray[np.bool_]:
        """Return which completions belong to a part, or to one of two, shape (n,); as `wide` orders them."""
        if isinstance(part, tuple):
            return np.logical_or(*map(self.within, part))
        tag, _, value = part.partition("=")
        index, row, _ = self._places
        inside = np.full(len(index), part == ALL)
        inside[row] |= (self.rows.get(f"tag:{tag}", self.rows["step"]) == value).to_numpy()
        return inside

    def prompts(self, part: Part = ALL) -> int:
        """Return how many held-out prompts a part has."""
        return int(self._places[0][self.within(part)].get_level_values(0).nunique())

    def wide(self, measure: str, part: Part = ALL) -> pd.DataFrame:
        """Return a measure of every completion of a part at every evaluation, index `KEY`.

        `measure` is a column of `rows`, or one of: `rate:NAME[,NAME]`, whether it is in one of these
        categories; `outcome:NAME`, whether it is that one of `outcomes.OUTCOMES`; `own`, the score on
        the policy's own activations; `unwanted:MEASURE`, NaN where the wanted behaviour is. `part` is
        `all` or `TAG=VALUE`. Columns are the steps, and `first`, `last`, `late`: the mean over the
        evaluations in the last third of training, as one alone may be a lucky one.
        """
        wide = self._by_step(self._column(measure), np.nan)[self.within(part)]
        return wide.assign(
            first=wide[self.evaluated[0]],
            last=wide[self.evaluated[-1]],
            late=wide[self.late].mean(axis=1, skipna=False),
        )

    def paired(self, measure: str, part: Part = ALL, at: str | int = "last") -> tuple[Array, ...]:
        """Return prompt, value at the first evaluation and value at another one, (n,) each; see `wide`."""
        wide = self.wide(measure, part)
        prompts = wide.index.get_level_values(0)
        return prompts.to_numpy(), wide["first"].to_numpy(), wide[at].to_numpy()

    def level(self, measure: str, part: Part = ALL, at: str | int = "last") -> Interval:
        """Return a measure at a column of `wide`; of two parts, the first minus the second."""
        step = {"first": self.evaluated[0], "last": self.evaluated[-1]}.get(str(at), at)
        recorded = self._recorded.get((step, part, measure))
        if recorded:
            return recorded
        if measure in diversity.TEXTS and isinstance(part, str):
            return self._of_set(measure, part, at)
        prompts, _, values = self.paired(measure, part, at)
        return self._between(part, prompts, values) or paired.mean(
            prompts, values, share=_is_rate(measure)
        )

    def change(self, measure: str, part: Part = ALL, at: str | int = "last") -> Interval:
        """Return the paired change of `level` since the first evaluation.

        It has no interval for what single completions lack: a distance between distributions.
        """
        prompts, before, after = self.paired(measure, part, at)
        if measure.startswith("unwanted:"):  # not the same completions at both ends
            return paired.shift(prompts, before, after)
        if measure in diversity.TEXTS and isinstance(part, str):
            return self._of_set(measure, part, at, "first")
        change = self._between(part, prompts, after - before) or paired.change(
            prompts, before, after, share=_is_rate(measure)
        )
        first, last = (self.level(measure, part, end).value for end in ("first", at))
        return change if change.known else Interval(last - first)

    def against(
        self, other: RLRun, measure: str, part: Part = ALL, at: str | int = "last"
    ) -> Interval:
        """Return a measure of this policy minus that of another, paired over the completions of both.

        Completions are the same where prompt and place among its completions are. No value where the
        runs share none.
        """
        own, its = (run.wide(measure, part)[at] for run in (self, other))
        both = own.index.intersection(its.index)
        prompts = both.get_level_values(0).to_numpy()
        if not len(both):
            return NO_VALUE
        before, after = (side.loc[both].to_numpy(float) for side in (its, own))
        return paired.change(prompts, before, after, share=_is_rate(measure))

    def ratio(self, measure: str, part: Part = ALL, at: str | int = "last") -> Interval:
        """Return a measure in parts of what it was at the first evaluation, paired."""
        return paired.ratio(*self.paired(measure, part, at), share=_is_rate(measure))

    def _of_set(self, measure: str, part: str, *at: str | int) -> Interval:
        """Return a measure of a set of texts at the first of `at`, or its change since the second."""
        names = {"first": self.evaluated[:1], "last": self.evaluated[-1:], "late": self.late}
        ends = [names[end] if isinstance(end, str) else [end] for end in at]
        texts = self._texts[self.within(part)].dropna(subset=[step for end in ends for step in end])
        prompts = texts.index.get_level_values(0).tolist()
        sides = ([texts[step].tolist() for step in end] for end in ends)
        return diversity.jackknife(measure, prompts, *sides)

    @cached_property
    def _texts(self) -> pd.DataFrame:
        """Texts, as `wide` orders them."""
        return self._by_step(self.rows["text"], None)

    def _by_step(self, values: Any, none: float | None) -> pd.DataFrame:  # noqa: ANN401 - one a row
        """Return a value of each of `rows`, (n,), by completion and evaluation; `none` where it has none."""
        import pandas as pd

        index, row, column = self._places
        table = np.full((len(index), len(self.evaluated) + 1), none)
        table[row, column] = values
        return pd.DataFrame(table[:, :-1], index, self.evaluated)

    @property
    def text(self) -> str:
        """The measure that reads the text with the heads that the run began with."""
        return "score_first" if "score_first" in self.measures else "score"

    @property
    def has_outcomes(self) -> bool:
        """Whether a wanted behaviour was measured, so that completions have outcomes."""
        return bool(self.evaluated) and bool(self.rows["wanted"].notna().any())

    @cached_property
    def threshold(self) -> Threshold:
        """From which score on a completion passes as wanted."""
        start = self.rows.loc[self.rows["step"] == self.evaluated[0], self.text]
        return threshold(self.record["target"], start.to_numpy(float))

    @cached_property
    def outcome(self) -> NDArray[np.object_]:
        """What each of `rows` is, shape (n,); see `outcomes.outcomes`."""
        wanted, text, own = (self._column(name) for name in ("wanted", self.text, "own"))
        return outcomes(wanted, text, own, self.threshold.value)

    def _column(self, measure: str) -> Array:
        """Return a measure of each of `rows`, shape (n,); see `wide`."""
        family, _, name = measure.partition(":")
        if family == "rate":
            return np.asarray(self.rows["category"].isin(name.split(",")), dtype=float)
        if family == "outcome":
            known = self.outcome != np.array(None)
            return np.where(known, self.outcome == name, np.nan)
        if family == "unwanted":
            return np.where(self._column("wanted") == 0, self._column(name), np.nan)
        if measure == "own":
            return self._column(self.text) + self._column("drift")
        column = self.rows.get(measure, default=np.nan)
        return np.broadcast_to(np.asarray(column, dtype=float), len(self.rows))

    @cached_property
    def _recorded(self) -> dict[Any, Interval]:
        return {row[:3]: Interval(*row[3:]) for row in self.metrics.itertuples(index=False)}

    def _between(self, part: Part, prompts: Array, values: Array) -> Interval | None:
        """Return the mean in the first of two parts minus that in the second; None for one part."""
        if isinstance(part, str):
            return None
        return paired.separation(prompts, values, self.within(part[0])[self.within(part)])

    @cached_property
    def _places(self) -> tuple[pd.MultiIndex, NDArray[np.intp], NDArray[np.intp]]:
        """Return the completions, and which one and which evaluation (-1: none) each of `rows` is."""
        import pandas as pd

        keys = pd.MultiIndex.from_frame(self.rows[KEY])
        index = keys.unique().sort_values()
        evaluations = pd.Index(self.evaluated).get_indexer(self.rows["step"])
        return index, index.get_indexer(keys), evaluations


def _is_rate(name: str) -> bool:
    return measure_of("rl", name).rate
