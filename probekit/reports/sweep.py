"""`report.html` of a fit: frames to figures; the words are in sweep.html.j2."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.reports.figures import POINT, forest, histograms, lines, scatter
from probekit.reports.formats import (
    compact,
    count,
    interval,
    number,
    plot_text,
    sentence,
    shorten,
    spanned,
)
from probekit.reports.maps import heatmap
from probekit.reports.page import page_path, write_page
from probekit.results.intervals import NO_VALUE, Interval
from probekit.results.measures import measure
from probekit.results.paired import Line, least_squares
from probekit.results.sweep import SweepRun

TOGETHER, SHOWN, PARTS, COLUMNS = 3, 10, 16, 4
"""At most: lines in a panel, examples in a list, values of a tag, measures beside each other."""
SPAN = 0.2
"""The colours cover at least this much above chance, so that noise does not look like a map."""


def write_sweep_report(directory: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the report of a fit as one HTML file and return its path.

    Parameters
    ----------
    directory
        What `probekit fit --out` wrote.
    out
        Where to write; `report.html` in `directory` by default.
    force
        Replace the file when it exists.

    Raises
    ------
    ProbeError
        When `directory` is not the output of a fit, is partial, or is of a newer probekit.
    OutputError
        When `out` exists and `force` is not set, or cannot be written.
    """
    run = SweepRun.open(Path(directory))
    path = page_path(run.directory, out)
    return write_page("sweep.html.j2", _context(run), path, force=force)


def _context(run: SweepRun) -> dict[str, Any]:
    """Return what the template shows."""
    record, cells, examples = run.record, cells_of(run), run.examples
    report, controls = run.chosen["report", "", "all"], run.controls
    ranked = examples.dropna(subset="merit").to_dict("records")
    best = min(SHOWN, (len(ranked) + 1) // 2)
    names = [name for name in report if name not in ("chosen", "rejected", run.primary.name)]
    columns = [run.primary.name, *names][:COLUMNS]
    sizes = {
        name.removeprefix("tag:"): values.value_counts().to_dict()
        for name, values in examples.filter(like="tag:").items()
    }
    by_tag = {
        tag: dict(sorted(((v, sizes.get(tag, {}).get(v, 0)) for v in values), key=lambda s: -s[1]))
        for tag, values in record["by_tag"].items()
    }
    few_values = [tag for tag, values in sizes.items() if 2 <= len(values) <= 4][:2]
    rows = {"chosen probe": run.value()} | {
        measure("control", c).label: run.value(c) for c in controls
    }
    title = f"Probe and controls: {run.primary.label}"
    figures = {"controls": _forest(run, rows, title, _n(run))}
    if len(record["rows"]) > 1:
        figures |= {"heatmap": heatmap_of(run), "curves": _curves(run, cells)}
    if len(record["cosine"]["layers"]) > 1:
        figures["cosine"] = _cosine(run)
    if record["reliability"]["bins"]:
        figures["reliability"] = _reliability(run)
    return {
        "run": run, "record": record, "over": "groups", "unit": _unit(run), "figures": figures,
        "scores": {tag: _scores(run, tag) for tag in ["", *few_values]}, "columns": columns,
        "tags": {tag: (_tag(run, tag, values), values) for tag, values in by_tag.items() if values},
        "measured": lambda values: [interval(values.get(c, NO_VALUE), digits=2) for c in columns],
        "best_read": ranked[:best], "worst_read": ranked[best:][-SHOWN:][::-1],
        "places": cells["place"].unique(), "together": together(cells),
    }  # fmt: skip


def _unit(run: SweepRun) -> str:
    return "pairs" if run.record["data_kind"] == "pair" else "examples"


def _n(run: SweepRun, split: str = "report") -> str:
    """Return what a split holds, as a subtitle."""
    n = run.record["n"]
    return (
        f"{split} split, n = {count(n[split])} {_unit(run)} in {count(n[f'{split}_groups'])} groups"
    )


def _forest(run: SweepRun, rows: dict[str, Interval], title: str, subtitle: str) -> go.Figure:
    """Draw the chosen head above what it is compared with."""
    data = pd.DataFrame(list(rows.values()), columns=Interval._fields).assign(name=list(rows))
    data["main"] = data.index == 0
    return forest(
        data, title=title, subtitle=subtitle, x_title=run.primary.axis_title, digits=2,
        reference=run.primary.chance,
    )  # fmt: skip


def _tag(run: SweepRun, tag: str, sizes: dict[str, int]) -> go.Figure:
    """Draw the chosen head on the largest values of a tag."""
    rows = {"all": run.value()}
    for value, n in list(sizes.items())[:PARTS]:
        rows[f"{plot_text(value, 26)}  (n = {count(n)})"] = run.value(part=f"{tag}={value}")
    left_out = f", {PARTS} largest of {len(sizes)}" if len(sizes) > PARTS else ""
    return _forest(run, rows, f"{sentence(run.primary.label)}{_by(tag)}", _n(run) + left_out)


def _by(tag: str) -> str:
    return f", by {plot_text(tag, 30)}" if tag else ""


def cells_of(run: SweepRun) -> pd.DataFrame:
    """Return the primary measure of every cell and of its controls on the choose split, as drawn.

    Columns `x` (the layer; -1 for the embedding, which is drawn left of layer 0), `place` (its name),
    `whole` (kind and site), `series` (what tells kinds and sites apart), and others of `lines`.
    """
    rows = run.metrics[run.metrics["measure"] == run.primary.name]
    rows = rows[rows["split"] == "choose"]
    kind = (rows["kind"] + " " + rows["head"].fillna("")).str.strip()
    embedding = (rows["site"] == "resid_pre") & (rows["layer"] == 0)
    embedding &= kind.isin(kind[rows["site"] == "resid_post"])
    site, x = rows["site"].where(~embedding, "resid_post"), rows["layer"].where(~embedding, -1)
    whole = kind + ", " + site
    series = site if kind.nunique() == 1 < site.nunique() else whole if kind.nunique() > 1 else kind
    place = x.map(lambda at: "emb" if at < 0 else str(at))
    hover = x.map(lambda at: "embedding" if at < 0 else f"layer {at}")
    rows = rows.assign(
        x=x, place=place, whole=whole, series=series, hover=hover, look="main", share=False, panel="",
        axis=sentence(run.primary.label),
    )  # fmt: skip
    return rows.sort_values("x", kind="stable")


def heatmap_of(run: SweepRun) -> go.Figure:
    """Draw the primary measure by layer and position, a panel each kind and site."""
    cells, label = cells_of(run).query("control == ''"), run.primary.label
    hover = [
        f"{row.hover}, {plot_text(row.position)}<br>{label} "
        f"{spanned(Interval(row.value, row.low, row.high), digits=3)}<br>l2 {compact(row.l2)}"
        for row in cells.itertuples()
    ]
    data = cells.assign(panel=cells["whole"], x=cells["place"], y=cells["position"], hover=hover)
    low = cells["value"].min() if run.primary.chance is None else run.primary.chance
    return heatmap(
        data, title=f"{sentence(label)} by layer, position", x_title="Layer", y_title="Position",
        subtitle=f"{_n(run, 'choose')}, {count(len(cells))} cells",
        ends=(low, max(low + SPAN, cells["value"].max())), frames=[cells["chosen"]],
    )  # fmt: skip


def together(cells: pd.DataFrame) -> bool:
    """Return whether all lines are drawn in one panel."""
    return len(cells.drop_duplicates(["position", "series"])) <= TOGETHER


def _curves(run: SweepRun, cells: pd.DataFrame) -> go.Figure:
    """Draw the primary measure over layers; over positions where there is one layer."""
    levels = {measure("control", name).label: run.value(name).value for name in ("tfidf", "length")}
    levels["chance"] = math.nan if run.primary.chance is None else run.primary.chance
    what, ticks = "layer", dict(zip(cells["x"], cells["place"], strict=True))
    if len(ticks) > 1:
        data = _over_layers(cells)
    else:
        data, what = cells[cells["control"] == ""], "position"
        ticks = dict(enumerate(plot_text(name, 14) for name in data["position"].unique()))
        at = pd.factorize(data["position"])[0] + 0.16 * pd.factorize(data["series"])[0]
        data = data.assign(x=at, name=data["series"], look="points", hover=data["position"])
    panels = data["panel"].nunique()
    return lines(
        data[POINT], title=f"{sentence(run.primary.label)} over {what}s", ticks=ticks, same=True,
        subtitle=_n(run, "choose"), x_title=sentence(what),
        levels={name: value for name, value in levels.items() if not math.isnan(value)},
        across=math.ceil(panels / 3) if panels > 9 else None,
    )  # fmt: skip


def _over_layers(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of every head, in one panel while few, else in a panel each position.

    With them go the controls at the chosen kind and site and a ring around the chosen cell.
    """
    heads = cells[cells["control"] == ""]
    ring = heads[heads["chosen"]].assign(name="chosen", look="ring")
    [position], [series] = ring["position"], ring["series"]
    controls = cells[(cells["control"] != "") & (cells["series"] == series)]
    names = controls["control"].map(lambda name: measure("control", name).label)
    if together(cells):
        several = ", " + heads["series"] if heads["series"].nunique() > 1 else ""
        heads = heads.assign(name=(heads["position"] + several).map(plot_text))
        names = names[controls["position"] == position] + f" (at {plot_text(position, 14)})"
        controls = controls.loc[names.index]
    else:
        heads = heads.assign(name=heads["series"])
    data = pd.concat([heads, controls.assign(name=names, look="control"), ring])
    if together(cells):
        return data
    chosen = np.where(data["position"] == position, " (chosen)", "")
    return data.assign(panel=data["position"] + chosen)


def _cosine(run: SweepRun) -> go.Figure:
    cosine = run.record["cosine"]
    layers = cosine["layers"]
    matrix = pd.DataFrame(cosine["matrix"], index=layers, columns=layers, dtype=float)
    data = matrix.rename_axis("y").reset_index().melt("y", var_name="x").assign(panel="")
    hover = [f"layers {row.x} and {row.y}: {number(row.value, 3)}" for row in data.itertuples()]
    return heatmap(
        data.assign(hover=hover), title="Cosine between directions", x_title="Layer", y_title="Layer",
        subtitle=f"{cosine['kind']}, {cosine['site']}, position {plot_text(cosine['position'], 20)}; "
        f"n = {len(layers)} layers, fit split", ends=(-1, 1), diverging=True, square=True,
        frames=[data[key] == run.record["chosen"]["layer"] for key in ("x", "y")],
    )  # fmt: skip


def _scores(run: SweepRun, tag: str) -> dict[str, go.Figure]:
    """Return how held-out examples are scored, in parts by the values of a tag where one is given."""
    rows, kind = run.examples.sort_index(), run.record["data_kind"]
    rows = rows.assign(part=rows[f"tag:{tag}"] if tag else "").dropna(subset="part")
    if kind == "rating":
        return {"predicted": _predicted(run, rows, tag)}
    if kind == "label":
        names = rows["target"].map(lambda at: shorten(run.record["classes"][int(at)], 30))
        rows = rows.assign(value=rows["score"], name=names).sort_values("target", kind="stable")
        return {"scores": _histograms(run, rows, "Scores by class", tag, "P = 0.5")}
    margins = rows.assign(value=rows["merit"], name="margin")
    columns = {"chosen": "score", "rejected": "score_rejected"}
    sides = [rows.assign(value=rows[column], name=name) for name, column in columns.items()]
    return {
        "scores": _histograms(run, pd.concat(sides), "Scores by side", tag),
        "margins": _histograms(run, margins, "Margins", tag, "margin 0"),
    }


def _histograms(
    run: SweepRun, rows: pd.DataFrame, title: str, tag: str, zero: str = ""
) -> go.Figure:
    """Draw the column `value` by `name`, a panel each part; how many there are stands above."""

    def size(part: pd.DataFrame) -> str:
        values = part.groupby("name", sort=False)["value"]
        above = {name: f"{(v > 0).sum()} of {len(v)} above 0" for name, v in values}
        ns = above if zero else {name: f"n = {len(v)}" for name, v in values}
        return ", ".join(f"{name}: {n}" for name, n in ns.items())

    sizes = {part: size(inside) for part, inside in rows.groupby("part")}
    panels = rows["part"].map(lambda part: f"{shorten(part, 26)}; {sizes[part]}")
    return histograms(
        rows.assign(panel=panels, name=rows["name"].map(plot_text)), title=title + _by(tag),
        counted=sentence(_unit(run)), zero=zero,
        subtitle=_n(run) + ("" if tag else f"; {plot_text(sizes[''], 90)}"),
        x_title=f"{title.split()[0].removesuffix('s')} ({measure('sweep', 'margin').unit})",
    )  # fmt: skip


def _predicted(run: SweepRun, rows: pd.DataFrame, tag: str) -> go.Figure:
    """Draw true against predicted ratings, with the line where they are equal and the best one."""

    def fitted(rows: pd.DataFrame) -> Line:
        return least_squares(rows["prediction"].to_numpy(), rows["target"].to_numpy())

    rows, unit = rows.dropna(subset="merit"), measure("sweep", "mae").unit
    texts = {
        part: f"{plot_text(part, 26)} (n = {len(inside)}, r = {number(fitted(inside).r)})"
        for part, inside in rows.groupby("part")
    }
    hover = [
        f"{plot_text(row.id, 30)}<br>predicted {number(row.prediction)}, true {number(row.target)}"
        for row in rows.itertuples()
    ]
    points = rows.assign(
        x=rows["prediction"], value=rows["target"], look="points", hover=hover,
        name=rows["part"].map(texts) if tag else "held-out example",
    )  # fmt: skip
    line, x = fitted(rows), points["x"].agg(["min", "max"])
    ends = pd.DataFrame({"x": x, "value": line.slope * x + line.intercept, "look": "line"})
    ends = ends.assign(name=f"least squares, slope {number(line.slope)}", hover="").dropna()
    return scatter(
        pd.concat([points, ends]).assign(low=math.nan, high=math.nan, label=""), diagonal="identity",
        title=f"True against predicted{_by(tag)}", subtitle=f"{_n(run)}; r = {number(line.r)}",
        x_title=f"Predicted rating ({unit})", y_title=f"True rating ({unit})", height=460,
    )  # fmt: skip


def _reliability(run: SweepRun) -> go.Figure:
    """Draw what was observed against what was predicted, with the number of each bin."""
    kind, record = run.record["data_kind"], run.record
    bins = pd.DataFrame(record["reliability"]["bins"]).astype(float)
    ends = {"value": "observed", "low": "observed_low", "high": "observed_high"}
    hover = [
        f"predicted {number(row.predicted, 3)}, bin {number(row.low)} to {number(row.high)}<br>observed "
        f"{spanned(Interval(row.observed, row.observed_low, row.observed_high), digits=3)}<br>n = {row.n:.0f}"
        for row in bins.itertuples()
    ]
    data = pd.DataFrame({name: bins[key] for name, key in ends.items()} | {"hover": hover}).assign(
        name="observed", x=bins["predicted"], look="path",
        label="" if kind == "rating" else bins["n"].map(count),
    )  # fmt: skip
    error = measure("sweep", "mae" if kind == "rating" else "ece")
    value = run.chosen["report", "", "all"].get(error.name, NO_VALUE)
    what = f"P({plot_text((record['classes'] or ('', 'chosen'))[1], 24)})"
    what = f"rating ({error.unit})" if kind == "rating" else what
    return scatter(
        data, title="Reliability", diagonal="perfect calibration", height=400,
        subtitle=f"{_n(run)}; {error.label} = {spanned(value, digits=3)}",
        x_title=f"Predicted {what}", y_title=f"Observed {what}",
        ends=None if kind == "rating" else (-0.07, 1.05),
    )  # fmt: skip
