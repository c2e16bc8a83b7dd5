"""`report.html` of a fit: frames to figures; the words are in sweep.html.j2."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.reports.figures import POINT, calibration, forest, histograms, level, lines, points
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
from probekit.reports.page import said, write_page
from probekit.results.intervals import NO_VALUE, Interval
from probekit.results.measures import measure
from probekit.results.paired import Line, least_squares
from probekit.results.sweep import SweepRun

TOGETHER, SHOWN, PARTS, COLUMNS = 3, 5, 16, 4
"""At most: lines in a panel, examples in a list, values of a tag, measures beside each other."""
HEAD = ("kind", "site", "layer", "position")
"""What tells a cell's head from another's."""
SPAN = 0.2
"""The colours cover at least this much above chance, so that noise does not look like a map."""


def write_sweep_report(directory: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the report of what `probekit fit --out` wrote; see `probekit.reports`."""
    run = SweepRun.open(Path(directory))
    return write_page("sweep.html.j2", _context(run), run.directory, out, force=force)


def sweep_words(directory: Path) -> str:
    """Return the page's conclusion, for a terminal."""
    return said("sweep_words.html.j2", "conclusion", SweepRun.open(directory))


def beside_words(directory: Path) -> list[str]:
    """Return what each head of another form came to, for a terminal."""
    run = SweepRun.open(directory)
    return [said("sweep_words.html.j2", "beside", run, form) for form in run.beside]


def sweep_figures(run: SweepRun) -> dict[str, go.Figure]:
    """Return the figures of a fit's report by name: `controls`, `scores`, `scores:TAG`, `tag:TAG` ..."""
    shown = _context(run)
    found: dict[str, go.Figure] = shown["figures"]
    found |= {f"tag:{tag}": figure for tag, (figure, _) in shown["tags"].items()}
    for tag, figures in shown["scores"].items():
        found |= {f"{name}:{tag}" if tag else name: figure for name, figure in figures.items()}
    return found


def _context(run: SweepRun) -> dict[str, Any]:
    """Return what the template shows."""
    record, cells, examples = run.record, cells_of(run), run.examples
    report, controls = run.chosen["report", "", "all"], run.controls
    ranked = examples.dropna(subset="merit").to_dict("records")
    best = min(SHOWN, (len(ranked) + 1) // 2)
    names = [name for name in report if name not in ("chosen", "rejected", run.primary.name)]
    columns = [run.primary.name, *names][:COLUMNS]
    sizes = {
        name.removeprefix("tag:"): values.value_counts()
        for name, values in examples.filter(like="tag:").items()
    }
    few_values = [tag for tag, values in sizes.items() if 2 <= len(values) <= 4][:2]
    tags = {}
    for tag, values in record["by_tag"].items():
        if tag in sizes and values:
            some = sizes[tag].reindex(values, fill_value=0)
            by_size = some.sort_values(ascending=False, kind="stable").to_dict()
            tags[tag] = _tag(run, tag, by_size), by_size
    rows = {measure("control", name).label: run.value(name) for name in controls}
    rows, title = {"chosen probe": run.value(), **rows}, f"Probe and controls: {run.primary.label}"
    figures = {"controls": forest(rows, run.primary, title=title, subtitle=_n(run))}
    if len(record["rows"]) > 1:
        figures |= {"heatmap": heatmap_of(run), "curves": _curves(run, cells)}
    if len(record["cosine"]["layers"]) > 1:
        figures["cosine"] = _cosine(run)
    if record["reliability"]["bins"]:
        figures["reliability"] = _reliability(run)
    return {
        "run": run, "record": record, "over": "groups", "unit": _unit(run), "figures": figures,
        "scores": {tag: _scores(run, tag) for tag in ["", *few_values]}, "columns": columns,
        "tags": tags,
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


def _tag(run: SweepRun, tag: str, sizes: dict[str, int]) -> go.Figure:
    """Draw the chosen head on the largest values of a tag."""
    rows = {"all": run.value()}
    for value, n in list(sizes.items())[:PARTS]:
        rows[f"{plot_text(value, 26)}  (n = {count(n)})"] = run.value(part=f"{tag}={value}")
    left_out = f", {PARTS} largest of {len(sizes)}" if len(sizes) > PARTS else ""
    title = f"{sentence(run.primary.label)}{_by(tag)}"
    return forest(rows, run.primary, title=title, subtitle=_n(run) + left_out)


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
        axis=sentence(run.primary.label), label="",
    )  # fmt: skip
    return rows.sort_values("x", kind="stable")


def heatmap_of(run: SweepRun) -> go.Figure:
    """Draw the primary measure by layer and position, a panel each kind and site."""
    cells, label = cells_of(run).query("control == ''"), run.primary.label
    gaps = {tuple(row[key] for key in HEAD): row.get("below") for row in run.record["rows"]}

    def below(row: pd.Series) -> str:
        gap = Interval.from_json(gaps.get(tuple(row[key] for key in HEAD)))
        return f"<br>below the chosen {spanned(gap, digits=3, sign=True)}" if gap.known else ""

    hover = [
        f"{row.hover}, {plot_text(row.position)}<br>{label} "
        f"{spanned(Interval(row.value, row.low, row.high), digits=3)}<br>l2 {compact(row.l2)}{below(row)}"
        for _, row in cells.iterrows()
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
    what, ticks = "layer", dict(zip(cells["x"], cells["place"], strict=True))
    if len(ticks) > 1:
        data = _over_layers(cells)
    else:
        data, what = cells[cells["control"] == ""], "position"
        ticks = dict(enumerate(plot_text(name, 14) for name in data["position"].unique()))
        at = pd.factorize(data["position"])[0] + 0.16 * pd.factorize(data["series"])[0]
        data = data.assign(x=at, name=data["series"], look="points", hover=data["position"])
    values = {measure("control", name).label: run.value(name).value for name in ("tfidf", "length")}
    values["chance"] = math.nan if run.primary.chance is None else run.primary.chance
    panels, more = list(data["panel"].unique()), {"axis": sentence(run.primary.label)}
    levels = [
        level(value, data["x"], f"{name} {number(value)}", panel=panel, **more)
        for panel, (name, value) in product(panels, values.items())
        if not math.isnan(value)
    ]
    return lines(
        [data[POINT], *levels], title=f"{sentence(run.primary.label)} over {what}s", ticks=ticks, same=True,
        subtitle=_n(run, "choose"), x_title=sentence(what),
        across=math.ceil(len(panels) / 3) if len(panels) > 9 else None,
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
    if not together(cells):
        heads, controls = (
            heads.assign(name=heads["series"]),
            controls.assign(name=names, look="control"),
        )
        data = pd.concat([heads, controls, ring])
        return data.assign(
            panel=data["position"] + np.where(data["position"] == position, " (chosen)", "")
        )
    several = ", " + heads["series"] if heads["series"].nunique() > 1 else ""
    here = controls["position"] == position
    names = names[here] + f" (at {plot_text(position, 14)})"
    heads = heads.assign(name=(heads["position"] + several).map(shorten))
    return pd.concat([heads, controls[here].assign(name=names, look="control"), ring])


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
        rows = rows.dropna(subset="merit")
        return {"predicted": _predicted(run, rows, tag)} if len(rows) else {}
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
        return ", ".join(
            f"{name}: {(v > 0).sum()} of {len(v)} above 0" if zero else f"{name}: n = {len(v)}"
            for name, v in part.groupby("name", sort=False)["value"]
        )

    sizes = {part: size(inside) for part, inside in rows.groupby("part")}
    panels = rows["part"].map(lambda part: f"{shorten(part, 26)}; {sizes[part]}")
    return histograms(
        rows.assign(panel=panels), title=title + _by(tag),
        counted=sentence(_unit(run)), zero=zero,
        subtitle=_n(run) + ("" if tag else f"; {plot_text(sizes[''], 90)}"),
        x_title=f"{title.split()[0].removesuffix('s')} ({measure('sweep', 'margin').unit})",
    )  # fmt: skip


def _predicted(run: SweepRun, rows: pd.DataFrame, tag: str) -> go.Figure:
    """Draw true against predicted ratings, with the line where they are equal and the best one."""

    def fitted(rows: pd.DataFrame) -> Line:
        return least_squares(rows["prediction"].to_numpy(), rows["target"].to_numpy())

    unit = measure("sweep", "mae").unit
    texts = {
        part: f"{shorten(part, 26)} (n = {len(inside)}, r = {number(fitted(inside).r)})"
        for part, inside in rows.groupby("part")
    }
    hover = [
        f"{plot_text(row.id, 30)}, predicted {number(row.prediction)}" for row in rows.itertuples()
    ]
    names = rows["part"].map(texts).tolist() if tag else "held-out example"
    more, x = {"panel": "", "axis": f"True rating ({unit})"}, rows["prediction"].tolist()
    data = [points(x, [*map(Interval, rows["target"])], hover, name=names, look="cloud", **more)]
    line = fitted(rows)
    if not math.isnan(line.slope):
        ends = [min(x), max(x)]
        values = [Interval(line.slope * at + line.intercept) for at in ends]
        name = f"least squares, slope {number(line.slope)}"
        data.append(points(ends, values, ["", ""], name=name, look="level", **more))
    return lines(
        data, equal="identity", title=f"True against predicted{_by(tag)}", each=460,
        subtitle=f"{_n(run)}; r = {number(line.r)}", x_title=f"Predicted rating ({unit})",
    )  # fmt: skip


def _reliability(run: SweepRun) -> go.Figure:
    """Draw what was observed against what was predicted, with the number of each bin."""
    record, rating = run.record, run.record["data_kind"] == "rating"
    error = measure("sweep", "mae" if rating else "ece")
    value = run.chosen["report", "", "all"].get(error.name, NO_VALUE)
    of = "predicted class" if "confusion" in record else (record["classes"] or ("", "chosen"))[1]
    what = f"P({plot_text(of, 24)})"
    what = f"rating ({error.unit})" if rating else what
    bins = record["reliability"]["bins"]
    return lines(
        calibration(bins, "", f"Observed {what}", sizes=not rating, ranges=True), bars=True, each=400,
        equal="perfect calibration", title="Reliability", x_title=f"Predicted {what}",
        subtitle=f"{_n(run)}; {error.label} = {spanned(value, digits=3)}",
        square=None if rating else (-0.07, 1.05),
    )  # fmt: skip
