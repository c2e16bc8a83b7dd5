"""What a measure is called, its unit and its definition: read once from measures.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_HEAD = re.compile(r"([^/]+)/([^/]+)/0*(\d+)/([^/]+)")
"""KIND/SITE/LAYER/POSITION, the name of a head."""


@dataclass(frozen=True)
class Measure:
    """One measure of a room, as every reader sees it."""

    name: str
    """Key in result files and frames."""
    label: str
    """In a sentence."""
    unit: str = ""
    """`share` is written in per cent, its changes in percentage points."""
    definition: str = ""
    chance: float | None = None
    """What a probe that knows nothing scores, where that is fixed."""
    lower_is_better: bool = False
    axis: str = ""
    """Title of an axis, where it is not the unit."""

    graded: bool = False
    """Whether a share is a fraction of every row, not the part of rows with yes for an answer."""

    @property
    def rate(self) -> bool:
        """Whether it counts rows: its intervals are those of a share."""
        return self.share and not self.graded

    @property
    def share(self) -> bool:
        """Whether it is written in per cent."""
        return self.unit == "share"

    @property
    def axis_title(self) -> str:
        """Return the title of an axis that shows the measure, with its unit."""
        label = self.label[:1].upper() + self.label[1:]
        unit = self.axis or self.unit
        return f"{label} ({unit})" if unit and not self.share else label


@cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    text = (files("probekit.results") / "measures.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def measures(room: str) -> dict[str, Measure]:
    """Return all measures of a room (`sweep`, `control`, `steer`, `rl`, ...) in reading order."""
    return {name: Measure(name, **entry) for name, entry in _table()[room].items()}


@cache
def measure(room: str, name: str) -> Measure:
    """Return a measure by its name; one of a family, `rate:hedges` or `score@12`, by its prefix.

    A name that is not in measures.toml keeps its own words and has no unit.

    Examples
    --------
    >>> measure("sweep", "auroc").label
    'AUROC'
    >>> measure("rl", "head:ridge/resid_post/020/mean").label
    'head ridge, resid_post layer 20, mean'
    """
    table = _table()[room]
    if name in table:
        return Measure(name, **table[name])
    prefix, separator, rest = name.partition("@" if "@" in name.partition(":")[0] else ":")
    if separator and (family := table.get(prefix + separator)):
        rest = _HEAD.sub(r"\1, \2 layer \3, \4", rest)
        return Measure(name, **{**family, "label": family["label"].format(rest)})
    return Measure(name, name.replace("_", " "))
