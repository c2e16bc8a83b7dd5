"""The three prediction problems behind one surface, ratings, labels and pairs, and their scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from probekit.activations.table import Examples
from probekit.data.rows import Kind
from probekit.errors import DataError
from probekit.probes.metrics import (
    PRIMARY,
    area,
    correlation,
    label_metrics,
    pair_metrics,
    rating_metrics,
    tag_values,
    wins,
)
from probekit.probes.splits import (
    FRACTIONS,
    Index,
    Splits,
    fair_cap,
    parts_by_group,
    split_by_group,
    within_cap,
)
from probekit.probes.units import from_unit, on_scale, target_range, to_unit
from probekit.results.intervals import Array, Interval, Metrics, Resampler, change


@dataclass(frozen=True)
class Task:
    """Rows of a store as units of prediction (a row, or a pair) with targets and splits.

    Scores are always given for every example row; the task knows which rows make a unit.
    """

    examples: Examples
    splits: Splits
    """Indices of units."""
    seed: int
    n_boot: int
    scale: tuple[float, float] | None = None
    """Ends of the ratings' scale, where it is stated."""

    @classmethod
    def of(
        cls,
        examples: Examples,
        *,
        seed: int = 0,
        n_boot: int = 1000,
        fractions: tuple[float, float, float] = FRACTIONS,
        stratify: str | None = None,
        group_cap: int | None = 0,
        scale: str | None = None,
        several: bool = False,
    ) -> Task:
        """Check the targets and split the units by group.

        Labels are spread evenly over the splits, and so are the values of the tag `stratify`. At most
        `group_cap` units of a group are in its split, drawn at random; 0 takes all, None as many as
        `fair_cap` says. Pairs with one text on both sides are in none: they prefer nothing, and would
        count as half a win for every head. `scale` is LOW:HIGH, the ends of the ratings' scale. Three or
        more classes are refused but with `several`.

        Raises
        ------
        DataError
            With a rating outside of its scale, fewer than 3 groups, one class, or one rating; when every
            pair has identical sides, or a row lacks the tag.
        """
        _check_targets(examples)
        bounds = on_scale(examples, scale)
        if examples.several and not several:
            raise DataError(
                f"labels: the store has {len(examples.several)} classes, expected two. Cache it with "
                "--positive NAME to tell one from the rest."
            )
        step = 2 if examples.kind == "pair" else 1
        strata, groups = _strata(examples, stratify), examples.group[::step]
        known = np.arange(len(groups))
        if examples.identical is not None:
            known = np.flatnonzero(~examples.identical)
        groups = groups[known]
        splits = split_by_group(
            groups,
            strata=None if strata is None else strata[::step][known],
            seed=seed,
            fractions=fractions,
        )
        if group_cap is None:
            group_cap = fair_cap(np.unique(groups, return_counts=True)[1])
        if group_cap:
            kept = within_cap(groups, group_cap, seed=seed)
            splits = Splits(*(units[kept[units]] for units in splits))
        task = cls(examples, Splits(*(known[units] for units in splits)), seed, n_boot, bounds)
        task._check_splits()
        return task

    def outer_folds(self, n_folds: int, stratify: str | None = None) -> list[Task]:
        """Return the task once for each fold of the groups, with that fold as its report split.

        The rest is divided into fit and choose by group, in the proportions of the single split.
        Labels, or the values of the tag `stratify`, are spread evenly over all of them.

        Raises
        ------
        DataError
            With fewer groups than folds, or a fold that has one class only.
        """
        used = self.used
        if (n_groups := len(np.unique(self.group_codes[used]))) < n_folds:
            raise DataError(
                f"outer_folds {n_folds}: there are {n_groups} groups. Give fewer folds."
            )
        strata = _strata(self.examples, stratify)
        strata = np.zeros(len(self.rows)) if strata is None else strata[self.rows]
        part = parts_by_group(
            self.group_codes[used], (1.0,) * n_folds, strata=strata[used], seed=self.seed
        )
        tasks = []
        for fold in range(n_folds):
            rest = used[part != fold]
            inner = parts_by_group(
                self.group_codes[rest],
                FRACTIONS[:2],
                strata=strata[rest],
                seed=self.seed + fold + 1,
            )
            splits = Splits(rest[inner == 0], rest[inner == 1], used[part == fold])
            tasks.append(replace(self, splits=splits))
        try:
            for task in tasks:
                task._check_splits()
        except DataError:
            raise DataError(
                f"outer_folds {n_folds}: a fold has one class only. Give fewer folds, or more groups "
                "of the rarer class."
            ) from None
        return tasks

    @property
    def kind(self) -> Kind:
        """`rating`, `label` or `pair`."""
        return self.examples.kind

    @property
    def primary(self) -> str:
        """Name of the metric that cells are chosen by."""
        return PRIMARY[self.kind]

    @cached_property
    def rows(self) -> Index:
        """First example row of every unit, shape (n_units,)."""
        return np.arange(0, len(self.examples), 2 if self.kind == "pair" else 1)

    @cached_property
    def groups(self) -> NDArray[Any]:
        """Group of every unit, shape (n_units,)."""
        return self.examples.group[self.rows]

    @cached_property
    def group_codes(self) -> Index:
        """Number of every unit's group in the order of their names, shape (n_units,)."""
        return np.unique(self.groups, return_inverse=True)[1].reshape(-1)

    @cached_property
    def used(self) -> Index:
        """Units in a split, (n_used,): not those beyond their group's cap, nor pairs of one text."""
        return np.sort(np.concatenate(self.splits))

    def example_rows(self, units: Index) -> Index:
        """Return the example rows of units (n,), both sides of a pair: shape (n,) or (2 * n,)."""
        rows = self.rows[units]
        return np.concatenate([rows, rows + 1]) if self.kind == "pair" else rows

    @cached_property
    def score_range(self) -> tuple[float, float] | None:
        """Ratings that map to -1 and 1: the ends of the scale, else the range of the fit split."""
        if self.examples.score is None or self.scale:
            return self.scale
        return target_range(self.examples.score[self.splits.fit], option=True)

    @cached_property
    def target(self) -> Array:
        """What is fitted, shape (n_units,): the rating in [-1, 1], or +1 and -1 (pairs: all +1)."""
        if self.examples.score is not None:
            return to_unit(self.examples.score, self.score_range)
        if self.examples.label is not None:
            return np.asarray(2.0 * self.examples.label - 1.0, dtype=np.float64)
        return np.ones(len(self.rows))

    def design(self, features: NDArray[Any], units: Index) -> NDArray[Any]:
        """Return features (n, n_features) of n units, or chosen minus rejected, of all (n_examples, ...)."""
        rows = self.rows[units]
        if self.kind == "pair":
            return np.asarray(features[rows] - features[rows + 1])
        return np.asarray(features[rows])

    def shuffled(self, rng: np.random.Generator) -> Array:
        """Return the fit split's targets, (n_fit,), without their relation to the text.

        Whole groups trade places, so that targets alike within a group stay together, and then the
        rows of every group do, for groups that all hold the same mix would otherwise be unchanged.
        A pair's sides are swapped for whole groups at random.
        """
        groups, target = self.group_codes[self.splits.fit], self.target[self.splits.fit]
        names, code = np.unique(groups, return_inverse=True)
        if self.kind == "pair":
            return np.asarray(rng.choice([-1.0, 1.0], size=len(names))[code])
        place, within = rng.permutation(len(names)), rng.random(len(code))
        moved = np.empty_like(target)
        moved[np.lexsort((within, code))] = target[np.argsort(place[code], kind="stable")]
        return moved

    def sampler(self, units: Index) -> Resampler:
        """Return the resampler of some units."""
        return Resampler(self.group_codes[units], n_boot=self.n_boot, seed=self.seed)

    def metrics(self, scores: Array, units: Index, sample: Resampler) -> Metrics:
        """Return every metric of scores (n_examples,) on some units."""
        rows = self.rows[units]
        if self.examples.score is not None:
            return rating_metrics(
                self.examples.score[rows], from_unit(scores[rows], self.score_range), sample
            )
        if self.examples.label is not None:
            return label_metrics(self.examples.label[rows], scores[rows], sample)
        return pair_metrics(scores[rows], scores[rows + 1], sample)

    def difference(self, scores: Array, others: Array, units: Index, sample: Resampler) -> Interval:
        """Return how much better the primary metric is of `scores` than of `others`, paired.

        Parameters
        ----------
        scores, others
            Score of every example row, shape (n_examples,) each.
        units
            Units that are judged, shape (n,).
        sample
            Resampler of the same n units.
        """
        rows = self.rows[units]
        if self.kind == "pair":
            right = (wins(side[rows] - side[rows + 1]) for side in (scores, others))
            return sample.share_change(np.subtract(*right))
        if self.examples.score is not None:
            both = [
                correlation(self.examples.score[rows], s[rows], sample) for s in (scores, others)
            ]
        else:
            assert self.examples.label is not None
            both = [area(self.examples.label[rows], s[rows], sample)[0] for s in (scores, others)]
        # A quarter of a group: more is too wide where both areas are near 1, none too narrow.
        imagined = 0.0 if self.kind == "rating" else 0.25 / max(both[0].support, 1.0)
        influence = both[0].influence - both[1].influence
        return change(both[0].value - both[1].value, influence, both[0].support, imagined)

    def length_features(self) -> Array:
        """Return tokens and log tokens of every example row, shape (n_examples, 2)."""
        n = self.examples.n_tokens.astype(np.float64)
        return np.asarray(np.column_stack([n, np.log(np.maximum(n, 1.0))]), dtype=np.float64)

    def primary_values(self, scores: Array, units: Index) -> Array:
        """Return the primary metric of many scores (n_examples, n_scores) without intervals."""
        rows = self.rows[units]
        if self.kind == "pair":
            return np.asarray(wins(scores[rows] - scores[rows + 1]).mean(axis=0))
        if self.examples.score is not None:
            x, y = scores[rows] - scores[rows].mean(axis=0), self.examples.score[rows]
            y = y - y.mean()
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(y @ x / np.sqrt((x * x).sum(axis=0) * (y @ y)))
        assert self.examples.label is not None
        ranks, one = rankdata(scores[rows], axis=0), self.examples.label[rows] == 1
        up, down = int(one.sum()), int((~one).sum())
        return np.asarray((ranks[one].sum(axis=0) - up * (up + 1) / 2) / (up * down))

    def by_tag(self, scores: Array, units: Index) -> dict[str, dict[str, Metrics]]:
        """Return every metric for every value of every tag that splits the units.

        Parameters
        ----------
        scores
            Score of every example row, shape (n_examples,).
        units
            Units that are judged, shape (n,).
        """
        found = tag_values({t: v[self.rows[units]] for t, v in self.examples.tags.items()})
        return {
            tag: {
                name: self.metrics(scores, units[inside], self.sampler(units[inside]))
                for name, inside in parts.items()
            }
            for tag, parts in found.items()
        }

    def counts(self) -> dict[str, int]:
        """Return how many units and groups there are, in all and in each split, and in its largest group.

        `capped` units are in none, beyond the cap of their group; nor are pairs with `identical` sides.
        """
        counts = {"examples": len(self.rows), "groups": len(np.unique(self.group_codes))}
        same = self.examples.identical
        counts["identical"] = 0 if same is None else int(same.sum())
        counts["capped"] = len(self.rows) - len(self.used) - counts["identical"]
        for name, units in self.splits._asdict().items():
            counts[name] = len(units)
            sizes = np.unique(self.group_codes[units], return_counts=True)[1]
            counts |= {f"{name}_groups": len(sizes), f"{name}_largest": int(sizes.max())}
        return counts

    def _check_splits(self) -> None:
        if self.examples.label is None:
            return
        for name, units in self.splits._asdict().items():
            n = len(self.examples.several) or 2
            if len(found := np.unique(self.examples.label[units])) < n:
                if n > 2:
                    missing = next(k for k in range(n) if k not in found)
                    raise DataError(
                        f"labels: the {name} split has no row of {self.examples.several[missing]!r}. Every "
                        "class needs at least 3 groups."
                    )
                raise DataError(
                    f"labels: the {name} split has one class only ({len(units)} rows). Both classes "
                    "need at least 3 groups."
                )


def _strata(examples: Examples, tag: str | None) -> NDArray[Any] | None:
    """Return what is spread evenly over the splits, one a row; None when it is nothing."""
    if not tag:
        return examples.label
    values = examples.tags.get(tag)
    if values is None or (values == "").any():
        missing = len(examples) if values is None else int((values == "").sum())
        raise DataError(
            f"stratify {tag!r}: {missing} of {len(examples)} rows have no such tag. Expected one of "
            f"{', '.join(sorted(examples.tags)) or 'no tag: rows have none'}, on every row."
        )
    if examples.label is None:
        return values
    both = zip(examples.label, values, strict=True)
    return np.array([f"{label}{value}" for label, value in both], dtype=object)


def _check_targets(examples: Examples) -> None:
    if examples.identical is not None and examples.identical.all():
        raise DataError(
            f"pairs: the sides of all {len(examples) // 2} are the same text, so none is preferred. "
            "Expected chosen and rejected texts that differ."
        )
    if examples.label is not None and len(np.unique(examples.label)) < 2:
        raise DataError("labels: the store has one class only. Cache rows of both classes.")
    if examples.score is not None and np.ptp(examples.score) == 0:
        raise DataError(
            f"ratings: every score is {examples.score[0]:g}. Cache rows with different scores."
        )
