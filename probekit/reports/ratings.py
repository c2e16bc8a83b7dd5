"""The page of the study `ratings`: frames to figures; the words are in its template."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.reports.figures import histograms, level, lines, points
from probekit.reports.formats import count, number, sentence
from probekit.reports.steer import dose_figure
from probekit.reports.sweep import heatmap_of, sweep_figures
from probekit.results.findings import standing
from probekit.results.intervals import Interval
from probekit.results.measures import measure
from probekit.results.ratings_study import KNOWN_MEASURES, POSITIONS, RatingsStudy, gap
from probekit.results.study import StudyRun

CONTROLS = ("length", "tfidf", "tfidf_prompt", "layer_0")
"""Controls of the table of positions."""
MEASURED = {
    "start": "Tokens from the start",
    "end": "Tokens from the end",
    "part": "Part of the completion",
}
READERS = {"all tokens": "head of all tokens", "probe": "probe of the sweep"}


def context(run: StudyRun) -> dict[str, Any]:
    """Return what the template needs beside the study: findings and figures."""
    found = RatingsStudy(run)
    figures: dict[str, Callable[[], go.Figure]] = {}
    if found.main:
        figures["heatmap"] = partial(heatmap_of, found.main)
        if drawn := sweep_figures(found.main).get("predicted"):
            figures["predicted"] = lambda: drawn
    if "tokens" in found.runs:
        figures |= {f"tokens-{name}": partial(_curve, found, name) for name in MEASURED}
    if "compare" in found.runs:
        figures["compare"] = partial(_compared, found)
    if found.amplified:
        figures["amplified"] = partial(_amplified, found)
        figures["ratings"] = partial(_distributions, found)
    if steer := found.runs.get("steer"):
        items = [item for item in steer.measures("effect", "damage") if item.name in KNOWN_MEASURES]
        figures["doses"] = partial(dose_figure, steer, items, "Score and damage under steering")
    return {
        "s": found, "figures": figures, "standing": standing, "positions": POSITIONS,
        "controls": [name for name in CONTROLS if _has(found, name)], "over": "prompts",
        "names": lambda controls: [measure("control", name).label for name in controls],
        "ends": Interval.from_json, "bare": lambda v: v if v.low < v.high else Interval(v.value), "gap": gap,
    }  # fmt: skip


def _has(found: RatingsStudy, control: str) -> bool:
    return any(control in run.controls for run in found.positions.values())


def _curve(found: RatingsStudy, measured: str) -> go.Figure:
    """Draw how well ratings are read over a completion: r and the error, at a token and as a bin's mean."""
    run = found.runs["tokens"]
    frame = run.metrics[run.metrics["measured"] == measured]
    parts = []
    for (name, reader, binned), rows in frame.groupby(["measure", "reader", "binned"], sort=False):
        item = measure("sweep", str(name))
        values = [Interval(*row) for row in rows[list(Interval._fields)].itertuples(index=False)]
        hover = [f"{number(at)}, n = {n}" for at, n in zip(rows["at"], rows["n"], strict=True)]
        which = READERS[str(reader)] + (", mean since the place before" if binned else "")
        more = {"panel": sentence(item.label), "axis": item.axis_title, "name": which}
        parts.append(points(rows["at"].tolist(), values, hover, **more))
    if measured == "part":
        r = [level(0.0, [0.0, 1.0], panel="Pearson r", axis="Pearson r")]
        parts += r
    return lines(
        parts, title="Rating read along completions", x_title=MEASURED[measured],
        subtitle=f"n = {run.record['n']['report_rows']} held-out completions",
        log_x=measured != "part", across=2,
    )  # fmt: skip


def _compared(found: RatingsStudy) -> go.Figure:
    """Draw both heads on both models' activations over layers, and the cosine of their directions."""
    run = found.runs["compare"]
    item, parts = measure("sweep", run.record["primary"]), []
    for (head, acts), rows in run.metrics.groupby(["head", "activations"], sort=False):
        values = [Interval(*row) for row in rows[list(Interval._fields)].itertuples(index=False)]
        more = {
            "panel": item.label,
            "axis": item.axis_title,
            "name": f"head {head}, activations {acts}",
        }
        hover = [f"layer {layer}" for layer in rows["layer"]]
        parts.append(points(rows["layer"].tolist(), values, hover, **more))
    rows = run.record["layers"]
    cosines = [Interval(row["cosine"]) for row in rows]
    more = {"panel": "Cosine of the directions", "axis": "Cosine", "name": ""}
    layers = [row["layer"] for row in rows]
    parts.append(points(layers, cosines, [f"layer {layer}" for layer in layers], **more))
    return lines(
        parts, title="Before and after tuning", x_title="Layer", across=2,
        subtitle=f"n = {run.record['n']['rows']} held-out completions of {run.record['n']['groups']} prompts",
    )  # fmt: skip


def _amplified(found: RatingsStudy) -> go.Figure:
    """Draw the mean rating that the probe gives, and repetition, over k."""
    rows = found.amplified
    at, parts = [row.k for row in rows], []
    for panel, axis, name, share in (
        ("Predicted rating", "Mean predicted rating", "rating", False),
        ("Distinct word pairs", "Share of a completion's pairs", "distinct", True),
    ):
        values = [getattr(row, name) for row in rows]
        hover = [f"k = {row.k:g}, n = {row.n}" for row in rows]
        parts.append(points(at, values, hover, panel=panel, axis=axis, name="", share=share))
    return lines(
        parts, title="Base, tuned, amplified",
        x_title="k of base + k (tuned − base)",
        subtitle=f"n = {rows[0].n} completions of {rows[0].prompts} held-out prompts at k = 0", across=2,
    )  # fmt: skip


def _distributions(found: RatingsStudy) -> go.Figure:
    """Draw the predicted ratings of completions at every k."""
    names = {0.0: "base", 1.0: "tuned"}
    frames = [
        pd.DataFrame({"value": rows["rating"], "name": names.get(k, f"k = {k:g}"), "panel": ""})
        for k, rows in found.answers.items()
    ]
    sizes = ", ".join(f"{count(len(rows))}" for rows in found.answers.values())
    return histograms(
        pd.concat(frames), title="Predicted ratings", subtitle=f"n = {sizes}",
        x_title="Predicted rating (rating units)",
    )  # fmt: skip
