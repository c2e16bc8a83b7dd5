"""How panels are laid out, and stretches of a line that have intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from probekit.reports.rows import Metric


class Grid(NamedTuple):
    """How panels are laid out: how many, how high each is and the gap between rows, in pixels."""

    across: int
    down: int
    each: int
    gap: int

    @property
    def height(self) -> int:
        """Height of all panels with their gaps."""
        return self.down * self.each + (self.down - 1) * self.gap

    def cell(self, index: int) -> dict[str, int]:
        """Return row and column of a panel, as plotly counts them."""
        return dict(row=index // self.across + 1, col=index % self.across + 1)


def runs(metrics: Sequence[Metric]) -> list[tuple[int, int]]:
    """Return start and end of every stretch of metrics that have intervals."""
    found: list[tuple[int, int]] = []
    for index, metric in enumerate(metrics):
        if not metric.has_interval:
            continue
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found
