"""`report.html` of `probekit dynamics`: frames to figures; the words are in its templates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.reports.figures import POINT, level, lines
from probekit.reports.formats import compact
from probekit.reports.page import environment, write_page
from probekit.results.dynamics import OPTIMIZERS, DynamicsRun
from probekit.results.intervals import Interval
from probekit.results.measures import measure

LOSSES = {"loss": "fit", "choose_loss": "choose"}
"""Loss to the split that it is of."""
BOUNDS = (1e-3, 10.0)
"""Of a loss: beyond lies what separable pairs and broken runs do, which is not the question."""
CIRCLES = 20
"""About how many points of the predicted vector are drawn along a line."""


def write_dynamics_report(directory: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the report of a head dynamics analysis as one HTML file and return its path.

    Parameters
    ----------
    directory
        What `probekit dynamics --out` wrote: `dynamics.json` and `runs.jsonl`.
    out
        Where to write; `report.html` in `directory` by default.
    force
        Replace the file when it exists.

    Raises
    ------
    ProbeError
        When `directory` is not the output of the analysis, is partial, or is of a newer probekit.
    OutputError
        When `out` exists and `force` is not set, or cannot be written.
    """
    run = DynamicsRun.open(directory)
    return write_page("dynamics.html.j2", dynamics_context(run), run.directory, out, force=force)


def dynamics_context(run: DynamicsRun) -> dict[str, Any]:
    """Return what the templates of the report ask for; the study report has its parts too."""
    figures = {"rates": partial(rates_figure, run), "steps": partial(steps_figure, run)}
    return {"d": {"run": run, "figures": figures, "interval_of": Interval.from_json}}


def dynamics_words(run: DynamicsRun) -> dict[str, Any]:
    """Return the report's `headline` and the `points` under it, for a terminal."""
    words: Any = environment().get_template("dynamics_words.html.j2").module
    headline, *points = (
        " ".join(part.split()) for part in [words.headline(run), *words.points(run).split("\n\n")]
    )
    return {"headline": headline, "points": [point for point in points if point]}


def rates_figure(run: DynamicsRun, *, title: str, subtitle: str) -> go.Figure:
    """Draw the last loss over the learning rate, and where the step factor would move the vector's."""
    last = run.metrics[run.metrics["step"] == run.record["steps"][-1]]
    parts: list[pd.DataFrame] = []
    for optimizer, findings, loss, panel in _panels(run):
        rows = last[(last["optimizer"] == optimizer) & (last["measure"] == loss)]
        parts += _lines(rows, "learning_rate", panel)
        direct = rows[rows["parametrisation"] == "direct"].drop(columns=["low", "high"])
        moved = direct.assign(learning_rate=direct["learning_rate"] / findings["step_factor"])
        moved = moved[moved["learning_rate"].between(*rows["learning_rate"].agg(["min", "max"]))]
        parts += _lines(moved, "learning_rate", panel, name="moved", look="control")
        target = findings["measures"][loss]["target"]
        parts.append(level(target, rows["learning_rate"], _label("target"), **panel))
    return _drawn(parts, title=title, subtitle=subtitle, x_title="Learning rate", log_x=True)


def steps_figure(run: DynamicsRun, *, title: str, subtitle: str, same: bool) -> go.Figure:
    """Draw the loss over training steps, each parametrisation at its best learning rate.

    With `same` all at the one at which the accuracies of projection and direct vector differ most.
    """
    exact = next((row for row in run.record["exact"] if row["name"] == "own l2"), None)
    parts: list[pd.DataFrame] = []
    for optimizer, findings, loss, panel in _panels(run, same=same):
        rows = run.metrics[run.metrics["optimizer"] == optimizer]
        for name, best in findings["parametrisations"].items():
            rate = (findings["contrast"] if same else best)["learning_rate"]
            here = (rows["parametrisation"] == name) & (rows["learning_rate"] == rate)
            parts += _lines(rows[here & (rows["measure"] == loss)], "step", panel)
        if exact:
            value = exact[f"{LOSSES[loss]}_loss"]
            parts.append(level(value, run.record["steps"], _label("exact"), **panel))
    return _drawn(parts, title=title, subtitle=subtitle, x_title="Training step")


def _panels(
    run: DynamicsRun, *, same: bool = False
) -> Iterator[tuple[str, dict[str, Any], str, dict[str, str]]]:
    """Yield optimiser, its findings, loss, and the panel's columns: a row a loss."""
    for loss, split in LOSSES.items():
        for optimizer, findings in run.record["findings"].items():
            rate = f" at {compact(findings['contrast']['learning_rate'])}" if same else ""
            title = f"{OPTIMIZERS[optimizer]}{rate}, {split} split"
            axis = measure("dynamics", loss).axis_title
            yield optimizer, findings, loss, {"panel": title, "axis": axis}


def _lines(
    rows: pd.DataFrame, x: str, panel: dict[str, str], name: str | None = None, look: str = "main"
) -> Iterator[pd.DataFrame]:
    """Yield a line each parametrisation; of the predicted one some points, to show the line below."""
    for own, line in rows.groupby("parametrisation", sort=False):
        hover = [f"{x.replace('_', ' ')} {compact(at)}" for at in line[x]]
        line = line.assign(x=line[x], hover=hover, name=_label(name or str(own)), look=look)
        if own == "rescaled":
            line = line.iloc[:: max(1, len(line) // CIRCLES)].assign(look="points")
        yield line.assign(share=False, **panel).reindex(columns=POINT)


def _drawn(parts: list[pd.DataFrame], **texts: Any) -> go.Figure:  # noqa: ANN401 - of `lines`
    data = pd.concat(parts)
    return lines(data, across=2, each=230, log_y=data["panel"].unique(), bounds=BOUNDS, **texts)


def _label(name: str) -> str:
    return measure("parametrisation", name).label
