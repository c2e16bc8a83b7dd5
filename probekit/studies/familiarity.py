"""Which names a model knows well enough to be asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.data.rows import Example
from probekit.errors import DataError


def familiar(
    prompts: Sequence[Example],
    logprobs: NDArray[np.float64],
    class_tag: str,
    lowest: Mapping[str, float],
) -> list[Example]:
    """Return prompts whose name is known well enough, equally many of each class, in their order.

    Parameters
    ----------
    prompts
        Rows that end with their prompt.
    logprobs
        `probekit.activations.names.name_logprobs` of the prompts, shape (n,).
    class_tag
        Tag that holds a prompt's class.
    lowest
        Class to the least log-probability of its names; other classes have no limit.

    Raises
    ------
    DataError
        When a class has none left.
    """
    by_class: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        own = by_class.setdefault(prompt.tags[class_tag], [])
        if logprobs[i] >= lowest.get(prompt.tags[class_tag], -np.inf):
            own.append(i)
    for value, members in by_class.items():
        if not members:
            raise DataError(
                f"classes.{value}.familiar is {lowest[value]}: the model knows none of its names so well. "
                "Use a lower number, or prompts with better known names."
            )
    least = min(map(len, by_class.values()))
    return [prompts[i] for i in sorted(i for own in by_class.values() for i in own[:least])]


def summary(
    prompts: Sequence[Example],
    logprobs: NDArray[np.float64],
    class_tag: str,
    kept: Sequence[Example],
) -> dict[str, Any]:
    """Return how many prompts of each class were kept, and the median log-probability of their names."""
    chosen = {prompt.id for prompt in kept}
    by_class: dict[str, Any] = {}
    for value in sorted({prompt.tags[class_tag] for prompt in prompts}):
        own = [i for i, prompt in enumerate(prompts) if prompt.tags[class_tag] == value]
        by_class[value] = {
            "n": len(own),
            "n_kept": sum(prompts[i].id in chosen for i in own),
            "median_logprob": float(np.median(logprobs[own])),
            "median_logprob_kept": float(
                np.median([logprobs[i] for i in own if prompts[i].id in chosen])
            ),
        }
    return by_class
