"""`report.html` of an evaluation: every probe on every data set; the words are in its template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.reports.figures import calibration, forest, lines, points
from probekit.reports.formats import interval, plot_text, spanned
from probekit.reports.maps import heatmap
from probekit.reports.page import write_page
from probekit.results.evaluate import EvaluateRun, ResultRow
from probekit.results.intervals import Interval
from probekit.results.measures import measure

PANELS, COLUMNS, PARTS = 6, 4, 16
"""At most: reliability diagrams, measures beside each other, values of a tag."""


def write_evaluate_report(directory: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the report of what `probekit evaluate --out` wrote; see `probekit.reports`."""
    run = EvaluateRun.open(Path(directory))
    return write_page("evaluate.html.j2", _context(run), run.directory, out, force=force)


def evaluate_figures(run: EvaluateRun) -> dict[str, go.Figure]:
    """Return the figures of an evaluation by name: `transfer` or `controls`, and `reliability`."""
    found: dict[str, go.Figure] = _context(run)["figures"]
    return found


def _context(run: EvaluateRun) -> dict[str, Any]:
    results = run.record["results"]
    figures = {"transfer": _transfer(run)} if len(results) > 1 else {"controls": _controls(run)}
    if any(result["reliability"] for result in results):
        figures["reliability"] = _reliability(results)
    if any(result.get("cascade") for result in results):
        figures["cascade"] = _cascade(results)
    tables = [
        (_name(result), tag, _parts(result, tag)) for result in results for tag in result["by_tag"]
    ]
    return {
        "run": run, "results": results, "figures": figures, "over": "groups", "name_of": _name,
        "tables": tables,
    }  # fmt: skip


def _name(result: ResultRow) -> str:
    return f"{result['probe']} on {result['data']}"


def _parts(result: ResultRow, tag: str) -> list[list[str]]:
    """Return a row a value of a tag: its first measures."""
    names = list(result["metrics"])[:COLUMNS]
    return [
        [value, *(interval(found.get(name), digits=2) for name in names)]
        for value, found in list(result["by_tag"][tag].items())[:PARTS]
    ]


def _transfer(run: EvaluateRun) -> go.Figure:
    """Draw the first measure of every probe (down) on every data set (across)."""
    rows = []
    for result in run.record["results"]:
        value, label = run.value(result), run.primary(result).label
        rows.append(
            {
                "panel": label, "x": result["data"], "y": result["probe"],
                "value": value.value, "hover": f"{plot_text(_name(result), 60)}: {spanned(value, digits=3)}",
            }
        )  # fmt: skip
    data = pd.DataFrame(rows)
    low = min(0.5, float(data["value"].min())) if data["value"].notna().any() else 0.0
    labels = ", ".join(dict.fromkeys(data["panel"]))
    return heatmap(
        data, title=f"Transfer: {labels}", subtitle="", x_title="Data",
        y_title="Probe", ends=(low, 1.0),
    )  # fmt: skip


def _controls(run: EvaluateRun) -> go.Figure:
    """Draw the probe and what length and words alone tell, of one result."""
    (result,) = run.record["results"]
    primary, found = run.primary(result), result["controls"]
    values = {plot_text(result["probe"], 24): run.value(result)}
    if found:
        own = found["values"].items()
        values |= {measure("control", k).label: Interval.from_json(ends) for k, ends in own}
    n, title = result["n"], f"Probe and controls: {primary.label}"
    subtitle = f"{n['rows']} rows, {n['groups']} groups"
    return forest(values, primary, title=title, subtitle=subtitle)


def _reliability(results: list[ResultRow]) -> go.Figure:
    """Draw what was observed against what was predicted, a panel a result."""
    parts = []
    for result in [r for r in results if r["reliability"]][:PANELS]:
        sizes = result["kind"] == "label"
        parts.append(calibration(result["reliability"], _name(result), "Observed", sizes=sizes))
    rating = any(r["reliability"] and r["kind"] == "rating" for r in results)
    return lines(
        parts, equal="perfect calibration", title="Reliability", subtitle="", each=300, bars=True,
        x_title="Predicted", square=None if rating else (-0.07, 1.05),
    )  # fmt: skip


def _cascade(results: list[ResultRow]) -> go.Figure:
    """Draw the recall of a cascade over the share of rows that its judge reads, a panel a result."""
    parts = []
    for result in [r for r in results if r.get("cascade")][:PANELS]:
        rows = sorted(result["cascade"], key=lambda row: Interval.from_json(row["sent"]).value)
        values = [Interval.from_json(row["recall"]) for row in rows]
        sent = [Interval.from_json(row["sent"]) for row in rows]
        hover = [
            f"{spanned(x, 'share', digits=1)}: {spanned(y, 'share', digits=0)}, {spanned(row['cost'])}"
            for row, x, y in zip(rows, sent, values, strict=True)
        ]
        more = {"panel": _name(result), "axis": "Recall", "name": "recall"}
        parts.append(points([x.value for x in sent], values, hover, **more))
    return lines(
        parts, title="Probe, then judge", subtitle="", each=300, bars=True, x_title="Share of rows sent",
    )  # fmt: skip
