"""Findings: where an interval lies against a reference, as a key; the words for it are a template's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from probekit.results.intervals import Interval

ABOVE, INCLUDES, BELOW, UNKNOWN = "above", "includes", "below", "unknown"


class Finding(NamedTuple):
    """Where the interval of a measure lies against a reference."""

    id: str
    """What the reference is: `chance`, or the name of a control."""
    key: str
    """`above`, `includes`, `below`, or `unknown` where a number is missing."""
    measure: str
    value: Interval
    reference: float


def standing(value: Interval, reference: float) -> str:
    """Return whether the whole interval lies above the reference, includes it, or lies below it.

    Examples
    --------
    >>> standing(Interval(0.7, 0.6, 0.8), 0.5)
    'above'
    >>> standing(Interval(0.7), 0.5)
    'unknown'
    """
    if not value.has_interval or math.isnan(reference):
        return UNKNOWN
    return {1: ABOVE, 0: INCLUDES, -1: BELOW}[value.side(reference)]


def against(name: str, measure: str, value: Interval, reference: float) -> Finding:
    """Return the finding of a measure against one reference."""
    return Finding(name, standing(value, reference), measure, value, reference)


def by_key(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Return findings under each key, in their order; an empty list where there are none."""
    found: dict[str, list[Finding]] = {key: [] for key in (ABOVE, INCLUDES, BELOW, UNKNOWN)}
    for finding in findings:
        found[finding.key].append(finding)
    return found
