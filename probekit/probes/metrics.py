"""Metrics of held-out scores with intervals: ratings, labels and pairs (formulas: docs/probes.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax
from scipy.stats import rankdata

from probekit.results.intervals import (
    FEWEST_GROUPS,
    Array,
    Interval,
    Metrics,
    Resampler,
    fisher,
    kish,
)
from probekit.results.intervals import score as score_interval

N_BINS = 10
PRIMARY = {"rating": "pearson", "label": "auroc", "pair": "pair_accuracy"}


def rating_metrics(target: Array, prediction: Array, sample: Resampler) -> Metrics:
    """Return Pearson, Spearman, R2, MAE and within-prompt pair accuracy.

    Parameters
    ----------
    target, prediction
        In the same units, shape (n,).
    sample
        Resampler over the rows' groups.
    """
    error = prediction - target
    squares = np.stack([error**2, target, target**2, np.ones_like(target)], axis=1)
    return {
        "pearson": pearson(target, prediction, sample),
        "spearman": pearson(rankdata(target), rankdata(prediction), sample),
        "r2": sample.interval(
            squares, lambda s: 1 - s[..., 0] / (s[..., 2] - s[..., 1] ** 2 / s[..., 3])
        ),
        "mae": sample.mean(np.abs(error)),
        "pair_accuracy": within_group_accuracy(target, prediction, sample),
    }


def label_metrics(label: NDArray[Any], score: Array, sample: Resampler) -> Metrics:
    """Return AUROC, accuracy, balanced accuracy, log loss and ECE of class 1.

    Parameters
    ----------
    label
        0 or 1, shape (n,).
    score
        Log-odds of class 1, shape (n,); the threshold is 0.
    """
    y = label.astype(np.float64)
    right = np.where(score > 0, y, 1 - y) + np.where(score == 0, 0.5 - (1 - y), 0.0)
    return {
        "auroc": auroc(label, score, sample),
        "accuracy": sample.share(right),
        "balanced_accuracy": balanced_accuracy(label, right, sample),
        "log_loss": sample.mean(np.logaddexp(0.0, np.where(y == 1, -score, score))),
        "ece": ece(y, expit(score), sample),
    }


def class_metrics(label: NDArray[Any], logits: Array, sample: Resampler) -> Metrics:
    """Return macro AUROC (each class against the rest), macro F1, accuracy, log loss and ECE of several.

    Parameters
    ----------
    label
        0 to n_classes - 1, shape (n,).
    logits
        Shape (n, n_classes); the class with the highest is predicted.
    sample
        Resampler over the rows' groups.
    """
    told = log_softmax(logits, axis=1)
    n = logits.shape[1]
    truth, guess = np.eye(n)[label], np.eye(n)[logits.argmax(axis=1)]
    right = (truth * guess).sum(axis=1)
    return {
        "macro_auroc": score_interval(*macro_area(label, told, sample)),
        "macro_f1": macro_f1(truth, guess, sample),
        "accuracy": sample.share(right),
        "log_loss": sample.mean(-told[np.arange(len(label)), label]),
        "ece": ece(right, np.exp(told.max(axis=1)), sample),
    }


def macro_f1(truth: Array, guess: Array, sample: Resampler) -> Interval:
    """Return the mean of 2 tp / (2 tp + fp + fn) over the classes that a row has or is given.

    The interval is a score interval on the variance between groups of what each row adds.

    Parameters
    ----------
    truth, guess
        1 at the class that a row has, and that it is given, shape (n, n_classes).
    sample
        Resampler of the same n rows.
    """
    sizes = (truth + guess).sum(axis=0)
    known = sizes > 0
    share = 2 * (truth * guess).sum(axis=0)[known] / sizes[known]
    parts = (2 * truth * guess)[:, known] - share * (truth + guess)[:, known]
    influence = sample.per_group((parts / sizes[known]).mean(axis=1))
    ones = [truth[:, k] == 1 for k in np.flatnonzero(truth.any(axis=0))]
    support = min(class_support(one, sample) for one in ones)
    right = (truth * guess).sum(axis=1)
    return score_interval(float(share.mean()), influence, support, _rarer(right, sample))


def macro_area(
    label: NDArray[Any], told: Array, sample: Resampler
) -> tuple[float, Array, float, int]:
    """Return the mean over classes of the AUROC of each against the rest, and what it rests on; see `area`.

    Parameters
    ----------
    label
        0 to n_classes - 1, shape (n,).
    told
        Log-probability of each class, shape (n, n_classes).
    sample
        Resampler of the same n rows.
    """
    found = [area((label == k).astype(int), column, sample) for k, column in enumerate(told.T)]
    parts = [estimate for estimate, _ in found]
    influence = np.mean([estimate.influence for estimate in parts], axis=0)
    value = float(np.mean([estimate.value for estimate in parts]))
    return value, influence, min(e.support for e in parts), min(rarer for _, rarer in found)


def confusion(label: NDArray[Any], logits: Array) -> NDArray[np.int64]:
    """Return rows by true class (down) and predicted class (across), shape (n_classes, n_classes).

    Parameters
    ----------
    label
        0 to n_classes - 1, shape (n,).
    logits
        Shape (n, n_classes).
    """
    found = np.zeros((logits.shape[1],) * 2, dtype=np.int64)
    np.add.at(found, (label, logits.argmax(axis=1)), 1)
    return found


def pair_metrics(chosen: Array, rejected: Array, sample: Resampler) -> Metrics:
    """Return pair accuracy (a tie counts half), mean scores and margin, log loss and ECE.

    Parameters
    ----------
    chosen, rejected
        Scores of the two sides, shape (n_pairs,).
    """
    margin = chosen - rejected
    # Which side is listed first says nothing, so every pair is also read the other way round:
    # its calibration is that of the side with the higher score.
    confidence, right = expit(np.abs(margin)), wins(margin)
    return {
        "pair_accuracy": sample.share(right),
        "chosen": sample.mean(chosen),
        "rejected": sample.mean(rejected),
        "margin": sample.mean(margin),
        "log_loss": sample.mean(np.logaddexp(0.0, -margin)),
        "ece": ece(right, confidence, sample),
    }


def wins(margin: Array) -> Array:
    """Return 1 where a margin is above 0, a half where it is 0, else 0; of any shape."""
    return np.asarray((margin > 0) + 0.5 * (margin == 0))


class Estimate(NamedTuple):
    """A metric and what it rests on, for its interval and for its difference from another."""

    value: float
    influence: Array
    """How far every group moves the value, shape (n_groups,)."""
    support: float
    """Number of equal groups that tell as much."""


def correlation(x: Array, y: Array, sample: Resampler) -> Estimate:
    """Return Pearson's correlation of x and y, shape (n,) each, and what it rests on."""
    x, y = x - x.mean(), y - y.mean()
    support = kish(np.bincount(sample.code))
    spread = np.sqrt((x * x).sum() * (y * y).sum())
    if not spread > 1e-12:
        return Estimate(np.nan, np.zeros(sample.n_groups), support)
    x, y = x / np.sqrt((x * x).sum()), y / np.sqrt((y * y).sum())
    r = float(np.clip(x @ y, -1.0, 1.0))
    influence = sample.per_group(x * y - r / 2 * (x * x + y * y))
    return Estimate(r, influence * support / max(support - 1, 1e-9), support)


def pearson(x: Array, y: Array, sample: Resampler) -> Interval:
    """Return Pearson's correlation of x and y, shape (n,) each.

    The interval is Fisher's, with the variance between groups of the influence of their rows on r.
    """
    return fisher(*correlation(x, y, sample))


def area(label: NDArray[Any], score: Array, sample: Resampler) -> tuple[Estimate, int]:
    """Return the AUROC of labels 0 and 1 by score, (n,) each, what it rests on, and its rarer groups.

    Those are the groups with a misplaced row, or with one that is placed right, whichever are fewer. The
    influence of a row is that of DeLong: its placement among the rows of the other class.
    """
    one = label == 1
    if not one.any() or one.all():
        return Estimate(np.nan, np.zeros(sample.n_groups), 0.0), 0
    ranks = rankdata(score)
    placed = np.empty(len(score))
    for side, other in ((one, ~one), (~one, one)):
        placed[side] = (ranks[side] - rankdata(score[side])) / other.sum()
    placed[~one] = 1 - placed[~one]
    value = float(placed[one].mean())
    influence = sample.per_group((placed - value) / np.where(one, one.sum(), (~one).sum()))
    return Estimate(value, influence, class_support(one, sample)), _rarer(placed, sample)


def auroc(label: NDArray[Any], score: Array, sample: Resampler) -> Interval:
    """Return the area under the ROC curve of labels 0 and 1 by score, (n,) each; ties count half.

    The interval is a score interval on DeLong's variance between groups; there is none where a
    class has fewer than five groups.
    """
    estimate, rarer = area(label, score, sample)
    return score_interval(*estimate, rarer)


def balanced_accuracy(label: NDArray[Any], right: Array, sample: Resampler) -> Interval:
    """Return the mean over the two classes of the share that is `right`, shape (n,) each."""
    one = label == 1
    if not one.any() or one.all():
        return Interval(np.nan)
    share = np.where(one, right[one].mean(), right[~one].mean())
    influence = sample.per_group((right - share) / np.where(one, one.sum(), (~one).sum()) / 2)
    value = float(right[one].mean() + right[~one].mean()) / 2
    return score_interval(value, influence, class_support(one, sample), _rarer(right, sample))


def class_support(one: NDArray[np.bool_], sample: Resampler) -> float:
    """Return what the groups of the class that tells less are worth; 0 where a class has too few.

    Parameters
    ----------
    one
        Whether each row is of class 1, shape (n,).
    sample
        Resampler of the same n rows.
    """
    sizes = [np.bincount(sample.code[side]) for side in (one, ~one)]
    return min(map(kish, sizes)) if min((s > 0).sum() for s in sizes) >= FEWEST_GROUPS else 0.0


def _rarer(right: Array, sample: Resampler) -> int:
    """Return how many groups hold a row that is wrong, or one that is right, whichever are fewer."""
    return min(len(np.unique(sample.code[side])) for side in (right < 1, right > 0))


def ece(outcome: Array, probability: Array, sample: Resampler) -> Interval:
    """Return the expected calibration error over ten bins of equal width.

    Sum over bins of (share of rows) * |mean outcome - mean probability|. It is biased upwards in
    small samples, so it is compared with its controls, not with 0.

    Parameters
    ----------
    outcome
        0 or 1, shape (n,).
    probability
        Predicted for it, shape (n,).
    sample
        Draws of the same n rows.
    """
    bins = np.minimum((probability * N_BINS).astype(int), N_BINS - 1)
    rows = np.zeros((len(outcome), N_BINS + 1))
    rows[np.arange(len(outcome)), bins] = outcome - probability
    rows[:, -1] = 1.0
    return sample.interval(rows, lambda s: np.abs(s[..., :-1]).sum(axis=-1) / s[..., -1])


def within_group_accuracy(target: Array, prediction: Array, sample: Resampler) -> Interval:
    """Return how often the better rated of two rows of a group is predicted higher.

    Pairs with equal targets do not count, equal predictions count half; NaN without any pair.

    Parameters
    ----------
    target, prediction
        Shape (n,) each.
    sample
        Draws of the same n rows, whose groups are compared within.
    """
    right, pairs = np.full(len(target), np.nan), np.zeros(len(target))
    order = np.argsort(sample.code, kind="stable")
    for index in np.split(order, np.flatnonzero(np.diff(sample.code[order])) + 1):
        truth = np.sign(target[index][:, None] - target[index])
        predicted = np.sign(prediction[index][:, None] - prediction[index])
        ordered = truth > 0
        if pair_count := ordered.sum():
            right[index[0]] = ((predicted[ordered] + 1) / 2).mean()
            pairs[index[0]] = pair_count
    return sample.share(right, pairs)


def tag_values(tags: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Return the units of each value of each tag that splits them; `tags` are values by tag, (n_units,)."""
    found = {}
    for tag, values in tags.items():
        names = [str(name) for name in np.unique(values) if name]
        # A tag with a value for nearly every row is an identifier, not a class.
        if names and len(names) <= max(2, min(24, len(values) // 5)):
            found[tag] = {name: np.flatnonzero(values == name) for name in names}
    return found


def reliability(outcome: Array, probability: Array) -> list[dict[str, float]]:
    """Return the ten bins of a reliability diagram with Wilson 95 % intervals.

    Parameters
    ----------
    outcome
        0 or 1, shape (n,).
    probability
        Predicted for it, shape (n,).
    """
    bins = np.minimum((probability * N_BINS).astype(int), N_BINS - 1)
    rows = []
    for k in np.unique(bins):
        inside = bins == k
        low, high = _wilson(float(outcome[inside].sum()), int(inside.sum()))
        rows.append(
            {
                "low": k / N_BINS,
                "high": (k + 1) / N_BINS,
                "n": int(inside.sum()),
                "predicted": float(probability[inside].mean()),
                "observed": float(outcome[inside].mean()),
                "observed_low": low,
                "observed_high": high,
            }
        )
    return rows


def rating_reliability(target: Array, prediction: Array) -> list[dict[str, float]]:
    """Return mean rating against mean prediction in tenths of the predictions, with 95 % intervals.

    Parameters
    ----------
    target, prediction
        Ratings and what was predicted of them, shape (n,) each.
    """
    bins = []
    for index in np.array_split(np.argsort(prediction, kind="stable"), min(10, len(target))):
        observed = target[index]
        error = 1.96 * observed.std(ddof=1) / np.sqrt(len(index)) if len(index) > 1 else np.nan
        bins.append(
            {
                "low": float(prediction[index].min()),
                "high": float(prediction[index].max()),
                "n": len(index),
                "predicted": float(prediction[index].mean()),
                "observed": float(observed.mean()),
                "observed_low": float(observed.mean() - error),
                "observed_high": float(observed.mean() + error),
            }
        )
    return bins


def _wilson(hits: float, n: int, z: float = 1.96) -> tuple[float, float]:
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(hits * (n - hits) / n + z * z / 4)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
