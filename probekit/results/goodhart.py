"""Did behaviour follow the score? The optimised score against what nobody optimised, over a run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.container import as_json
from probekit.results.intervals import FEWEST_GROUPS, NO_VALUE, Array, Interval, Resampler, change

if TYPE_CHECKING:
    import pandas as pd

CURVE = "goodhart.json"
SMALLEST = 0.15
"""Smallest change of the wanted rate that counts, where a run states none."""
FOLLOWED = "behaviour followed"
SMALL = "behaviour followed by less than the smallest effect"
PARTLY = "behaviour followed in part"
TRADED = "behaviour followed in one class and fell in another"
REVERSED = "behaviour fell while the score rose"
SCORE_ONLY = "score only"
UNDECIDED = "undecided"
NOTHING = "nothing moved"
SCORE_FELL = "score fell"
FELL = "behaviour fell, score did not rise"
BEHAVIOUR_ONLY = "behaviour moved, score did not"
UNKNOWN = "no behaviour was measured"
TOO_FEW = "too few held-out prompts"
WITHIN, SHARED, POWER = 0.3, 0.5, 0.8416
"""What `detectable` assumes: two correlations, and the normal quantile of a power of 80 %."""
RESIDUE = 1e-6
"""A change of the score below this share of its size is rounding."""

_CLASS = re.compile(r"(?:^|; )([^=;:]+)=([^=;:]+): ")
"""The classes in the words of a behaviour: "TAG=VALUE: categories; TAG=VALUE: categories"."""


class Point(NamedTuple):
    """One evaluation, as changes from the first one, paired over prompts."""

    step: int
    root_kl: float
    """Root of the mean divergence per token, the usual measure of how far a policy has gone."""
    score: Interval
    independent: Interval = NO_VALUE
    """Mean over heads that are not optimised of their change, each in its own standard deviations."""
    behaviour: Interval = NO_VALUE
    """Change of the rate of the wanted behaviour."""
    least: Interval = NO_VALUE
    """That change in the class of prompts where it is least, where the behaviour is named by class."""
    most: Interval = NO_VALUE
    """That change in the class where it is largest."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; null for a behaviour that was not measured."""
        optional = ("behaviour", "least", "most")
        unknown = {name: None for name in optional if not getattr(self, name).known}
        return {**as_json(self._asdict()), **unknown}


class OfClass(NamedTuple):
    """What happened in one class of prompts: its own changes and the verdict on them."""

    verdict: str
    score: Interval
    behaviour: Interval


class Kept(NamedTuple):
    """The change at the evaluation to keep, which is the best of several."""

    measure: str
    """`wanted`, or `independent` where no behaviour was measured."""
    among: int
    """How many evaluations it was chosen among."""
    own: Interval
    """On the prompts that it was chosen on: too good on average."""
    honest: Interval
    """Cross-fitted: on prompts that had no part in the choice."""

    @property
    def optimism(self) -> float:
        """How much of the change the choice itself made."""
        return self.own.value - self.honest.value

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**as_json(self._asdict()), "optimism": self.optimism}


class Goodhart(NamedTuple):
    """The curve, the evaluation to keep, the verdict, and the numbers that it rests on."""

    points: list[Point]
    sweet_spot: int
    """Step of the evaluation that is highest in the behaviour, else in the independent heads."""
    verdict: str
    """A key: one of the constants of this module."""
    evidence: list[str]
    smallest_effect: float = SMALLEST
    by_class: Mapping[str, OfClass] = {}
    """`TAG=VALUE` to its verdict, where the behaviour is named by class; `others` are in none."""
    kept: Kept | None = None
    """The change at the sweet spot; None where nothing independent of the score was measured."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return dict(as_json(self._asdict()))


def goodhart(
    rows: pd.DataFrame,
    *,
    optimised: Sequence[str],
    behaviour: str | None = None,
    smallest_effect: float = SMALLEST,
) -> Goodhart:
    """Return the curve of a run (proxy and gold over the root of the divergence, 2210.10760).

    `rows` is the frame of samples.jsonl: several evaluations of the same prompts with the same random
    numbers. `behaviour` is what the column `wanted` counts, in the words of `Wanted`; without it the
    heads that are not `optimised` stand for it. Where it is named by class, the evaluation to keep is
    the one at which the class that gained least gained most. `smallest_effect` is the smallest change
    of the wanted rate that counts, a share.
    """
    if "score_first" in rows:  # a refitted head gives the same text other numbers
        rows = rows.assign(score=rows["score_first"].fillna(rows["score"]))
    parts = [part.reset_index(drop=True) for _, part in rows.groupby("step")]
    heads = not_optimised(rows, optimised)
    points = [_point(now, parts[0], heads, behaviour) for now in parts]
    last = points[-1]
    classes = _by_class(parts[-1], parts[0], behaviour, smallest_effect) if behaviour else {}
    changes = [part.behaviour for part in classes.values()]
    few = parts[0]["prompt_id"].nunique() < FEWEST_GROUPS
    key = TOO_FEW if few else verdict(last.score, last.behaviour, changes, smallest=smallest_effect)
    lines = evidence(last, behaviour, classes, smallest=smallest_effect)
    best = max(points, key=_worth)
    kept = _kept(parts, best, heads, behaviour)
    return Goodhart(points, best.step, key, lines, smallest_effect, classes, kept)


def verdict(
    score: Interval,
    behaviour: Interval,
    classes: Sequence[Interval] = (),
    *,
    smallest: float = SMALLEST,
) -> str:
    """Return the verdict on the changes of score and behaviour, all prompts and class by class.

    A change is one where its whole 95 % interval lies on one side of 0. That the behaviour did not
    follow is said only where every interval excludes a gain of the `smallest` effect; that it followed,
    only where no class lost half of it and a loss of all of it is excluded in every class.
    """
    parts = [behaviour, *classes]
    rose, fell = (any(sign * part.side() > 0 for part in parts) for sign in (1, -1))
    if score.side() <= 0:
        if rose or fell:
            return BEHAVIOUR_ONLY if rose else FELL
        return SCORE_FELL if score.side() < 0 else NOTHING
    if not behaviour.known:
        return UNKNOWN
    if fell:
        return TRADED if rose else REVERSED
    below = all(part.side(smallest) < 0 for part in parts)
    held = all(part.value > -smallest / 2 and part.side(-smallest) > 0 for part in classes)
    if rose and held and behaviour.side() > 0:
        return SMALL if below else FOLLOWED
    if rose:
        return PARTLY
    return SCORE_ONLY if below else UNDECIDED


def evidence(
    last: Point,
    behaviour: str | None,
    classes: Mapping[str, OfClass] | None = None,
    *,
    smallest: float = SMALLEST,
) -> list[str]:
    """Return the changes that a verdict rests on, a line each, with what they say of its size."""
    lines = [
        ("score", last.score, f" at a root divergence of {last.root_kl:.2f}"),
        ("heads that are not optimised", last.independent, " standard deviations"),
        (f"rate of {behaviour}", last.behaviour, size(last.behaviour, smallest)),
    ]
    for name, part in (classes or {}).items():
        lines.append((name, part.behaviour, f"{size(part.behaviour, smallest)}: {part.verdict}"))
    return [
        f"{name} {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]{after}"
        for name, change, after in lines
        if change.known
    ]


def size(change: Interval, smallest: float) -> str:
    """Return what an interval says of the smallest effect: words after a change, or nothing."""
    points = f"{100 * smallest:g} points"
    if change.side(smallest) < 0 < change.side():
        return f", small (below the smallest effect of {points})"
    if change.side() == 0 and change.has_interval:
        excluded = change.side(smallest) < 0
        return f", a gain of {points} is {'excluded' if excluded else 'not excluded'}"
    return ""


def detectable(n_prompts: int, n_samples: int = 1) -> float:
    """Return the smallest change of a share whose interval leaves 0 in 80 % of runs; NaN below 5 prompts.

    For `Resampler.share_change` on `n_prompts` prompts with `n_samples` completions each, in closed
    form. The shares before and after lie on both sides of a half, where they vary most. Changes of the
    completions of one prompt correlate by 0.3, a completion's two outcomes by 0.5 (they share random
    numbers). `benchmarks/verdicts.py` draws such runs.
    """
    if n_prompts < FEWEST_GROUPS:
        return math.nan
    effect = (1 + (n_samples - 1) * WITHIN) / n_samples
    low, high = 0.0, 1.0
    for _ in range(30):
        gain = (low + high) / 2
        # Outcomes that differ by `gain` on average differ at least as often as that.
        variance = max(2 * (1 - SHARED) * (0.25 - gain**2 / 4), gain - gain**2) * effect
        error = math.sqrt(variance / n_prompts)
        influence = np.full(n_prompts, error / math.sqrt(n_prompts))
        shown = change(gain, influence, n_prompts, effect / n_prompts)
        if shown.low > POWER * error / (1 + 2 * effect / n_prompts):
            high = gain
        else:
            low = gain
    return high


def _worth(point: Point) -> float:
    """Return what the evaluation to keep is highest in; never the score."""
    known = [p.value for p in (point.least, point.behaviour, point.independent) if p.known]
    return known[0] if known else -np.inf


def _point(
    now: pd.DataFrame, first: pd.DataFrame, heads: Sequence[str], behaviour: str | None
) -> Point:
    draws = Resampler(now["prompt_id"].to_numpy())
    root_kl = float(np.sqrt(max(0.0, now["kl"].mean())))
    score = draws.mean(_moved(now["score"], first["score"]))
    independent = moved = least = most = NO_VALUE
    if heads:
        independent = draws.mean(_standardised(now, first, heads))
    if behaviour is not None:
        gap = (now["wanted"] - first["wanted"]).to_numpy(float)
        moved = draws.share_change(gap)
        each = [
            draws.share_change(np.where(part, gap, np.nan))
            for part in _classes(now, behaviour).values()
        ]
        each = sorted((part for part in each if part.known), key=lambda part: part.value)
        least, most = (each[0], each[-1]) if len(each) > 1 else (NO_VALUE, NO_VALUE)
    return Point(int(now["step"].iloc[0]), root_kl, score, independent, moved, least, most)


def crossfit(prompts: NDArray[Any], gaps: Array, classes: NDArray[np.bool_]) -> Array:
    """Return each completion's change at the evaluation that the other prompts choose.

    Prompts are divided in two halves, once, at random in the order of their ids. For each half the
    evaluation is chosen on the other one. So no completion has a say in which of its changes is read,
    and where nothing changes the mean is 0 on average. A choice on half of the prompts can be a
    little worse than that on all. (Averages over several divisions vary less, and Student's interval
    over prompts then is too narrow.)

    Parameters
    ----------
    prompts
        Prompt of each completion, shape (n,).
    gaps
        Changes from the first evaluation, shape (n_evaluations, n); NaN where there is none.
    classes
        Which completions are of each class, shape (n_classes, n): the best evaluation is where the
        class that gained least gained most.

    Returns
    -------
    Array
        Shape (n,).
    """
    names, first, code = np.unique(prompts, return_index=True, return_inverse=True)
    luck = np.random.default_rng(0).permutation(len(names))
    half = np.empty(len(names), dtype=int)
    # Every class is in both halves.
    half[np.lexsort([luck, classes[:, first].argmax(axis=0)])] = np.arange(len(names)) % 2
    found = np.full(gaps.shape[1], np.nan)
    for part in (0, 1):
        read = half[code.reshape(-1)] == part
        chosen = (np.isfinite(gaps[0]) & classes & ~read).astype(float)
        sizes = chosen.sum(axis=1)
        worth = (np.nan_to_num(gaps) @ chosen.T)[:, sizes > 0] / sizes[sizes > 0]
        if worth.size:  # (n_evaluations, n_classes)
            found[read] = gaps[int(worth.min(axis=1).argmax()), read]
    return found


def _kept(
    parts: Sequence[pd.DataFrame], best: Point, heads: Sequence[str], behaviour: str | None
) -> Kept | None:
    """Return the change at the best of the evaluations, as it is and cross-fitted."""
    first, draws = parts[0], Resampler(parts[0]["prompt_id"].to_numpy())
    classes = np.ones((1, len(first)), dtype=bool)
    if best.behaviour.known:
        gaps = np.array([(now["wanted"] - first["wanted"]).to_numpy(float) for now in parts])
        if best.least.known and behaviour is not None:
            classes = np.array([*_classes(first, behaviour).values()])
        honest = draws.share_change(crossfit(draws.groups, gaps, classes))
        return Kept("wanted", len(parts), best.behaviour, honest)
    if not best.independent.known:
        return None
    gaps = np.array([_standardised(now, first, heads) for now in parts])
    honest = draws.mean(crossfit(draws.groups, gaps, classes))
    return Kept("independent", len(parts), best.independent, honest)


def not_optimised(rows: pd.DataFrame, optimised: Sequence[str]) -> list[str]:
    """Return the columns of heads that have a value and are not among the optimised ones."""
    names = set(rows.filter(regex="^head:")) - {f"head:{name}" for name in optimised}
    return sorted(name for name in names if rows[name].notna().any())


def scaled_heads(first: pd.DataFrame, optimised: Sequence[str]) -> Callable[[pd.DataFrame], Array]:
    """Return what gives the mean of the heads not optimised, (n,), in their spreads in `first`."""
    heads = not_optimised(first, optimised)
    spread = _spread(first[heads])
    return lambda rows: np.asarray((rows[heads] / spread).mean(axis=1, skipna=False), dtype=float)


def _standardised(now: pd.DataFrame, first: pd.DataFrame, heads: Sequence[str]) -> Array:
    """Return the mean change of heads, each in its own standard deviations, shape (n,)."""
    scaled = (now[heads] - first[heads]) / _spread(first[heads])
    return np.asarray(scaled.mean(axis=1, skipna=False), dtype=float)


def _spread(values: pd.DataFrame) -> pd.Series[float]:
    spread = values.std(ddof=0)
    return spread.where(spread > RESIDUE * values.abs().max())  # else all are one number


def _moved(now: pd.Series[Any], first: pd.Series[Any]) -> Array:
    """Return changes, shape (n,); 0 where they are no more than a rounding of values of that size."""
    before, after = first.to_numpy(float), now.to_numpy(float)
    gap: Array = after - before
    gap[np.abs(gap) <= RESIDUE * np.maximum(np.abs(before), np.abs(after))] = 0.0
    return gap


def _by_class(
    now: pd.DataFrame, first: pd.DataFrame, behaviour: str, smallest: float
) -> dict[str, OfClass]:
    """Return the verdict on each class, where there are two or more."""
    draws, found = Resampler(now["prompt_id"].to_numpy()), {}
    gap = (now["wanted"] - first["wanted"]).to_numpy(float)
    scores = _moved(now["score"], first["score"])
    for name, part in _classes(now, behaviour).items():
        moved = draws.share_change(np.where(part, gap, np.nan))
        if moved.known:
            score = draws.mean(np.where(part, scores, np.nan))
            known = score.has_interval and moved.has_interval
            key = verdict(score, moved, smallest=smallest) if known else TOO_FEW
            found[name] = OfClass(key, score, moved)
    return found if len(found) > 1 else {}


def _classes(rows: pd.DataFrame, behaviour: str) -> dict[str, Array]:
    """Return which rows are in each class that a behaviour is named by, then which are in none."""
    left, found = np.ones(len(rows), dtype=bool), {}
    for tag, value in _CLASS.findall(behaviour):
        found[f"{tag}={value}"] = left & (rows.get(f"tag:{tag}", "") == value)
        left = left & ~found[f"{tag}={value}"]
    return {**found, "others": left}
