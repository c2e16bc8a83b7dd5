"""Metrics of held-out scores with intervals: ratings, labels and pairs (formulas: docs/probes.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from probekit.results.intervals import Array, Interval, Metrics, Resampler

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
    balanced = np.stack([right * y, y, right * (1 - y), 1 - y], axis=1)
    return {
        "auroc": auroc(label, score, sample),
        "accuracy": sample.mean(right),
        "balanced_accuracy": sample.interval(
            balanced, lambda s: (s[..., 0] / s[..., 1] + s[..., 2] / s[..., 3]) / 2
        ),
        "log_loss": sample.mean(np.logaddexp(0.0, np.where(y == 1, -score, score))),
        "ece": ece(y, expit(score), sample),
    }


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
    confidence, right = expit(np.abs(margin)), (margin > 0) + 0.5 * (margin == 0)
    return {
        "pair_accuracy": sample.mean(right),
        "chosen": sample.mean(chosen),
        "rejected": sample.mean(rejected),
        "margin": sample.mean(margin),
        "log_loss": sample.mean(np.logaddexp(0.0, -margin)),
        "ece": ece(right, confidence, sample),
    }


def pearson(x: Array, y: Array, sample: Resampler) -> Interval:
    """Return Pearson's correlation of x and y, shape (n,) each."""
    x, y = x - x.mean(), y - y.mean()  # only against cancellation: the formula centres anyway
    rows = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def formula(s: Array) -> Array:
        n, sx, sy, sxx, syy, sxy = np.moveaxis(s, -1, 0)
        variance = np.maximum((sxx - sx * sx / n) * (syy - sy * sy / n), 0.0)
        return np.asarray(
            np.where(variance > 1e-24, (sxy - sx * sy / n) / np.sqrt(variance), np.nan)
        )

    return sample.interval(rows, formula)


def auroc(label: NDArray[Any], score: Array, sample: Resampler) -> Interval:
    """Return the area under the ROC curve of labels 0 and 1 by score, (n,) each; ties count half."""
    _, place = np.unique(score, return_inverse=True)
    order = np.argsort(place.reshape(-1), kind="stable")
    starts = np.flatnonzero(np.diff(place.reshape(-1)[order], prepend=-1))
    positive = label[order] == 1

    def area(weights: Array) -> Array:
        """Area for row weights (..., n), already in the order of the scores."""
        up = np.add.reduceat(np.where(positive, weights, 0.0), starts, axis=-1)
        down = np.add.reduceat(np.where(positive, 0.0, weights), starts, axis=-1)
        below = np.cumsum(down, axis=-1) - down / 2
        pairs = up.sum(axis=-1) * down.sum(axis=-1)
        return np.asarray(np.where(pairs > 0, (up * below).sum(axis=-1) / pairs, np.nan))

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(area(np.ones(len(score))))
        code = sample.code[order]
        step = max(1, 4_000_000 // max(1, len(score)))  # bound the memory of the draws
        drawn = [area(sample.draws[i : i + step, code]) for i in range(0, sample.n_boot, step)]
    return sample.around(value, np.concatenate(drawn))


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
    rows = np.zeros((len(target), 2))
    order = np.argsort(sample.code, kind="stable")
    for index in np.split(order, np.flatnonzero(np.diff(sample.code[order])) + 1):
        truth = np.sign(target[index][:, None] - target[index])
        predicted = np.sign(prediction[index][:, None] - prediction[index])
        ordered = truth > 0
        rows[index[0]] = ((predicted[ordered] + 1) / 2).sum(), ordered.sum()
    return sample.interval(rows, lambda s: np.where(s[..., 1] > 0, s[..., 0] / s[..., 1], np.nan))


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
