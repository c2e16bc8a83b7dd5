"""`check`: what is in a data set, and what in it would spoil a probe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probekit.data.open import Dataset
from probekit.data.resolution import held_out
from probekit.data.seen import Lengths, Seen

SKEW_AUC = 0.65
"""Length alone tells classes or sides apart this well: worth a warning."""
SKEW_DIFFERENCE = 0.5
"""Mean lengths this many standard deviations apart: worth a warning."""
SKEW_CORRELATION = 0.3
"""Length and score correlate this much: worth a warning."""
OPENING_DIFFERENCE = 0.25
"""An opening whose share differs this much between classes or sides is worth a warning."""
OUTLIER = 8.0
"""Robust standard deviations from the median that make a score an outlier."""


@dataclass(frozen=True)
class CheckReport:
    """Counts, statistics and warnings of a valid data set."""

    source: str
    kind: str
    layout: str
    rows: int
    groups: int
    dropped: dict[str, int]
    """Rows that the layout left out, by reason."""
    classes: dict[str, int]
    """Rows of each class; empty for other kinds."""
    score_range: tuple[float, float] | None
    tags: dict[str, dict[str, int]]
    """Rows of each value of each tag; the commonest ten."""
    length: dict[str, dict[str, float]]
    """Characters of the text: mean, median, p95 and max of `all` rows and of each `class NAME` or side.

    The text is the completion, or the prompt's last turn where a row ends with its prompt."""
    words: dict[str, dict[str, float]]
    """The same in words, split at white space."""
    length_auc: float | None
    """How well characters tell the second class from the first; of pairs, how often the chosen side
    is longer (ties count half). 0.5 tells nothing."""
    length_difference: float | None
    """Mean characters of the second class (the chosen side) minus those of the first (the rejected
    side), over their pooled standard deviation (Cohen's d)."""
    length_correlation: float | None
    """Pearson correlation of characters and score; only for ratings that vary."""
    duplicates: int
    """Rows whose prompt and texts were seen before."""
    conflicts: int
    """Duplicates with another label or score than the first time, or with the sides swapped."""
    first_conflict: str | None
    """Where the first of them stands."""
    identical_sides: int
    """Pairs with one text on both sides."""
    leaking_prompts: int
    """Prompts that occur in more than one group."""
    leaking_texts: int
    """Raw texts, or completions of five words and more, that occur in more than one group."""
    can_show: dict[str, dict[str, Any]]
    """Of the `report` split of a fit, and of `outer` folds over all rows where these are few: `measure`,
    `rows`, `groups`, and `least`, the smallest value whose 95 % interval leaves chance, or None."""
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def check(dataset: Dataset) -> CheckReport:
    """Read a data set once and report what it holds.

    Memory grows by hashes and lengths, about 300 bytes a row, not by the text.

    Warns of length that tells classes, sides or scores apart, openings that one class or side has
    more than the other, identical sides, duplicates and contradictions, rows with and without a prompt,
    prompts or texts that leak between groups, a single class, a constant score, outlying scores, and too
    few groups to split.
    """
    seen = Seen()
    for place, unit in dataset.placed():
        for example in unit:
            seen.add(example, place)
    first, second = _compared(dataset)
    two = second is not None and first is not None
    report = CheckReport(
        source=dataset.source,
        kind=dataset.kind,
        layout=dataset.layout,
        rows=dataset.n_rows,
        groups=dataset.n_groups,
        dropped=dict(dataset.dropped),
        classes={name: seen.classes[name] for name in dataset.classes or ()},
        score_range=dataset.score_range,
        tags={tag: dict(values.most_common(10)) for tag, values in sorted(seen.tags.items())},
        length={name: _statistics(found.characters) for name, found in _named(dataset, seen)},
        words={name: _statistics(found.words) for name, found in _named(dataset, seen)},
        length_auc=_length_auc(dataset, seen, first, second) if two else None,  # type: ignore[arg-type]
        length_difference=_difference(seen.parts[first], seen.parts[second]) if two else None,  # type: ignore[index]
        length_correlation=_correlation(seen),
        duplicates=seen.duplicates,
        conflicts=seen.conflicts,
        first_conflict=seen.first_conflict or None,
        identical_sides=seen.same_sides,
        leaking_prompts=len(seen.leaking_prompts),
        leaking_texts=len(seen.leaking_texts),
        can_show={
            name: found._asdict()
            for name, found in held_out(
                dataset.kind,
                dataset.n_rows,
                dataset.n_groups,
                min(seen.classes.values()) if len(seen.classes) > 1 else 0,
            ).items()
        },
        warnings=[],
    )
    warnings = [*_shortcuts(report, seen, first, second), *_faults(report, seen)]
    return CheckReport(**{**vars(report), "warnings": warnings})


def _compared(dataset: Dataset) -> tuple[str | None, str | None]:
    """Return the two classes, or the rejected and the chosen side."""
    if dataset.kind == "pair":
        return "rejected", "chosen"
    if dataset.classes is not None and len(dataset.classes) == 2:
        return dataset.classes[0], dataset.classes[1]
    return None, None


def _named(dataset: Dataset, seen: Seen) -> Iterator[tuple[str, Lengths]]:
    yield "all", seen.all
    for name in ("chosen", "rejected") if dataset.kind == "pair" else dataset.classes or ():
        # A class may itself be called "all".
        yield name if dataset.kind == "pair" else f"class {name}", seen.parts[name]


def _statistics(values: ArrayLike) -> dict[str, float]:
    lengths = np.asarray(values, dtype=np.float64)
    return {
        "mean": round(float(lengths.mean()), 1),
        "median": float(np.median(lengths)),
        "p95": round(float(np.quantile(lengths, 0.95)), 1),
        "max": float(lengths.max()),
    }


def _length_auc(dataset: Dataset, seen: Seen, first: str, second: str) -> float:
    low, high = (_characters(seen.parts[name]) for name in (first, second))
    if dataset.kind == "pair":  # the sides of one pair are compared with each other only
        return round(float(((high > low) + 0.5 * (high == low)).mean()), 3)
    from scipy.stats import rankdata  # slow to import, and settings are read with this room

    ranks = rankdata(np.concatenate([low, high]))[len(low) :]
    area = (ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high))
    return round(float(area), 3)


def _difference(first: Lengths, second: Lengths) -> float | None:
    low, high = _characters(first), _characters(second)
    freedom = len(low) + len(high) - 2
    squares = ((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum()
    if freedom < 1 or squares == 0.0:
        return 0.0 if low.mean() == high.mean() else None
    return round(float((high.mean() - low.mean()) / np.sqrt(squares / freedom)), 3)


def _correlation(seen: Seen) -> float | None:
    scores, lengths = np.asarray(seen.scores), _characters(seen.all)
    if len(scores) < 3 or np.ptp(scores) == 0.0 or np.ptp(lengths) == 0.0:
        return None
    return round(float(np.corrcoef(scores, lengths)[0, 1]), 3)


def _characters(lengths: Lengths) -> NDArray[np.float64]:
    return np.asarray(lengths.characters, dtype=np.float64)


def _shortcuts(
    report: CheckReport, seen: Seen, first: str | None, second: str | None
) -> Iterator[str]:
    """Yield warnings of what would predict the target without understanding it."""
    auc, difference, r = report.length_auc, report.length_difference, report.length_correlation
    skewed = auc is not None and abs(auc - 0.5) > SKEW_AUC - 0.5
    if skewed or (difference is not None and abs(difference) > SKEW_DIFFERENCE):
        what = "the chosen side" if report.kind == "pair" else f"class {second!r}"
        apart = "" if difference is None else f", mean {difference:+.2f} standard deviations apart"
        yield f"length skew: length alone tells {what} with AUC {auc:.2f} (0.5 is none){apart}"
    if r is not None and abs(r) > SKEW_CORRELATION:
        yield f"length skew: length and score correlate with r = {r:+.2f}"
    if first is not None and second is not None:
        yield from _openings(report, seen, first, second)


def _openings(report: CheckReport, seen: Seen, first: str, second: str) -> Iterator[str]:
    """Yield the opening whose share differs most, when it differs enough to matter."""
    n_first, n_second = len(seen.parts[first].words), len(seen.parts[second].words)
    if min(n_first, n_second) < 10:
        return
    shares = {
        opening: (
            seen.openings[first][opening] / n_first,
            seen.openings[second][opening] / n_second,
        )
        for opening in seen.openings[first].keys() | seen.openings[second].keys()
    }
    opening = max(shares, key=lambda o: (abs(shares[o][0] - shares[o][1]), len(o), o))
    low, high = shares[opening]
    if abs(low - high) >= OPENING_DIFFERENCE:
        names = [name if report.kind == "pair" else f"class {name!r}" for name in (first, second)]
        yield (
            f"telling opening: {high:.0%} of {names[1]} and {low:.0%} of {names[0]} begin with "
            f"{opening!r}"
        )


def _faults(report: CheckReport, seen: Seen) -> Iterator[str]:
    """Yield warnings of rows that are wrong, repeated, or too few."""
    if seen.same_sides:
        rest = "a fit leaves them out" if seen.same_sides < report.rows else "nothing can be fitted"
        yield (
            f"identical sides: {seen.same_sides} pairs have the same text chosen and rejected (the first "
            f"at {seen.first_same}): {rest}"
        )
    if report.conflicts:
        what = {"pair": "with its sides swapped", "rating": "with another score"}
        yield (
            f"contradictions: {report.conflicts} rows are an earlier one "
            f"{what.get(report.kind, 'with another label')} (the first at {report.first_conflict})"
        )
    if 0 < seen.without_prompt < report.rows:
        yield (
            f"mixed rows: {seen.without_prompt} of {report.rows} have no prompt and are read without a "
            "chat template, the others with one"
        )
    if report.duplicates:
        other = f", {report.conflicts} of them with another target" if report.conflicts else ""
        yield f"duplicates: {report.duplicates} rows repeat an earlier one{other}"
    if report.leaking_prompts or report.leaking_texts:
        yield (
            f"leaking groups: {report.leaking_prompts} prompts and {report.leaking_texts} texts "
            "occur in more than one group"
        )
    if len(report.classes) == 1:
        yield f"one class: every label is {next(iter(report.classes))!r}, nothing can be fitted"
    if report.score_range is not None:
        yield from _scores(np.asarray(seen.scores), report.score_range)
    if report.groups < 30:
        yield f"few groups: {report.groups}; intervals will be wide (3 are the least to split)"


def _scores(scores: NDArray[np.float64], score_range: tuple[float, float]) -> Iterator[str]:
    if score_range[0] == score_range[1]:
        yield f"constant score: every score is {score_range[0]:g}, nothing can be fitted"
        return
    distance = np.abs(scores - np.median(scores))
    spread = 1.4826 * np.median(distance)  # the standard deviation, were the scores normal
    if spread == 0.0:  # more than half of the scores are the same
        spread = np.std(scores)
    outlying = scores[distance > OUTLIER * spread]
    if len(outlying):
        yield (
            f"outlying scores: {len(outlying)} lie more than {OUTLIER:g} standard deviations from "
            f"the median {np.median(scores):g}, as {outlying[0]:g}"
        )
