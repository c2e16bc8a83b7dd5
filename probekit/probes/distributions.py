"""The scores of the choose split, by side or class, that a probe keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.probes.task import Task
from probekit.results.intervals import Array


def upper_half(ratings: Array) -> NDArray[np.bool_]:
    """Return which ratings (n,) are in the upper half, as near to half of them as ties allow."""
    cuts, counts = np.unique(ratings, return_counts=True)
    if len(cuts) < 2:
        return np.zeros(len(ratings), dtype=bool)
    shares = (len(ratings) - np.cumsum(counts)[:-1]) / len(ratings)  # at or above every later cut
    return np.asarray(ratings >= cuts[1:][np.argmin(np.abs(shares - 0.5))])


def score_distributions(task: Task, scores: Array) -> dict[str, Any]:
    """Return the choose split's scores by side or class, in all and by every value of every tag.

    Rated rows have all their scores, and those of the rows rated in the lower and in the upper half.

    Parameters
    ----------
    task
        The rows and their splits.
    scores
        Score of each example row, shape (n_examples,).
    """
    examples = task.examples
    rows = task.rows[task.splits.choose]

    def of(rows: NDArray[np.int64]) -> dict[str, list[float]]:
        if task.kind == "pair":
            parts = {"chosen": scores[rows], "rejected": scores[rows + 1]}
        elif examples.label is not None and examples.classes is not None:
            label = examples.label[rows]
            parts = {name: scores[rows[label == k]] for k, name in enumerate(examples.classes)}
        else:
            assert examples.score is not None
            upper = upper_half(examples.score[rows])
            parts = {
                "score": scores[rows],
                "lower": scores[rows[~upper]],
                "upper": scores[rows[upper]],
            }
        return {name: np.round(part, 6).tolist() for name, part in parts.items()}

    tags = {
        tag: {str(v): of(rows[values[rows] == v]) for v in np.unique(values[rows]) if v}
        for tag, values in examples.tags.items()
    }
    return {"split": "choose", "all": of(rows), "by_tag": tags}
