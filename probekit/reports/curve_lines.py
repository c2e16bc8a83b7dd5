"""What the layer curves are made of: a line a series and position, controls and references."""

from __future__ import annotations

import math
from typing import NamedTuple

from probekit.reports.rows import NO_VALUE, Metric, Series, Sweep, place, positions_of, series_of
from probekit.reports.verdict import control_metric
from probekit.reports.words import CHANCE, control_name, series_name


class Line(NamedTuple):
    """One curve: what it is called and its metric at each layer."""

    name: str
    series: Series
    position: str
    layers: list[int]
    metrics: list[Metric]


class Reference(NamedTuple):
    """A horizontal line with a name."""

    name: str
    value: float


def lines(sweep: Sweep, metric: str) -> list[Line]:
    """Return one line per series and position, layers in order, the embedding as layer -1."""
    all_series = series_of(sweep.rows)
    found: dict[tuple[Series, str], dict[int, Metric]] = {}
    for row in sweep.rows:
        where = place(row, sweep.rows)
        cell = found.setdefault((where.series, row.position), {})
        cell[where.layer] = row.choose.get(metric, NO_VALUE)
    result = []
    for position in positions_of(sweep.rows):
        for series in all_series:
            cells = found.get((series, position))
            if cells:
                layers = sorted(cells)
                name = position
                if len(all_series) > 1:
                    name = f"{position}, {series_name(series, all_series=all_series)}"
                result.append(Line(name, series, position, layers, [cells[at] for at in layers]))
    return result


def control_lines(sweep: Sweep, metric: str, position: str) -> list[Line]:
    """Return, at the chosen series and a position, each per-cell control over the layers."""
    series = place(sweep.chosen, sweep.rows).series
    cells = {
        place(row, sweep.rows).layer: row.controls
        for row in sweep.rows
        if row.position == position and place(row, sweep.rows).series == series
    }
    layers = sorted(cells)
    names = dict.fromkeys(name for layer in layers for name in cells[layer])
    return [
        Line(
            control_name(name),
            series,
            position,
            layers,
            [control_metric(cells[layer].get(name, {}), metric) for layer in layers],
        )
        for name in names
    ]


def references(sweep: Sweep) -> list[Reference]:
    """Return the controls that do not depend on the layer, and chance, that have a value."""
    found = []
    for name in ("tfidf", "length"):
        value = control_metric(sweep.controls.get(name, {}), sweep.primary).value
        if not math.isnan(value):
            found.append(Reference(control_name(name), value))
    if sweep.primary in CHANCE:
        found.append(Reference("chance", CHANCE[sweep.primary]))
    return found
