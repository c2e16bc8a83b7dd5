"""Splits that a group never straddles: fit, choose and report, and the folds inside fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.errors import DataError

FRACTIONS = (0.6, 0.2, 0.2)
SHARES = 4
"""No group holds more of the rows than this many equal shares (`benchmarks/groups.py`)."""
Index = NDArray[np.int64]


class Splits(NamedTuple):
    """Row indices of the three splits; every group is in exactly one."""

    fit: Index
    """Everything is learned here, l2 by folds inside it."""
    choose: Index
    """Layer, position and kind are chosen here."""
    report: Index
    """Read once, for the chosen cell and its controls."""


def split_by_group(
    groups: NDArray[Any],
    *,
    strata: NDArray[Any] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Splits:
    """Divide rows into fit, choose and report by group.

    Parameters
    ----------
    groups
        Group of every row, shape (n,).
    strata
        Class of every row, shape (n,); groups with the same set of classes are spread evenly.
    seed
        The same seed and groups give the same splits, whatever the order of the rows.

    Raises
    ------
    DataError
        With fewer than 3 groups.
    """
    if (n_groups := len(np.unique(groups))) < 3:
        raise DataError(
            f"groups: {n_groups} in all, expected at least 3 (one each to fit, choose and "
            "report). Give rows distinct prompts or `group` fields."
        )
    part = parts_by_group(groups, fractions, strata=strata, seed=seed)
    return Splits(*(np.flatnonzero(part == k) for k in range(3)))


def fair_cap(sizes: NDArray[Any], shares: float = SHARES) -> int:
    """Return the most rows of a group such that none holds over `shares` / n_groups of all that stay.

    Parameters
    ----------
    sizes
        Rows of every group, shape (n_groups,).
    shares
        Equal shares that one group may hold.
    """
    cap = float(sizes.max())
    while (fair := shares * float(np.minimum(sizes, cap).mean())) < cap - 1e-9:
        cap = fair
    return int(cap + 1e-6)


def within_cap(groups: NDArray[Any], cap: int, *, seed: int = 0) -> NDArray[np.bool_]:
    """Return which rows stay, shape (n,): `cap` of every group that has more, drawn at random.

    Parameters
    ----------
    groups
        Group of every row, shape (n,).
    cap
        Rows of one group that stay.
    seed
        Seed of the draw.
    """
    code = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(code)
    order = np.lexsort((np.random.default_rng(seed).random(len(code)), code))
    place = np.empty(len(code), dtype=np.int64)
    place[order] = np.arange(len(code)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(place < cap)


def parts_by_group(
    groups: NDArray[Any],
    fractions: tuple[float, ...],
    *,
    strata: NDArray[Any] | None = None,
    seed: int = 0,
) -> Index:
    """Return the part of every row, shape (n,): groups are dealt in proportion to the fractions.

    Parameters
    ----------
    groups
        Group of every row, shape (n,); at least as many as there are fractions.
    fractions
        Size of each part in proportion to the others.
    strata
        Class of every row, shape (n,); groups with the same set of classes are spread evenly.
    seed
        The same seed and groups give the same parts, whatever the order of the rows.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    part = np.empty(len(names), dtype=np.int64)
    # Deal the groups of every stratum out of one stream so that the totals keep the fractions.
    order = np.concatenate([rng.permutation(kind) for kind in _by_stratum(inverse, names, strata)])
    part[order] = _deal(len(names), fractions)
    return np.asarray(part[inverse])


def fold_by_group(groups: NDArray[Any], n_folds: int, *, seed: int) -> NDArray[np.int64]:
    """Return the fold of every row, shape (n,); groups are spread so that folds have equal rows.

    With fewer groups than folds there are as many folds as groups.
    """
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    n_folds = max(2, min(n_folds, len(names)))
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    fold, load = np.empty(len(names), dtype=np.int64), np.zeros(n_folds)
    for group in order:  # the largest first, each to the emptiest fold
        fold[group] = np.argmin(load)
        load[fold[group]] += counts[group]
    return fold[inverse]


def _by_stratum(
    inverse: NDArray[np.int64], names: NDArray[Any], strata: NDArray[Any] | None
) -> list[NDArray[np.int64]]:
    if strata is None:
        return [np.arange(len(names))]
    codes = np.unique(strata, return_inverse=True)[1]
    # A group's stratum is the set of classes that its rows have.
    table = np.zeros((len(names), codes.max() + 1), dtype=bool)
    table[inverse, codes] = True
    kinds = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(kinds == kind) for kind in range(kinds.max() + 1)]


def _deal(n: int, fractions: tuple[float, ...]) -> NDArray[np.int64]:
    """Return a part for each of n cards: interleaved, in proportion, every part at least once."""
    shares = np.asarray(fractions) / sum(fractions)
    dealt, parts = np.zeros(len(shares)), np.empty(n, dtype=np.int64)
    for i in range(n):
        parts[i] = np.argmax(shares * (i + 1) - dealt)
        dealt[parts[i]] += 1
    for part in np.flatnonzero(dealt == 0):
        parts[np.flatnonzero(parts == np.argmax(dealt))[-1]] = part
        dealt[part], dealt[np.argmax(dealt)] = 1, dealt.max() - 1
    return parts
