"""What a probe must beat: length, words, a random direction, shuffled labels, the embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.activations.table import Examples
from probekit.probes.heads import HeadFitter
from probekit.probes.splits import Index
from probekit.probes.task import Task
from probekit.results.intervals import Array, Interval, Metrics

N_DIRECTIONS = 50
N_SHUFFLES = 5
# The dense TF-IDF matrix may take this many numbers; more rows get fewer terms.
TFIDF_NUMBERS = 40_000_000


def length_scores(fitter: HeadFitter) -> Array:
    """Return scores from completion length alone (tokens and log tokens), shape (n_examples,)."""
    features = fitter.task.length_features()
    return fitter.fit(features)[0].scores(features)


def tfidf_scores(fitter: HeadFitter) -> Array:
    """Return scores from TF-IDF of word 1-2-grams under the same head, shape (n_examples,).

    The vocabulary comes from the fit split. The text is the completion, or the prompt of rows that
    end with it.
    """
    features = tfidf_features(fitter.task.examples, _fit_rows(fitter.task))
    return fitter.fit(features)[0].scores(features)


def tfidf_features(examples: Examples, fit_rows: Index) -> Array:
    """Return TF-IDF features with the vocabulary of the fit rows, shape (n_examples, n_terms)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [
        str(completion) or str(prompt)
        for completion, prompt in zip(examples.completion, examples.prompt, strict=True)
    ]
    limit = int(np.clip(TFIDF_NUMBERS // max(1, len(texts)), 500, 20_000))
    # Single letters and digits are words too; without them short texts have no features.
    options: dict[str, Any] = {"token_pattern": r"(?u)\b\w+\b", "ngram_range": (1, 2)}
    fit_texts = [texts[i] for i in fit_rows]
    for least in (2, 1):
        vectorizer = TfidfVectorizer(
            max_features=limit, sublinear_tf=True, min_df=least, dtype=np.float32, **options
        )
        try:
            vectorizer.fit(fit_texts)
        except ValueError:  # no term is left
            continue
        return np.asarray(vectorizer.transform(texts).toarray(), dtype=np.float64)
    return np.zeros((len(texts), 1))


def random_direction(task: Task, acts: NDArray[Any], units: Index, *, seed: int) -> Metrics:
    """Return the primary metric of random directions in standardised space: mean and 95 % range.

    The sign of each direction is taken in its favour, so the mean lies a little above chance.

    Parameters
    ----------
    task
        The rows and their splits.
    acts
        Activations of every example row, shape (n_examples, d_model).
    units
        Units that are judged, shape (n_units,).
    seed
        Seed of the directions.
    """
    rng = np.random.default_rng(seed)
    scale = acts[_fit_rows(task)].std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, np.inf)
    directions = rng.standard_normal((acts.shape[1], N_DIRECTIONS)) / scale[:, None]
    values = task.primary_values(acts @ directions, units)
    return {task.primary: spread(in_favour(task, values))}


def in_favour(task: Task, values: Array) -> Array:
    """Return the metric (n_directions,) of each direction or of its opposite, whichever is better."""
    return np.abs(values) if task.kind == "rating" else np.maximum(values, 1 - values)


def spread(values: Array) -> Interval:
    """Return the mean of repeated draws (n_draws,) and the range that holds 95 % of them."""
    if not np.isfinite(values).any():
        return Interval(np.nan, np.nan, np.nan)
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Interval(float(np.nanmean(values)), float(low), float(high))


def _fit_rows(task: Task) -> Index:
    """Return the example rows of the fit split, both sides of a pair."""
    rows = task.rows[task.splits.fit]
    return np.concatenate([rows, rows + 1]) if task.kind == "pair" else rows
