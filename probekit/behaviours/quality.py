"""How far a behaviours file can be trusted: precision and recall on completions labelled by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import binomtest

from probekit.behaviours.definitions import Behaviours
from probekit.data.memory import Rows, kept
from probekit.data.readers import read_records
from probekit.errors import BehaviourError


class Share(NamedTuple):
    """A share of n cases with its 95 % Wilson interval; NaN where there is no case."""

    value: float
    low: float
    high: float
    n: int


class Quality(NamedTuple):
    """One category against the hand labels."""

    precision: Share
    """Share of the completions put into the category that belong there."""
    recall: Share
    """Share of the completions that belong there that are put into it."""


def read_labelled(source: Rows) -> list[dict[str, str]]:
    """Read rows of prompt, completion and label.

    Raises
    ------
    BehaviourError
        When a row lacks one of them.
    """
    rows = []
    for place, record in read_records(kept(source)):
        absent = [key for key in ("prompt", "completion", "label") if key not in record]
        if absent:
            raise BehaviourError(
                f"{place}: has no {absent[0]}. Expected prompt, completion and label as text."
            )
        rows.append({key: str(record[key]) for key in ("prompt", "completion", "label")})
    return rows


def measure_quality(
    behaviours: Behaviours, rows: Sequence[Mapping[str, str]]
) -> tuple[Share, dict[str, Quality]]:
    """Return accuracy, and precision and recall of every category.

    Parameters
    ----------
    behaviours
        The file to judge.
    rows
        Rows with `prompt`, `completion` and the hand's `label`.

    Raises
    ------
    BehaviourError
        When a label is no category of the file, or there are no rows.
    """
    if not rows:
        raise BehaviourError("labelled completions: there are none. Expected at least one row.")
    for row in rows:
        if row["label"] not in behaviours.names:
            raise BehaviourError(
                f"label {row['label']!r}: is no category of {behaviours.name}. Expected "
                f"{', '.join(behaviours.names)}."
            )
    truth = [row["label"] for row in rows]
    found = [behaviours.classify(row["prompt"], row["completion"]) for row in rows]
    right = [a == b for a, b in zip(truth, found, strict=True)]
    table = {}
    for name in behaviours.names:
        table[name] = Quality(
            precision=_share([ok for ok, b in zip(right, found, strict=True) if b == name]),
            recall=_share([ok for ok, a in zip(right, truth, strict=True) if a == name]),
        )
    return _share(right), table


def _share(outcomes: Sequence[bool]) -> Share:
    n = len(outcomes)
    if n == 0:
        nan = float("nan")
        return Share(nan, nan, nan, 0)
    interval = binomtest(sum(outcomes), n).proportion_ci(method="wilson")
    return Share(sum(outcomes) / n, float(interval.low), float(interval.high), n)
