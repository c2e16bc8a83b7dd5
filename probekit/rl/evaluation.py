"""What the policy does on held-out prompts, by tag, and what independent readings say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.behaviours import Behaviours, Wanted
from probekit.container import as_json
from probekit.data.rows import Example
from probekit.models.load import LoadedModel
from probekit.models.sampling_config import SamplingConfig
from probekit.probes.placebo import placebos
from probekit.probes.probe import Probe
from probekit.results.diversity import TEXTS, similarity
from probekit.results.intervals import Interval, Metrics, Resampler
from probekit.results.measures import measure
from probekit.results.rl import ALL
from probekit.results.rl_files import Measures
from probekit.rl.config import RLConfig
from probekit.rl.extra import repetition
from probekit.rl.frozen import Frozen, FrozenReader
from probekit.rl.reward import Ensemble
from probekit.rl.rollout import Rollout, Writer
from probekit.rl.target import distance_to_chosen

Array = NDArray[np.float64]


@dataclass
class Readings:
    """Heads that read an evaluation, by what they are for."""

    optimised: list[Probe]
    first: list[Probe] = field(default_factory=list)
    """The optimised heads as the run began, where they are refitted."""
    independent: list[Probe] = field(default_factory=list)
    """Heads of other layers and positions, which nothing optimises."""
    disjoint: list[Probe] = field(default_factory=list)
    """Twins of the optimised heads from groups that those were not fitted on."""
    placebos: dict[str, Probe] = field(default_factory=dict)
    """Heads of unrelated contrasts by their names."""

    @property
    def all(self) -> list[Probe]:
        """Every head, in the order of the fields."""
        own = [*self.optimised, *self.first, *self.independent, *self.disjoint]
        return [*own, *self.placebos.values()]

    def columns(self, scores: Array) -> dict[str, Array]:
        """Return the columns of `scores` (n, n_heads) by field."""
        names = ("optimised", "first", "independent", "disjoint")
        ends = np.cumsum([len(getattr(self, name)) for name in names])
        return dict(zip((*names, "placebos"), np.split(scores, ends, axis=1), strict=True))


def placebo_heads(head: Probe, loaded: LoadedModel, config: RLConfig) -> dict[str, Probe]:
    """Return heads like `head` of unrelated contrasts, by their names; see `probes.placebo`."""
    most = config.placebo_heads
    fits = placebos(head, loaded, most=most, batch_tokens=config.batch_tokens) if most else []
    return {found.name: found.probes[0] for found in fits}


class Evaluator:
    """Lets the policy answer held-out prompts with a fixed random stream, and measures.

    Parameters
    ----------
    writer
        Writes completions of the held-out prompts.
    prompts
        The same prompts.
    reader
        Reads with `readings.all`.
    readings
        What its heads are for.
    ensemble
        The optimised heads, as one score.
    behaviours
        Name what a completion does; may be absent.
    wanted
        The behaviour that is hoped for; may be absent.
    distance, standardised
        Mahalanobis distance of activations of the first head's cell, where its data is known, and the
        same activations in standard deviations of that data.
    target_tag
        Tag whose values are the classes of `distance_to_chosen` over all prompts.
    """

    def __init__(
        self,
        writer: Writer,
        prompts: Sequence[Example],
        reader: FrozenReader,
        *,
        readings: Readings,
        ensemble: Ensemble,
        behaviours: Behaviours | None = None,
        wanted: Wanted | None = None,
        distance: Callable[[NDArray[np.float32]], Array] | None = None,
        standardised: Callable[[NDArray[np.float32]], Array] | None = None,
        target_tag: str | None = None,
    ) -> None:
        self.writer, self.prompts, self.reader = writer, list(prompts), reader
        self.readings, self.ensemble = readings, ensemble
        self.first = ensemble
        twins = readings.disjoint
        self.disjoint = Ensemble(twins, ensemble.penalty) if twins else ensemble
        self.behaviours, self.wanted, self.distance = behaviours, wanted, distance
        self.standardised, self.target_tag = standardised, target_tag

    def refitted(self, heads: Sequence[Probe], ensemble: Ensemble) -> None:
        """Go on with refitted heads; what the first ones say is still measured."""
        self.readings.optimised = list(heads)
        self.reader.replace(heads)
        self.ensemble = ensemble

    def measure(self, rows: Sequence[Mapping[str, Any]], frozen: Frozen) -> dict[str, Any]:
        """Return the metrics of what `samples` gave, each with its interval over prompts."""
        categories = self.behaviours.names if self.behaviours else ()
        acts = frozen.acts.get(self.readings.optimised[0].cell)
        return measured(
            rows,
            self.ensemble.distributions,
            categories=categories,
            target_tag=self.target_tag,
            acts=None if self.standardised is None or acts is None else self.standardised(acts),
        )

    def samples(self, config: SamplingConfig, *, seed: int) -> tuple[list[dict[str, Any]], Frozen]:
        """Let the policy answer; return rows of samples.jsonl and what the frozen model read."""
        index = list(range(len(self.prompts)))
        rollout = self.writer.write(index, config, seed=seed)
        with self.writer.policy.reference():
            frozen = self.reader.read(rollout.rows, rollout.n_new, logprobs=True)
        on_policy = self.reader.read(rollout.rows, rollout.n_new)
        return self._rows(rollout, frozen, on_policy.scores), frozen

    def _rows(self, rollout: Rollout, frozen: Frozen, on_policy: Array) -> list[dict[str, Any]]:
        assert frozen.logprobs is not None
        parts, policy_parts = self.readings.columns(frozen.scores), self.readings.columns(on_policy)
        score = self.ensemble.score(parts["optimised"])
        columns = {"score": score, "drift": self.ensemble.score(policy_parts["optimised"]) - score}
        if self.readings.first:
            columns["score_first"] = self.first.score(parts["first"])
        if self.readings.disjoint:
            columns["disjoint"] = self.disjoint.score(parts["disjoint"])
        if self.distance is not None:
            columns["mahalanobis"] = self._distances(frozen)
        named = [*self.readings.optimised, *self.readings.independent]
        heads = np.concatenate([parts["optimised"], parts["independent"]], axis=1)
        rows = []
        for i, at in enumerate(rollout.prompt):
            prompt = self.prompts[int(at)]
            question = prompt.prompt[-1].content if prompt.prompt else ""
            category = self.behaviours and self.behaviours.classify(question, rollout.texts[i])
            rows.append(
                {
                    "prompt_id": prompt.id,
                    "prompt": question,
                    "tags": prompt.tags,
                    "text": rollout.texts[i],
                    **{name: float(values[i]) for name, values in columns.items()},
                    "heads": {
                        f"{h.kind}/{h.cell}": float(s) for h, s in zip(named, heads[i], strict=True)
                    },
                    "placebos": dict(
                        zip(self.readings.placebos, parts["placebos"][i].tolist(), strict=True)
                    ),
                    "n_tokens": rollout.n_new[i],
                    "finished": bool(rollout.finished[i]),
                    "kl": float(np.mean(rollout.logprobs[i] - frozen.logprobs[i])),
                    "entropy": float(-np.mean(rollout.logprobs[i])),
                    "distinct_2": 1.0 - repetition(rollout.written(i)),
                    "category": category,
                    "wanted": self.wanted.holds(category, prompt.tags)
                    if self.wanted and category
                    else None,
                }
            )
        return rows

    def _distances(self, frozen: Frozen) -> Array:
        acts = frozen.acts[self.readings.optimised[0].cell]
        distances = np.full(len(acts), np.nan)
        read = np.isfinite(acts).all(axis=1)
        if self.distance is not None and read.any():
            distances[read] = self.distance(acts[read])
        return distances


def measured(
    rows: Sequence[Mapping[str, Any]],
    distributions: Mapping[str, Any],
    *,
    categories: Sequence[str] = (),
    target_tag: str | None = None,
    acts: Array | None = None,
) -> dict[str, dict[str, Any]]:
    """Return every measure of an evaluation with its interval over prompts, by part.

    Parameters
    ----------
    rows
        Rows of samples.jsonl of one evaluation. Parts are all of them, and each value of a tag that
        has two to four.
    distributions
        `Ensemble.distributions`, for `distance_to_chosen`.
    categories
        Names of the behaviours, for their rates.
    target_tag
        Tag whose values are the classes of `distance_to_chosen` over all prompts.
    acts
        Activations of the rows, for `alike_acts`, shape (n, d_model); NaN where there are none.
    """

    def part(inside: NDArray[np.bool_], tag: str | None) -> dict[str, Any]:
        own = [row for row, kept in zip(rows, inside, strict=True) if kept]
        intervals = _of_rows(own, categories)
        prompts, texts = ([row[name] for row in own] for name in ("prompt_id", "text"))
        for name, of_set in TEXTS.items():
            intervals[name] = of_set(prompts, texts).interval()
        if acts is not None and (found := similarity(prompts, acts[inside]).interval()).known:
            intervals["alike_acts"] = found
        values = [row["tags"].get(tag or "", "") for row in own]
        scores = np.array([row["score"] for row in own])
        distance = distance_to_chosen(scores, distributions, tag=tag, values=values)
        if distance is not None:
            intervals["distance_to_chosen"] = Interval(distance)
        return dict(as_json(intervals))

    parts = {ALL: part(np.ones(len(rows), dtype=bool), target_tag)}
    for tag in sorted({tag for row in rows for tag in row["tags"]}):
        of_tag = np.array([row["tags"].get(tag, "") for row in rows], object)
        values = sorted({*of_tag})
        for value in values if 1 < len(values) <= 4 else ():
            parts[f"{tag}={value}"] = part(of_tag == value, tag)
    return parts


def _of_rows(rows: Sequence[Mapping[str, Any]], categories: Sequence[str]) -> Metrics:
    """Return the means of what every completion has."""
    draws = Resampler(np.array([row["prompt_id"] for row in rows], object))
    names = [name for name in Measures.__annotations__ if name in rows[0]]
    columns = {name: [row[name] for row in rows] for name in names}
    for family, prefix in (("heads", "head"), ("placebos", "placebo")):
        for name in rows[0].get(family, ()):
            columns[f"{prefix}:{name}"] = [row[family][name] for row in rows]
    for name in categories:
        columns[f"rate:{name}"] = [row["category"] == name for row in rows]
    if any(row["wanted"] is not None for row in rows):
        columns["wanted"] = [row["wanted"] for row in rows]
    intervals = {}
    for name, column in columns.items():
        over = draws.share if measure("rl", name).rate else draws.mean
        intervals[name] = over(np.array(column, float))
    return intervals
