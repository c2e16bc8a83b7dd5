"""What the policy does on held-out prompts, by tag, and what independent readings say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.behaviours import Behaviours, Wanted
from probekit.data.rows import Example
from probekit.models.sampling_config import SamplingConfig
from probekit.probes.probe import Probe
from probekit.results.intervals import Resampler
from probekit.rl.extra import repetition
from probekit.rl.frozen import Frozen, FrozenReader
from probekit.rl.reward import Ensemble
from probekit.rl.rollout import Rollout, Writer
from probekit.rl.target import distance_to_chosen

Array = NDArray[np.float64]
MEANS = (
    "score", "score_first", "disjoint", "drift", "mahalanobis",
    "kl", "entropy", "n_tokens", "finished", "distinct_2",
)  # fmt: skip


@dataclass
class Readings:
    """Heads that read an evaluation, by what they are for."""

    optimised: list[Probe]
    first: list[Probe] = field(default_factory=list)
    """The optimised heads as the run began, where they are refitted."""
    independent: list[Probe] = field(default_factory=list)
    """Of other layers and positions."""
    disjoint: list[Probe] = field(default_factory=list)
    """Twins of the optimised heads from groups that those were not fitted on."""

    @property
    def all(self) -> list[Probe]:
        """Every head, in the order of the fields."""
        return [*self.optimised, *self.first, *self.independent, *self.disjoint]

    def columns(self, scores: Array) -> dict[str, Array]:
        """Return the columns of `scores` (n, n_heads) by field."""
        sizes = [len(self.optimised), len(self.first), len(self.independent)]
        names = ("optimised", "first", "independent", "disjoint")
        return dict(zip(names, np.split(scores, np.cumsum(sizes), axis=1), strict=True))


class Evaluator:
    """Lets the policy answer held-out prompts with fixed luck, and measures.

    Parameters
    ----------
    writer
        Of the held-out prompts.
    prompts
        The same prompts.
    reader
        Reads with `readings.all`.
    readings
        What its heads are for.
    ensemble
        Of the optimised heads.
    behaviours
        Name what a completion does; may be absent.
    wanted
        The behaviour that is hoped for; may be absent.
    distance
        Mahalanobis distance of activations of the first head's cell, where its data is known.
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
        target_tag: str | None = None,
    ) -> None:
        self.writer, self.prompts, self.reader = writer, list(prompts), reader
        self.readings, self.ensemble = readings, ensemble
        self.first = ensemble
        twins = readings.disjoint
        self.disjoint = Ensemble(twins, ensemble.penalty) if twins else ensemble
        self.behaviours, self.wanted, self.distance = behaviours, wanted, distance
        self.target_tag = target_tag

    def refitted(self, heads: Sequence[Probe], ensemble: Ensemble) -> None:
        """Go on with refitted heads; what the first ones say is still measured."""
        self.readings.optimised = list(heads)
        self.reader.replace(heads)
        self.ensemble = ensemble

    def evaluate(
        self, config: SamplingConfig, *, seed: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return metrics, each with its interval over prompts, and the rows they are of."""
        index = list(range(len(self.prompts)))
        rollout = self.writer.write(index, config, seed=seed)
        with self.writer.policy.reference():
            frozen = self.reader.read(rollout.rows, rollout.n_new, logprobs=True)
        own = self.reader.read(rollout.rows, rollout.n_new)
        rows = self._rows(rollout, frozen, own.scores)
        return self._metrics(rows), rows

    def _rows(self, rollout: Rollout, frozen: Frozen, own: Array) -> list[dict[str, Any]]:
        assert frozen.logprobs is not None
        parts, own_parts = self.readings.columns(frozen.scores), self.readings.columns(own)
        score = self.ensemble.score(parts["optimised"])
        columns = {"score": score, "drift": self.ensemble.score(own_parts["optimised"]) - score}
        if self.readings.first:
            columns["score_first"] = self.first.score(parts["first"])
        if self.readings.disjoint:
            columns["disjoint"] = self.disjoint.score(parts["disjoint"])
        if self.distance is not None:
            columns["mahalanobis"] = self._distances(frozen)
        shown = [*self.readings.optimised, *self.readings.independent]
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
                        f"{h.kind}/{h.cell}": float(s) for h, s in zip(shown, heads[i], strict=True)
                    },
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
        found = np.full(len(acts), np.nan)
        read = np.isfinite(acts).all(axis=1)
        if self.distance is not None and read.any():
            found[read] = self.distance(acts[read])
        return found

    def _metrics(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        found = {"all": self._of(rows, self.target_tag)}
        tags = {tag for row in rows for tag in row["tags"]}
        for tag in sorted(tags):
            values = sorted({row["tags"].get(tag, "") for row in rows})
            if 1 < len(values) <= 4:
                for value in values:
                    own = [row for row in rows if row["tags"].get(tag, "") == value]
                    found[f"{tag}={value}"] = self._of(own, tag)
        return found

    def _of(self, rows: list[dict[str, Any]], tag: str | None) -> dict[str, Any]:
        """Return the metrics of some rows; `tag` names the classes of `distance_to_chosen`."""
        draws = Resampler(np.array([row["prompt_id"] for row in rows]))

        def mean(values: Sequence[float]) -> dict[str, float]:
            array = np.array(values, dtype=float)
            known = np.isfinite(array).astype(float)
            both = np.stack([np.nan_to_num(array) * known, known], axis=1)
            return draws.interval(both, lambda s: s[..., 0] / s[..., 1]).to_json()

        found = {name: mean([row[name] for row in rows]) for name in MEANS if name in rows[0]}
        for head in rows[0]["heads"]:
            found[f"head:{head}"] = mean([row["heads"][head] for row in rows])
        if self.behaviours is not None:
            for name in self.behaviours.names:
                found[f"rate:{name}"] = mean([float(row["category"] == name) for row in rows])
        wanted = [np.nan if row["wanted"] is None else float(row["wanted"]) for row in rows]
        if np.isfinite(wanted).any():
            found["wanted"] = mean(wanted)
        scores = np.array([row["score"] for row in rows])
        values = [row["tags"].get(tag or "", "") for row in rows]
        distance = distance_to_chosen(scores, self.ensemble.distributions, tag=tag, values=values)
        if distance is not None:
            found["distance_to_chosen"] = {"value": distance, "low": np.nan, "high": np.nan}
        return found
