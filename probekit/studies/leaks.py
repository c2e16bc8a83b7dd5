"""What words and length alone tell of the sides of pairs: where a head could look instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.probes.bootstrap import Array, Interval, Resampler

FOLDS = 5
WORDS = 20_000
"""Most frequent words and word pairs that are looked at."""


def leak_check(
    pairs: Sequence[dict[str, Any]], class_tag: str, *, seed: int = 0, n_boot: int = 1000
) -> dict[str, Any]:
    """Return how well words (TF-IDF) and length alone tell chosen from rejected.

    Logistic regression on the difference of the sides' features, in folds by group; the accuracy of
    pairs with intervals over groups. `total` is fitted to all pairs, every entry of `by_class` to the
    pairs of that class alone. Where the polarity is flipped by class a class may be told apart
    entirely, and all pairs together no better than by chance.

    Parameters
    ----------
    pairs
        Pair rows.
    class_tag
        Tag of their class.
    seed, n_boot
        Of the folds' order; draws of the intervals.

    Returns
    -------
    dict
        `total` and `by_class`: {`tfidf`, `length`} to intervals (None where there are too few groups);
        `leaks`: the names of features that are above chance in total.
    """
    features = _words(pairs), _lengths(pairs)
    groups = np.array([pair["group"] for pair in pairs])
    classes = np.array([pair["tags"][class_tag] for pair in pairs])

    def part(rows: NDArray[np.bool_]) -> dict[str, Interval | None]:
        return {
            name: _accuracy(values[rows], groups[rows], seed, n_boot)
            for name, values in zip(("tfidf", "length"), features, strict=True)
        }

    total = part(np.ones(len(pairs), dtype=bool))
    by_class = {str(value): part(classes == value) for value in np.unique(classes)}
    leaks = [name for name, found in total.items() if found is not None and found.low > 0.5]
    return {
        "total": {name: found and found.to_json() for name, found in total.items()},
        "by_class": {
            value: {name: found and found.to_json() for name, found in parts.items()}
            for value, parts in by_class.items()
        },
        "leaks": leaks,
        "n_pairs": len(pairs),
    }


def _words(pairs: Sequence[dict[str, Any]]) -> Any:  # noqa: ANN401 - a sparse matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    sides = [[str(pair[side]) for pair in pairs] for side in ("chosen", "rejected")]
    # The vocabulary may come from all pairs: it has no labels, and unknown words would tell nothing.
    vectorizer = TfidfVectorizer(
        token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), max_features=WORDS, sublinear_tf=True
    ).fit(sides[0] + sides[1])
    return vectorizer.transform(sides[0]) - vectorizer.transform(sides[1])


def _lengths(pairs: Sequence[dict[str, Any]]) -> Array:
    n = np.array([[len(pair[side].split()) for side in ("chosen", "rejected")] for pair in pairs])
    return np.stack([n[:, 0] - n[:, 1], np.log1p(n[:, 0]) - np.log1p(n[:, 1])], axis=1)


def _accuracy(differences: Any, groups: NDArray[Any], seed: int, n_boot: int) -> Interval | None:  # noqa: ANN401
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < 2:
        return None
    right = np.zeros(differences.shape[0])
    folds = GroupKFold(min(FOLDS, len(np.unique(groups))), shuffle=True, random_state=seed)
    both = sparse.vstack if sparse.issparse(differences) else np.concatenate
    for fit, held in folds.split(right, groups=groups):
        own = differences[fit]
        model = LogisticRegression(fit_intercept=False, max_iter=1000)
        model.fit(both([own, -own]), np.repeat([1, 0], len(fit)))
        scores = model.decision_function(differences[held])
        right[held] = np.where(scores == 0, 0.5, scores > 0)
    return Resampler(groups, n_boot=n_boot, seed=seed).mean(right)
