"""How alike completions are: measures of a set, not of a row, with jackknife intervals over prompts.

Each prompt is left out in turn. The variance of these values is, on average, no less than that of the
measure (Efron and Stein 1981), for any measure of a set of one size, so what an interval is of is the
measure's mean over sets of as many prompts. A set of another size has other shares.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.results.intervals import NO_VALUE, Array, Interval, change, enough, kish, score

WORDS = 5
"""Words of an opening."""
_WORD = re.compile(r"[\w']+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


class Jackknife(NamedTuple):
    """A measure of a set, and of the set without each prompt."""

    value: float
    without: Array
    """Shape (n_prompts,), prompts in the order of their ids."""
    sizes: NDArray[np.int64]
    """Completions of each prompt, shape (n_prompts,)."""
    rarer: int | None = None
    """Of a share: how many prompts hold the rarer outcome."""

    def interval(self, before: Jackknife | None = None) -> Interval:
        """Return the measure with its interval, or its change since the same prompts' `before`."""
        n, support = len(self.sizes), kish(self.sizes) if len(self.sizes) else 0.0
        value = self.value - (before.value if before else 0.0)
        if not math.isfinite(value) or not enough(n, support):
            return Interval(value)
        without = self.without - (before.without if before else 0.0)
        influence = (n - 1) / n * (without.mean() - without)
        if before is None and self.rarer is not None:
            return score(value, influence, support, self.rarer, most=float(self.sizes.sum()))
        return change(value, influence, support, 0.0 if self.rarer is None else 1 / support)


def words(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation."""
    return _WORD.findall(text.casefold())


def opening(groups: Sequence[Any], texts: Sequence[str]) -> Jackknife:
    """Return the share of completions that begin with the commonest first words.

    Parameters
    ----------
    groups
        Prompt of each completion, n of them.
    texts
        The completions.
    """
    code, begins = _code(groups), [" ".join(words(text)[:WORDS]) for text in texts]
    every, sizes = Counter(begins), np.bincount(code)
    ranked, without = every.most_common(), []
    for own, left in zip(_by_group(code, begins), len(texts) - sizes, strict=True):
        others = next((n for key, n in ranked if key not in own), 0)
        without.append(max(others, *(every[key] - n for key, n in own.items())) / max(left, 1))
    top = np.array([begin == ranked[0][0] for begin in begins])
    return Jackknife(ranked[0][1] / len(texts), np.array(without), sizes, _rarer(code, top))


def first_sentences(groups: Sequence[Any], texts: Sequence[str]) -> Jackknife:
    """Return how many different first sentences there are, over the number of completions.

    Parameters
    ----------
    groups
        Prompt of each completion, n of them.
    texts
        The completions.
    """
    code = _code(groups)
    first = [" ".join(words(_SENTENCE.split(text.strip(), maxsplit=1)[0])) for text in texts]
    every, sizes = Counter(first), np.bincount(code)
    lost = [sum(every[k] == n for k, n in own.items()) for own in _by_group(code, first)]
    without = (len(every) - np.array(lost)) / np.maximum(len(texts) - sizes, 1)
    alone = np.array([every[sentence] == 1 for sentence in first])
    return Jackknife(len(every) / len(texts), without, sizes, _rarer(code, alone))


def alike(groups: Sequence[Any], texts: Sequence[str]) -> Jackknife:
    """Return the mean cosine of completions of different prompts, as counts of word pairs.

    The ends of a text count as words, so that empty texts and those of one word have pairs too.

    Parameters
    ----------
    groups
        Prompt of each completion, n of them.
    texts
        The completions.
    """
    from scipy.sparse import csr_array

    places: dict[tuple[str, str], int] = {}
    rows, columns, counts = [], [], []
    for i, text in enumerate(texts):
        own = ["<", *words(text), ">"]
        for pair, n in Counter(zip(own, own[1:], strict=False)).items():
            rows.append(i)
            columns.append(places.setdefault(pair, len(places)))
            counts.append(float(n))
    return similarity(groups, csr_array((counts, (rows, columns)), (len(texts), len(places))))


def similarity(groups: Sequence[Any], vectors: Any) -> Jackknife:  # noqa: ANN401 - dense or sparse
    """Return the mean cosine over pairs of rows of different groups, in closed form.

    With u the unit vectors, S their sum and S_g that of group g, the sum over ordered pairs is
    |S|^2 - sum_g |S_g|^2: time and memory are linear in the rows.

    Parameters
    ----------
    groups
        Group of each row, n of them.
    vectors
        Shape (n, d), an array or a sparse one. Rows with a NaN, and rows of zeros, are left out.
    """
    from scipy.sparse import csr_array

    rows = csr_array(vectors, dtype=float)
    norms = np.sqrt(rows.multiply(rows).sum(axis=1))
    known = np.isfinite(norms) & (norms > 0)
    if not known.any():
        return Jackknife(math.nan, np.empty(0), np.empty(0, dtype=np.int64))
    code = _code(np.asarray(groups)[known])
    n, sizes = len(code), np.bincount(code)
    scale = (1 / norms[known], (code, np.flatnonzero(known)))
    sums = csr_array(csr_array(scale, (len(sizes), len(norms))) @ rows)  # S_g, (n_groups, d)
    own = np.asarray(sums.multiply(sums).sum(axis=1))
    across = sums @ np.asarray(sums.sum(axis=0)) - own  # with the rows of other groups
    total, pairs = across.sum(), float(n**2 - (sizes**2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        without = (total - 2 * across) / (pairs - 2 * sizes * (n - sizes))
        return Jackknife(float(total / pairs) if pairs else math.nan, without, sizes)


TEXTS: dict[str, Callable[[Sequence[Any], Sequence[str]], Jackknife]] = {
    "opening": opening, "first_sentences": first_sentences, "alike": alike,
}  # fmt: skip
"""Measures of completions' texts, by their keys in measures.toml."""


def jackknife(name: str, groups: Sequence[Any], *sides: Sequence[Sequence[str]]) -> Interval:
    """Return one of `TEXTS` at an evaluation or, of two, its paired change from the second to the first.

    Parameters
    ----------
    name
        Key of `TEXTS`.
    groups
        Prompt of each completion, n of them.
    *sides
        The same prompts' completions at each of one or more evaluations, which the measure is averaged over.
    """
    if not len(groups) or not all(sides):
        return NO_VALUE
    ends = []
    for side in sides:
        found = [TEXTS[name](groups, texts) for texts in side]
        mean = float(np.mean([one.value for one in found]))
        without = np.mean([one.without for one in found], axis=0)
        ends.append(found[0]._replace(value=mean, without=without))
    return ends[0].interval(*ends[1:])


def _code(groups: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    return np.unique(np.asarray(groups, dtype=object), return_inverse=True)[1].reshape(-1)


def _by_group(code: NDArray[np.int64], keys: Sequence[str]) -> list[Counter[str]]:
    found: list[Counter[str]] = [Counter() for _ in range(int(code.max()) + 1)]
    for group, key in zip(code, keys, strict=True):
        found[group][key] += 1
    return found


def _rarer(code: NDArray[np.int64], holds: NDArray[np.bool_]) -> int:
    """Return how many groups hold the rarer outcome."""
    return min(len(np.unique(code[holds])), len(np.unique(code[~holds])))
