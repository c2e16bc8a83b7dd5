"""A probe as a monitor: how much it finds at a rate of false alarms that a control set bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import ProbeError
from probekit.results.intervals import NO_VALUE, Array, Interval, Resampler, kish

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Monitor:
    """Recall at a fixed rate of false alarms; NaN where too few negatives were there to fix it."""

    fpr: float
    """Largest share of negatives that may be flagged, with 95 % confidence."""
    source: str
    """`control`, a set of negatives of its own, or `negatives`, those of the data themselves."""
    n: int
    """Independent negatives: groups, those of unequal size counted for less."""
    needed: int
    """The fewest that can bound the rate."""
    threshold: float
    """Scores above it are flagged."""
    recall: Interval
    """Share of the positive rows that is flagged."""
    false_alarms: Interval
    """Share of the data's negative rows that is flagged."""

    @property
    def estimable(self) -> bool:
        """Whether there were enough negatives."""
        return self.n >= self.needed

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        ends = {"recall": self.recall.to_json(), "false_alarms": self.false_alarms.to_json()}
        return {**vars(self), **ends, "estimable": self.estimable}


def needed(fpr: float) -> int:
    """Return how many negatives without a false alarm bound the rate at 95 %: 299 for 1 %."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-fpr))


def rank_of_threshold(n: int, fpr: float) -> int:
    """Return which largest of n negative scores is the threshold; 0 where none can be.

    It is the largest k with P(Binomial(n, fpr) <= k - 1) <= 5 %: with 95 % confidence no more than `fpr` of
    all negatives lie above that score.
    """
    from scipy.stats import binom

    if n < needed(fpr):
        return 0
    k = int(binom.ppf(1 - CONFIDENCE, n, fpr))
    return k if binom.cdf(k - 1, n, fpr) <= 1 - CONFIDENCE else k - 1


def recall_at(
    label: NDArray[Any],
    score: Array,
    groups: NDArray[Any],
    fpr: float,
    *,
    control: tuple[Array, NDArray[Any]] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> Monitor:
    """Return the recall at a threshold that no more than a share of negatives exceeds.

    The interval is that of draws of groups of the positives and of the negatives, with the threshold chosen
    again in every draw, or that of the share at the threshold as it is, whichever goes further.

    Parameters
    ----------
    label
        0 or 1, shape (n,).
    score
        Shape (n,).
    groups
        Group of every row, shape (n,).
    fpr
        Between 0 and 1.
    control
        Scores and groups, (n_control,) each, of negatives that the threshold comes from; without them those
        among the rows, which flatters.
    n_boot, seed
        Draws, and their seed.

    Raises
    ------
    ProbeError
        When the rate is none.
    """
    if not 0 < fpr < 1:
        raise ProbeError(f"fpr {fpr:g}: expected a share between 0 and 1, such as 0.01.")
    one = label == 1
    negatives, their = control if control is not None else (score[~one], groups[~one])
    source, least = ("negatives" if control is None else "control"), needed(fpr)
    sample = Resampler(their, n_boot, seed)
    sizes = np.bincount(sample.code) if len(their) else np.zeros(0, np.int64)
    n = math.floor(kish(sizes) + 1e-9) if len(sizes) else 0
    if n < least or not one.any():
        return Monitor(fpr, source, n, least, math.nan, NO_VALUE, NO_VALUE)
    order = np.argsort(-negatives, kind="stable")
    threshold = float(negatives[order[rank_of_threshold(n, fpr) - 1]])
    whole, flagged = Resampler(groups, n_boot, seed), np.where(score > threshold, 1.0, 0.0)
    recall = whole.share(np.where(one, flagged, np.nan))
    drawn = _draws(negatives[order], sample.code[order], score[one], groups[one], fpr, n_boot, seed)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if recall.has_interval:
        ends = (min(recall.low, float(low)), max(recall.high, float(high)))
        recall = Interval(recall.value, *ends)
    return Monitor(
        fpr, source, n, least, threshold, recall, whole.share(np.where(one, np.nan, flagged))
    )


def _draws(
    negatives: Array, code: NDArray[np.int64], positives: Array, groups: NDArray[Any],
    fpr: float, n_boot: int, seed: int,
) -> Array:  # fmt: skip
    """Return the recall in draws of groups; the negatives stand from the highest to the lowest."""
    rng = np.random.default_rng([seed, 1])
    n, own = int(code.max()) + 1, np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(code).astype(np.float64)
    m, found = int(own.max()) + 1, np.empty(n_boot)
    for k in range(n_boot):
        times = np.bincount(rng.integers(n, size=n), minlength=n)
        # A group that is drawn twice stands for two.
        drawn = (times @ sizes) ** 2 / (times @ sizes**2)
        rank = rank_of_threshold(math.floor(drawn + 1e-9), fpr)
        at = int(np.searchsorted(np.cumsum(times[code]), max(rank, 1)))
        weights = np.bincount(rng.integers(m, size=m), minlength=m)[own]
        total = weights.sum()
        found[k] = weights[positives > negatives[min(at, len(negatives) - 1)]].sum() / total
    return found


def thresholds(
    label: NDArray[Any] | None, score: Array, groups: NDArray[Any], rates: Sequence[float], **more: Any,  # noqa: ANN401
) -> Iterator[Monitor]:  # fmt: skip
    """Yield the monitor of every rate for labels, scores and groups, (n,) each; none without labels."""
    if label is not None:
        yield from (recall_at(label, score, groups, rate, **more) for rate in rates)


SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of rows that a cascade sends on, beside those of its monitors."""


@dataclass(frozen=True)
class Costs:
    """What reading a row costs, in any unit, and how rare the positive class is where it is used."""

    judge: float
    probe: float = 0.0
    base_rate: float | None = None
    """Share of positive rows; None takes that of the data."""

    def __post_init__(self) -> None:
        """Refuse what is no cost or share."""
        if not (0 < self.judge < math.inf and 0 <= self.probe < math.inf):
            raise ProbeError(
                f"costs: got {self.probe:g} for the probe and {self.judge:g} for the judge, expected 0 or "
                "more, and more than 0 for the judge."
            )
        if self.base_rate is not None and not 0 < self.base_rate < 1:
            raise ProbeError(f"base rate {self.base_rate:g}: expected a share between 0 and 1.")


@dataclass(frozen=True)
class Cascade:
    """A probe that reads every row, and a judge that reads those it flags."""

    fpr: float | None
    """Rate of false alarms of the monitor whose threshold it has; None where a share of rows was aimed at."""
    threshold: float
    sent: Interval
    """Share of rows that the judge reads."""
    recall: Interval
    """Share of the positive rows that the judge reads: what the cascade finds if it is right on these."""
    cost: Interval
    """Of 1,000 rows: 1,000 (probe + sent judge)."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        ends = {name: getattr(self, name).to_json() for name in ("sent", "recall", "cost")}
        return {"fpr": self.fpr, "threshold": self.threshold, **ends}


def cascades(
    label: NDArray[Any] | None,
    score: Array,
    groups: NDArray[Any],
    monitors: Sequence[Monitor],
    costs: Costs,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> list[Cascade]:
    """Return the cascades of monitors that are estimable and of shares of rows; none without both classes.

    Intervals are over groups at the threshold as it is. With a base rate the rows of a class count so that
    the positive ones are that share.

    Parameters
    ----------
    label
        0 or 1, shape (n,).
    score
        Shape (n,).
    groups
        Group of every row, shape (n,).
    monitors
        Whose thresholds are taken, too.
    costs
        Of probe and judge.
    n_boot, seed
        Of the intervals.
    """
    if label is None or len(np.unique(label)) < 2:  # noqa: PLR2004
        return []
    one, sample = label == 1, Resampler(groups, n_boot, seed)
    rate = float(one.mean()) if costs.base_rate is None else costs.base_rate
    weights = np.where(one, rate / one.mean(), (1 - rate) / (1 - one.mean()))
    order = np.argsort(-score, kind="stable")
    above = np.cumsum(weights[order]) / len(score)
    at: list[tuple[float | None, float]] = [(m.fpr, m.threshold) for m in monitors if m.estimable]
    for share in SHARES:
        kept = int(np.searchsorted(above, share + 1e-12, side="right"))  # rows that may be sent
        if 0 < kept < len(score):
            at.append((None, float(score[order[kept]])))
    found = []
    for fpr, threshold in dict.fromkeys(at):
        flagged = np.where(score > threshold, 1.0, 0.0)
        sent = sample.share(flagged, weights)
        recall = sample.share(np.where(one, flagged, np.nan))
        cost = Interval(*(1000 * (costs.probe + end * costs.judge) for end in sent))
        found.append(Cascade(fpr, threshold, sent, recall, cost))
    return found
