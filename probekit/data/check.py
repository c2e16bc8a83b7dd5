"""`check`: what is in a data set, and what in it would spoil a probe."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from probekit.data.open import Dataset
from probekit.data.rows import Example

SKEW_AUC = 0.65
"""Length alone tells classes or sides apart this well: worth a warning."""


@dataclass(frozen=True)
class CheckReport:
    """Counts, statistics and warnings of a valid data set."""

    source: str
    kind: str
    layout: str
    rows: int
    groups: int
    dropped: int
    """Rows that the layout left out."""
    classes: dict[str, int]
    """Rows of each class; empty for other kinds."""
    score_range: tuple[float, float] | None
    tags: dict[str, dict[str, int]]
    """Rows of each value of each tag; the commonest ten."""
    length: dict[str, dict[str, float]]
    """Characters of the text: of all rows, and of each class or side."""
    length_auc: float | None
    """How well length alone tells the second class, or the chosen side, from the other."""
    duplicates: int
    """Rows whose prompt and texts were seen before."""
    leaks: int
    """Texts or prompts that occur in more than one group."""
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def check(dataset: Dataset) -> CheckReport:
    """Read a data set once and report what it holds.

    Warns of length skew between classes or sides, identical sides, duplicates, groups that leak
    into one another, one class, a constant score, and too few groups to split.
    """
    seen = _Seen()
    for example in dataset.examples():
        seen.add(example)
    lengths = {name: np.array(values) for name, values in seen.lengths.items()}
    auc = _length_auc(dataset, lengths)
    return CheckReport(
        source=dataset.source,
        kind=dataset.kind,
        layout=dataset.layout,
        rows=dataset.n_rows,
        groups=dataset.n_groups,
        dropped=dataset.n_dropped,
        classes=dict(sorted(seen.classes.items())),
        score_range=dataset.score_range,
        tags={tag: dict(values.most_common(10)) for tag, values in sorted(seen.tags.items())},
        length={name: _statistics(values) for name, values in lengths.items()},
        length_auc=auc,
        duplicates=seen.duplicates,
        leaks=seen.leaks,
        warnings=list(_warnings(dataset, seen, auc)),
    )


class _Seen:
    """What accumulates over the rows: hashes and lengths, no text."""

    def __init__(self) -> None:
        self.classes: Counter[str] = Counter()
        self.tags: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.lengths: defaultdict[str, list[int]] = defaultdict(list)
        self.duplicates = self.leaks = self.same_sides = 0
        self._rows: set[bytes] = set()
        self._group_of: dict[bytes, bytes] = {}
        self._leaked: set[bytes] = set()
        self._chosen = ""

    def add(self, example: Example) -> None:
        """Take in one example."""
        text = example.completion or ""
        prompt = "\x1f".join(turn.content for turn in example.prompt or ())
        shown = text if example.completion is not None else prompt
        self.lengths["all"].append(len(shown))
        if example.side is not None:
            self.lengths[example.side].append(len(shown))
        if example.label is not None:
            self.lengths[str(example.label)].append(len(shown))
            self.classes[str(example.label)] += 1
        if example.side == "rejected":
            self.same_sides += text == self._chosen
            text = self._chosen + "\x1e" + text
        self._chosen = text
        if example.side == "chosen":
            return
        for tag, value in example.tags.items():
            self.tags[tag][value] += 1
        self._duplicate(prompt, text, example)

    def _duplicate(self, prompt: str, text: str, example: Example) -> None:
        row = _hash(f"{prompt}\x1d{text}")
        self.duplicates += row in self._rows
        self._rows.add(row)
        group = _hash(example.group)
        for part in {prompt, text} - {""}:
            key = _hash(part)
            if self._group_of.setdefault(key, group) != group and key not in self._leaked:
                self._leaked.add(key)
                self.leaks += 1


def _statistics(lengths: np.ndarray[Any, Any]) -> dict[str, float]:
    return {
        "mean": round(float(lengths.mean()), 1),
        "median": float(np.median(lengths)),
        "p95": float(np.quantile(lengths, 0.95)),
        "max": float(lengths.max()),
    }


def _length_auc(dataset: Dataset, lengths: dict[str, np.ndarray[Any, Any]]) -> float | None:
    """Return the AUC of length for the second class, or how often the chosen side is longer."""
    if dataset.kind == "pair":
        gap = lengths["chosen"] - lengths["rejected"]
        return round(float(((gap > 0) + 0.5 * (gap == 0)).mean()), 3)
    if dataset.classes is None or len(dataset.classes) < 2:
        return None
    low, high = (lengths[name] for name in dataset.classes)
    ranks = rankdata(np.concatenate([low, high]))[len(low) :]
    area = (ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high))
    return round(float(area), 3)


def _warnings(dataset: Dataset, seen: _Seen, auc: float | None) -> Iterable[str]:
    if auc is not None and abs(auc - 0.5) > SKEW_AUC - 0.5:
        what = "the chosen side" if dataset.kind == "pair" else f"class {dataset.classes[-1]!r}"  # type: ignore[index]
        yield f"length skew: length alone tells {what} with AUC {auc:.2f} (0.5 is none)"
    if seen.same_sides:
        yield f"identical sides: {seen.same_sides} pairs have the same text chosen and rejected"
    if seen.duplicates:
        yield f"duplicates: {seen.duplicates} rows repeat an earlier one"
    if seen.leaks:
        yield f"leaking groups: {seen.leaks} prompts or texts occur in more than one group"
    if dataset.classes is not None and len(dataset.classes) < 2:
        yield f"one class: every label is {dataset.classes[0]!r}, nothing can be fitted"
    if dataset.score_range is not None and dataset.score_range[0] == dataset.score_range[1]:
        yield f"constant score: every score is {dataset.score_range[0]:g}, nothing can be fitted"
    if dataset.n_groups < 30:
        yield f"few groups: {dataset.n_groups}; intervals will be wide (3 are the least to split)"


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()
