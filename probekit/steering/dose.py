"""Dose and response: means, differences, slopes and rank p-values, resampled over prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from probekit.results.intervals import FEWEST_GROUPS, Array, Interval, Resampler
from probekit.results.steer import BASELINE, Condition

Row = Mapping[str, Any]


class Statistic(NamedTuple):
    """What is computed of a measure: a weighted mean of something read off every completion."""

    name: str
    """Name of the measure."""
    group: str
    """effect, layers, behaviour or damage."""
    value: Callable[[Row], float]
    """Value of one completion; NaN where it has none."""
    weight: Callable[[Row], float] = lambda row: 1.0
    """What a completion counts: 1, or its tokens."""
    share: bool = False
    """Whether the value of a completion is 0 or 1."""
    exponential: bool = False
    """Whether the weighted mean is shown as its exponential (perplexity)."""
    layer: int | None = None


def statistics_of(
    layers: Sequence[int], chosen: int, categories: Sequence[str], *, judged: bool
) -> list[Statistic]:
    """Return the statistic of every measure of a sweep.

    Parameters
    ----------
    layers
        Layers with a probe.
    chosen
        Layer of the probe that gives the score.
    categories
        Behaviours, empty when none were asked for.
    judged
        Whether a judge named them too.
    """

    def score(layer: int) -> Callable[[Row], float]:
        return lambda row: _number(row["scores"].get(str(layer)))

    def rate(field: str, name: str) -> Callable[[Row], float]:
        return lambda row: float("nan") if row[field] is None else float(row[field] == name)

    def tokens(row: Row) -> float:
        return float(row["n_tokens"])

    def plain(field: str) -> Callable[[Row], float]:
        return lambda row: _number(row[field])

    rates = [("category", "rate"), *([("judge", "judge")] if judged else [])]
    damage = ("distinct_1", "distinct_2", "length", "finished")
    return [
        Statistic("score", "effect", score(chosen)),
        *(Statistic(f"score@{n}", "layers", score(n), layer=n) for n in layers),
        *(
            Statistic(f"{prefix}:{name}", "behaviour", rate(field, name), share=True)
            for field, prefix in rates
            for name in categories
        ),
        Statistic("perplexity", "damage", plain("nll"), tokens, exponential=True),
        Statistic("kl", "damage", plain("kl"), tokens),
        *(
            Statistic(
                name,
                "damage",
                plain("n_tokens" if name == "length" else name),
                share=name == "finished",
            )
            for name in damage
        ),
    ]


class Doses:
    """All conditions of a sweep with one set of bootstrap draws of the prompts.

    Every condition has the same prompts, and the same draws serve all of them, so differences and
    slopes are paired: what prompts have in common cancels.

    Parameters
    ----------
    rows
        Rows of each condition.
    seed
        Seed of the draws.
    n_boot
        Number of draws.
    """

    def __init__(
        self, rows: Mapping[Condition, Sequence[Row]], *, seed: int = 0, n_boot: int = 2000
    ) -> None:
        self.rows, self.conditions = rows, list(rows)
        prompts = dict.fromkeys(row["prompt_id"] for row in rows[self.conditions[0]])
        self._code = {name: i for i, name in enumerate(prompts)}
        self.resampler = Resampler(np.arange(len(self._code)), n_boot=n_boot, seed=seed)
        self._cache: dict[str, tuple[Array, Array]] = {}

    @cached_property
    def _column(self) -> dict[Condition, int]:
        return {condition: i for i, condition in enumerate(self.conditions)}

    def _sums(self, measure: Statistic) -> tuple[Array, Array]:
        """Return sums and weights of every prompt and condition, each (n_prompts, n_conditions)."""
        if measure.name not in self._cache:
            shape = (len(self._code), len(self.conditions))
            sums, weights = np.zeros(shape), np.zeros(shape)
            for j, condition in enumerate(self.conditions):
                for row in self.rows[condition]:
                    value = measure.value(row)
                    if np.isfinite(value):
                        i, weight = self._code[row["prompt_id"]], measure.weight(row)
                        sums[i, j] += value * weight
                        weights[i, j] += weight
            self._cache[measure.name] = sums, weights
        return self._cache[measure.name]

    def values(self, measure: Statistic, conditions: Sequence[Condition]) -> tuple[Array, Array]:
        """Return the measure of some conditions, (n,), and in every draw, (n_boot, n).

        Only prompts that have a value in all of them count: otherwise a strength that silences
        some prompts would be compared with others.
        """
        sums, weights = self._sums(measure)
        at = [self._column[condition] for condition in conditions]
        whole = np.all(weights[:, at] > 0, axis=1).reshape(-1, 1)
        sums, weights = sums[:, at] * whole, weights[:, at] * whole
        with np.errstate(divide="ignore", invalid="ignore"):
            value = sums.sum(0) / weights.sum(0)
            drawn = (self.resampler.weights @ sums) / (self.resampler.weights @ weights)
            if measure.exponential:
                value, drawn = np.exp(value), np.exp(drawn)
        # The bootstrap of a handful of prompts is far too narrow to be shown.
        return value, drawn if int(whole.sum()) >= FEWEST_GROUPS else np.full_like(drawn, np.nan)

    def n_known(self, measure: Statistic, condition: Condition) -> int:
        """Return how many completions of a condition have a value."""
        return sum(bool(np.isfinite(measure.value(row))) for row in self.rows[condition])

    def value(self, measure: Statistic, condition: Condition) -> Interval:
        """Return a condition's value."""
        if measure.share:
            return self.resampler.share(*self._shares(measure, [condition], np.ones(1)))
        value, drawn = self.values(measure, [condition])
        return self.resampler.around(value[0], drawn[:, 0])

    def difference(self, measure: Statistic, condition: Condition) -> Interval:
        """Return a condition's value minus the unsteered model's, paired over prompts."""
        return self.combine(measure, *minus_baseline(condition))

    def slope(self, measure: Statistic, curve: Sequence[Condition]) -> Interval:
        """Return the least-squares slope of the measure over the coefficients of a curve."""
        return self.combine(measure, curve, slope_parts(curve))

    def combine(
        self, measure: Statistic, conditions: Sequence[Condition], parts: Array
    ) -> Interval:
        """Return a sum of the measure over conditions with factors `parts` (n,), paired over prompts."""
        if not measure.share or not parts.any():
            value, drawn = self.values(measure, conditions)
            return self.resampler.around(float(value @ parts), drawn @ parts)
        values, weights = self._shares(measure, conditions, parts)
        reach = float(parts[parts > 0].sum())
        change = self.resampler.share_change(values / reach, weights)
        return Interval(*(reach * end for end in change))

    def _shares(
        self, measure: Statistic, conditions: Sequence[Condition], parts: Array
    ) -> tuple[Array, Array]:
        """Return every prompt's share, summed over conditions with factors `parts`, and its weight.

        Shape (n_prompts,) each; NaN for a prompt that has no value in one of them.
        """
        sums, weights = self._sums(measure)
        at = [self._column[condition] for condition in conditions]
        with np.errstate(divide="ignore", invalid="ignore"):
            return (sums[:, at] / weights[:, at]) @ parts, weights[:, at].mean(axis=1)

    def ratio(
        self, top: Statistic, bottom: Statistic, plus: Condition, minus: Condition
    ) -> tuple[Interval, Interval, Interval, Array]:
        """Return effect, damage, effect per root of damage, and the last in every draw, (n_boot,).

        Effect is half the difference of `top` between the two strengths, damage the mean of
        `bottom` over them. The root, because a divergence grows with the square of a small
        strength and an effect with the strength: their plain ratio would say more about the
        strength than about the layer, and grow without bound where nothing happens.
        """
        parts = []
        pairs = self.values(top, [plus, minus]), self.values(bottom, [plus, minus])
        for over, under in zip(*pairs, strict=True):
            effect = (over[..., 0] - over[..., 1]) / 2
            damage = (under[..., 0] + under[..., 1]) / 2
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append((effect, damage, effect / np.sqrt(damage)))
        (effect, damage, ratio), drawn = parts
        return (
            self.resampler.around(float(effect), drawn[0]),
            self.resampler.around(float(damage), drawn[1]),
            self.resampler.around(float(ratio), drawn[2]),
            drawn[2],
        )


def slope_parts(curve: Sequence[Condition]) -> Array:
    """Return the factors of a curve's values, (n,), whose sum is the least-squares slope."""
    coeff = np.array([condition.coeff for condition in curve], dtype=float)
    centred = coeff - coeff.mean()
    return np.asarray(centred / (centred @ centred))


def minus_baseline(condition: Condition) -> tuple[list[Condition], Array]:
    """Return a condition and the unsteered model with the factors of their difference, (2,)."""
    parts = np.array([1.0, -1.0]) if condition != BASELINE else np.zeros(2)
    return [condition, BASELINE], parts


def rank_p(value: float, controls: Sequence[float]) -> float | None:
    """Return the two-sided p-value by rank, (1 + #|control| >= |value|) / (1 + #controls).

    Under the hypothesis that the direction is like a random one, every rank is equally likely. It
    cannot be smaller than 1 / (1 + #controls). None without controls or without a value.
    """
    finite = [c for c in controls if np.isfinite(c)]
    if not finite or not np.isfinite(value):
        return None
    return (1 + sum(abs(c) >= abs(value) for c in finite)) / (1 + len(finite))


class Usable(NamedTuple):
    """The strengths around 0 at which the text is not yet damaged beyond the bound."""

    coeffs: list[float]
    reasons: dict[float, str]
    """Why each of the others is not among them."""


def usable_range(
    doses: Doses, curve: Mapping[float, Condition], measures: Mapping[str, Statistic], bound: float
) -> Usable:
    """Return the unbroken run of coefficients around the gentlest one within the bound.

    The gentlest is the one of the smallest divergence: 0 when adding, and when clamping the one
    nearest to what the model's own component is.

    A strength is damaged when perplexity under the unsteered model is more than `bound` times the
    unsteered text's, or distinct bigrams are fewer than 1 / `bound` of it: loops have a low
    perplexity, so that alone would miss them.
    """
    reasons = {}
    base = {
        name: doses.value(measures[name], BASELINE).value for name in ("perplexity", "distinct_2")
    }
    for coeff, condition in curve.items():
        perplexity = doses.value(measures["perplexity"], condition).value / base["perplexity"]
        distinct = doses.value(measures["distinct_2"], condition).value / base["distinct_2"]
        if not perplexity <= bound:
            reasons[coeff] = f"perplexity is {perplexity:.2f} times the unsteered"
        elif distinct < 1 / bound:
            reasons[coeff] = f"distinct bigrams are {distinct:.2f} of the unsteered"
    kept: list[float] = []
    gentlest = min(curve, key=lambda c: (doses.value(measures["kl"], curve[c]).value, abs(c)))
    above = sorted(c for c in curve if c >= gentlest)
    for side in (above, sorted((c for c in curve if c < gentlest), reverse=True)):
        for coeff in side:
            if coeff in reasons or (side is not above and gentlest in reasons):
                break
            kept.append(coeff)
    for coeff in curve:
        if coeff not in kept and coeff not in reasons:
            reasons[coeff] = "lies beyond a damaged strength"
    return Usable(sorted(kept), reasons)


def _number(value: Any) -> float:  # noqa: ANN401 - a JSON value
    return float("nan") if value is None else float(value)
