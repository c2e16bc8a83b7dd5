"""Surface leaks: how well words and length alone tell chosen from rejected, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.container import as_json
from probekit.probes.metrics import wins
from probekit.results.intervals import Array, Interval, Resampler

FOLDS = 5
ROUNDS = 20
"""Most rounds of taking pairs out; each round divides the pairs into folds anew."""
WORDS = 20_000
"""Most frequent words and word pairs that are looked at."""


def leak_check(
    pairs: Sequence[dict[str, Any]], class_tag: str, *, seed: int = 0, n_boot: int = 1000
) -> dict[str, Any]:
    """Return how well words (TF-IDF) and length alone tell chosen from rejected.

    A logistic regression is fitted to the difference of the two sides' features, cross-validated in folds
    by group. `total` is fitted to all pairs, every entry of `by_class` to the pairs of one class. Where
    the chosen side flips with the class, words may separate the sides within a class and still be at
    chance over all pairs.

    Parameters
    ----------
    pairs
        Pair rows.
    class_tag
        Tag that holds a pair's class.
    seed
        Seed of the division into folds.
    n_boot
        Bootstrap draws of the intervals.

    Returns
    -------
    dict
        `total` and `by_class`: accuracy of pairs by `tfidf` and by `length`, with intervals over groups
        (None where there are too few groups); `leaks`: names of the features above chance in total.
    """
    features = _words(pairs), _lengths(pairs)
    groups = np.array([pair["group"] for pair in pairs], object)
    classes = np.array([pair["tags"][class_tag] for pair in pairs], object)

    def part(rows: NDArray[np.bool_]) -> dict[str, Interval | None]:
        return {
            name: _accuracy(values[rows], groups[rows], seed, n_boot)
            for name, values in zip(("tfidf", "length"), features, strict=True)
        }

    total = part(np.ones(len(pairs), dtype=bool))
    by_class = {str(value): part(classes == value) for value in np.unique(classes)}
    leaks = [name for name, accuracy in total.items() if accuracy and accuracy.low > 0.5]
    return {
        "total": as_json(total),
        "by_class": as_json(by_class),
        "leaks": leaks,
        "n_pairs": len(pairs),
    }


def _words(pairs: Sequence[dict[str, Any]]) -> Any:  # noqa: ANN401 - a sparse matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    sides = [[str(pair[side]) for pair in pairs] for side in ("chosen", "rejected")]
    # The vocabulary may come from all pairs: it holds no labels.
    vectorizer = TfidfVectorizer(
        token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), max_features=WORDS, sublinear_tf=True
    ).fit(sides[0] + sides[1])
    return vectorizer.transform(sides[0]) - vectorizer.transform(sides[1])


def _lengths(pairs: Sequence[dict[str, Any]]) -> Array:
    n = np.array([[len(pair[side].split()) for side in ("chosen", "rejected")] for pair in pairs])
    return np.stack([n[:, 0] - n[:, 1], np.log1p(n[:, 0]) - np.log1p(n[:, 1])], axis=1)


def without_telling_words(
    pairs: Sequence[dict[str, Any]], class_tag: str, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the pairs that are left when words no longer predict the chosen side over all pairs.

    A model uses other words for people it knows ("physicist") than for invented ones ("entrepreneur"), so
    the words of plain answers predict the class, and with it the chosen side. Pairs are taken out that a
    cross-fitted regression on words gets right by the widest margin, equally many of each class, until its
    accuracy is one half. This is the idea of AFLite (arXiv 2002.04108) with one model of words.

    Parameters
    ----------
    pairs
        Pair rows, equally many of each class.
    class_tag
        Tag that holds a pair's class.
    seed
        Seed of the division into folds.
    """
    kept = list(pairs)
    for number in range(ROUNDS):
        groups = np.array([pair["group"] for pair in kept], object)
        if len(np.unique(groups)) < FOLDS:
            break
        scores = _cross_fitted(_words(kept), groups, seed + number)
        wide = float(wins(scores).mean()) - 0.5
        if wide <= 0:
            break
        classes = np.array([pair["tags"][class_tag] for pair in kept], object)
        names, counts = np.unique(classes, return_counts=True)
        n_out = int(wide * counts.min()) + 1
        out: set[int] = set()
        for name in names:
            own = np.flatnonzero(classes == name)
            out.update(own[np.argsort(-scores[own], kind="stable")[:n_out]].tolist())
        kept = [pair for i, pair in enumerate(kept) if i not in out]
    return kept


def _accuracy(differences: Any, groups: NDArray[Any], seed: int, n_boot: int) -> Interval | None:  # noqa: ANN401
    if len(np.unique(groups)) < 2:
        return None
    right = wins(_cross_fitted(differences, groups, seed))
    return Resampler(groups, n_boot=n_boot, seed=seed).share(right)


def _cross_fitted(differences: Any, groups: NDArray[Any], seed: int) -> Array:  # noqa: ANN401
    """Return the score of every pair under a regression that was fitted to other groups."""
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    scores = np.zeros(differences.shape[0])
    folds = GroupKFold(min(FOLDS, len(np.unique(groups))), shuffle=True, random_state=seed)
    both = sparse.vstack if sparse.issparse(differences) else np.concatenate
    for fit, held in folds.split(scores, groups=groups):
        own = differences[fit]
        model = LogisticRegression(fit_intercept=False, max_iter=1000)
        model.fit(both([own, -own]), np.repeat([1, 0], len(fit)))
        scores[held] = model.decision_function(differences[held])
    return scores
