"""The settings of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from probekit.errors import ProbeError, ProbekitError
from probekit.settings import Listed, Numbers, Rule, Settings, setting

_heads = partial(setting, group="Heads")
_cells = partial(setting, group="Cells of the store")
_splits = partial(setting, group="Splits and intervals")
L2_FACTORS = tuple(10.0 ** (k / 2) for k in range(-5, 5))
"""Candidates for l2 in units of n_fit times the mean feature variance, from 0.003 to 100."""


def _outer(n_folds: int) -> int:
    if n_folds and not 3 <= n_folds <= 10:
        raise ValueError(f"got {n_folds}, expected 3 to 10, or 0 for none.")
    return n_folds


OuterFolds = Annotated[int, Rule(after=_outer)]


@dataclass(frozen=True)
class SweepConfig(Settings):
    """What to fit and how to judge it.

    Examples
    --------
    >>> from probekit.probes import SweepConfig
    >>> config = SweepConfig(kinds="logistic,mean-difference", layers="8:24:4")
    >>> config.layers, config.n_folds
    ('8:24:4', 5)
    """

    error: ClassVar[type[ProbekitError]] = ProbeError
    kinds: Listed = _heads("auto", "Kinds of probe", common=True, option="--kind")
    """Kinds of probe with commas: logistic, mean-difference, ridge, bradley-terry, or auto for those
    that fit the data; mlp and attention (which reads position all) stand beside them."""
    aggregates: Listed | None = _heads(None, "Aggregates", option="--aggregate")
    """Rules with commas by which a head beside the others is fitted and read over all tokens: max, rolling:K,
    ema[:A] or softmax[:T]; the store needs position all."""
    head: Literal["linear", "projection"] = _heads("linear", "Bradley-Terry head", common=True)
    """How a bradley-terry head is solved: exact and convex (linear), or a trained matrix (projection)."""
    layers: Listed = _cells("all", "Layers", common=True)
    """Layers of the store: all, or layers and slices such as 0,4,8:24:2,-1."""
    positions: Listed | None = _cells(None, "Positions", common=True)
    """Position rules of the store, with commas; without it all of them."""
    sites: Listed | None = _cells(None, "Sites", common=True)
    """Sites of the store, with commas; without it all but the embedding."""
    seed: int = _splits(0, "Seed", common=True)
    """Seed of splits, folds, controls and intervals."""
    scale: str | None = _heads(None, "Scale of ratings", common=True)
    """Ends of the ratings' scale as LOW:HIGH, which scores of -1 and 1 stand for; others are refused.
    Without it they stand for the range of the fit split."""
    stratify: str | None = _splits(None, "Stratified by", common=True)
    """Tag whose values are spread evenly over the splits."""
    n_boot: int = _splits(1000, "Bootstrap draws", ge=1)
    """Bootstrap draws of an interval."""
    n_folds: int = _splits(5, "Folds", ge=2)
    """Folds inside the fit split, by groups, that choose l2."""
    outer_folds: OuterFolds = _splits(0, "Outer folds", common=True)
    """Repeat the whole choice and fit for each of 3 to 10 folds of the groups, so that every row is
    reported by a head that has not seen it; for under about 500 rows. 0 leaves it out."""
    group_cap: int | None = _splits(None, "Rows of a group", common=True, ge=0)
    """Most rows (pairs) of one group that are used, drawn at random; the others are in no split. Without it
    as many as leave no group more than four equal shares of the rows (4 / number of groups); 0: all."""
    standardize: bool = _heads(default=True, title="Features standardised")
    """Divide features by their standard deviation in the fit split, which is folded into the weights."""
    l2_factors: Numbers = _heads(L2_FACTORS, "l2 candidates")
    """Candidates for l2, in units of the rows of the fit split times the mean feature variance."""
