"""The figures of every report, each a function of one tidy frame."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.reports import look
from probekit.reports.formats import count, number, plot_text, spanned
from probekit.reports.look import Panels
from probekit.results.intervals import Interval
from probekit.results.measures import Measure

POINT = ["panel", "axis", "name", "x", "value", "low", "high", "share", "look", "hover", "label"]
"""Columns of `lines`."""
KINDS = {
    "area": "", "thin": look.THIN, "level": look.BLACK, "control": look.GREY, "rival": look.ORANGE,
    "cloud": "", "main": "", "points": "", "dots": look.GREY, "ring": look.BLACK,
}  # fmt: skip
"""What a point of `lines` may look like, what is drawn first at the front, and its colour; without
one every name has its own."""
Marks = Mapping[str, tuple[Sequence[float | tuple[float, float]], str]]
"""Name, in the legend, to places on the horizontal axis and a colour: lines, or shaded between two."""


def points(
    x: Sequence[float], values: Sequence[Interval], hover: Sequence[str], **more: object
) -> pd.DataFrame:
    """Return points of `lines`; `more` are its other columns, `look` `main` by default."""
    frame = pd.DataFrame(list(values), columns=["value", "low", "high"])
    default = {"look": "main", "share": False, "label": ""}
    return frame.assign(x=x, hover=hover, **{**default, **more})[POINT]


def level(value: float, ends: Sequence[float], name: str = "", **more: object) -> pd.DataFrame:
    """Return a straight line of `lines` at a value: thin without a name, a dashed level with one."""
    kind = "level" if name else "thin"
    both = [min(ends), max(ends)]
    return points(both, [Interval(value)] * 2, ["", ""], name=name, **{"look": kind, **more})


def calibration(
    bins: Sequence[Mapping[str, float | None]], panel: str, axis: str, *, sizes: bool, ranges: bool = False
) -> pd.DataFrame:  # fmt: skip
    """Return points of `lines`: what was observed in bins of what was predicted, some with their sizes."""
    frame = pd.DataFrame(bins).astype(float)
    values, hover = [], []
    for row in frame.itertuples():
        values.append(Interval(row.observed, row.observed_low, row.observed_high))
        within = f"bin {number(row.low)} to {number(row.high)}, " if ranges else ""
        hover.append(f"predicted {number(row.predicted, 3)}, {within}n = {row.n:.0f}")
    label = frame["n"].map(count).tolist() if sizes else ""
    more = {"panel": panel, "axis": axis, "name": "observed", "label": label}
    return points(frame["predicted"].tolist(), values, hover, **more)


def lines(
    data: pd.DataFrame | Sequence[pd.DataFrame], *, title: str, subtitle: str, x_title: str,
    across: int | None = None, each: int | None = None, same: bool = False, bars: bool = False,
    log_x: bool = False, log_y: Collection[str] = (), bounds: tuple[float, float] = (1e-9, 1e9),
    equal: str = "", square: tuple[float, float] | None = None, marks: Marks | None = None,
    tops: Sequence[tuple[float, str]] = (), ticks: Mapping[float, str] | None = None,
) -> go.Figure:  # fmt: skip
    """Draw lines and points with their intervals, a panel each value of the column `panel`.

    Parameters
    ----------
    data
        A row a point, in one frame or several, columns `POINT`: `panel`, `axis` (title of the
        vertical axis), `name` (in the legend where it is not empty), `x`, `value`, `low`, `high`,
        `share` (in per cent), `look`, `hover`, `label` (beside the point). Without a value the
        line breaks. Looks: `main`; `points` and `dots` (not joined; `dots` grey), `cloud` (many of them),
        `control` (grey, broken), `thin` (faint), `level` (a dashed reference), `area` (filled down
        to 0), `ring` (around a point).
    across, each
        Panels beside each other and their height in pixels; what fits by default.
    same, bars
        Give all panels one vertical axis; draw intervals as bars, where a line may turn back.
    log_x, log_y
        Whether the horizontal axis, which panels' vertical axes are by powers of ten.
    bounds
        Ends that a vertical one does not go beyond: what lies there leaves the panel.
    equal, square
        Name of a line where both numbers are equal, and ends of both axes, which then have one scale.
    marks
        Vertical lines in every panel.
    tops
        Places with a text above every panel, as many as have room, the first ones before others.
    ticks
        Names of places on the horizontal axis, as many of them as fit.
    """
    if not isinstance(data, pd.DataFrame):
        data = pd.concat([part for part in data if len(part)])
    ends = ["value", "low", "high"]
    if equal:
        square = square or look.padded(data[["x", *ends]])
        data = pd.concat([*_diagonals(data, square, equal), data])
    panels = list(data["panel"].unique())
    layout = Panels.fitting(len(panels), across, each)
    marks = {name: mark for name, mark in (marks or {}).items() if len(mark[0])}
    letters = {1: 90, 2: 44}.get(layout.across, 26)
    figure, shapes = layout.figure(shared_yaxes="all" if same else False), []
    data = data.assign(text=_texts(data), label=data["label"].astype(object).fillna(""))
    for index, panel in enumerate(panels):
        cell, rows = layout.cell(index), data[data["panel"] == panel]
        _vertical(figure, rows, cell, titled=cell["col"] == 1 or not same)
        if panel in log_y:
            like = data.loc[data["axis"] == rows["axis"].iloc[0], ends]
            figure.update_yaxes(**look.powers(like, bounds), **cell)
            rows = rows.assign(**rows[ends].clip(bounds[0] / 10, bounds[1] * 10))
        for trace in _traces(rows, data, bars=bars):
            figure.add_trace(trace, **cell)
        for x, text in look.apart(tops, look.WIDTH / layout.across - 80):
            look.above(figure, x, text, index)
        shapes += [
            look.mark(place, color, index) for places, color in marks.values() for place in places
        ]
        if index + layout.across >= layout.n:
            figure.update_xaxes(title_text=x_title, **cell)
        if len(panels) > 1:
            look.panel_title(figure, panel, index, letters, lift=18 if tops else 4)
    figure.update_layout(shapes=shapes)
    figure.update_xaxes(**_horizontal(data, layout, ticks, log=log_x))
    if square:
        scale = {"range": list(square), "constrain": "domain", "nticks": 8}
        figure.update_xaxes(**scale).update_yaxes(scaleanchor="x", scaleratio=1, **scale)
    for name, (places, color) in marks.items():
        symbol = "square" if isinstance(places[0], tuple) else "line-ns"
        figure.add_trace(look.key(name, color, symbol), row=1, col=1)
    legend = [*(str(name) for name in data["name"].unique() if name), *marks]
    return look.finish(
        figure, title=title, subtitle=subtitle, height=layout.height, legend=legend,
        head=(30 if len(panels) > 1 else 10) + 14 * bool(tops),
    )  # fmt: skip


def _diagonals(data: pd.DataFrame, ends: tuple[float, float], name: str) -> Iterator[pd.DataFrame]:
    """Yield the line where both numbers are equal, of every panel."""
    for at in data.drop_duplicates("panel")[["panel", "axis"]].to_dict("records"):
        yield points(ends, [*map(Interval, ends)], ["", ""], name=name, look="level", **at)


def _texts(data: pd.DataFrame) -> list[str]:
    return [
        spanned(Interval(*row), "share" if share else "", digits=0 if kind == "area" else None)
        for *row, share, kind in data[[*Interval._fields, "share", "look"]].itertuples(index=False)
    ]


def _traces(rows: pd.DataFrame, data: pd.DataFrame, *, bars: bool) -> Iterator[go.Scatter]:
    """Yield the traces of a panel; a name is in the legend once and looks the same in every panel."""
    places: dict[str, int] = {}
    for _, part in data.groupby(data["look"].map(KINDS)):
        places |= {name: place for place, name in enumerate(part["name"].unique())}
    first = data.drop_duplicates("name").set_index("name")["panel"]
    for kind in KINDS:
        for name, line in rows[rows["look"] == kind].groupby("name", sort=False):
            shown = bool(name) and first[name] == line["panel"].iloc[0]
            yield from _line(line, str(name), kind, places[name], bars=bars, shown=shown)


def _vertical(
    figure: go.Figure, rows: pd.DataFrame, cell: Mapping[str, int], *, titled: bool
) -> None:
    """Set the vertical axis of a panel."""
    title = rows["axis"].iloc[0] if titled else None
    tickformat = ".0%" if rows["share"].iloc[0] else None
    figure.update_yaxes(title_text=title, nticks=6, tickformat=tickformat, **cell)
    if tickformat and not (rows[["value", "low"]] < 0).any(axis=None):
        figure.update_yaxes(rangemode="nonnegative", **cell)


def _horizontal(
    data: pd.DataFrame, layout: Panels, ticks: Mapping[float, str] | None, *, log: bool
) -> dict[str, Any]:
    """Return the horizontal axis; of the names of places on it, as many as fit."""
    axis = {"showgrid": False, "nticks": 6, **(look.powers(data[["x"]]) if log else {})}
    if data["label"].any() and not log:
        # Fixed: margins and an axis that fit themselves to the labels can chase each other.
        axis["range"] = list(look.padded(data[["x"]]))
    if ticks:
        places, texts = list(ticks), list(ticks.values())
        shown = look.thinned(texts, {1: 16, 2: 9}.get(layout.across, 6))
        axis |= {"tickmode": "array", "tickangle": 0, "tickvals": [places[at] for at in shown]}
        axis["ticktext"] = [texts[at] for at in shown]
    return axis


def _line(
    line: pd.DataFrame, name: str, kind: str, place: int, *, bars: bool, shown: bool
) -> list[go.Scatter]:
    """Return the traces of one line, its interval first; `place` is that among lines of its kind."""
    series = place % len(look.SERIES)
    color = KINDS[kind] or look.SERIES[series]
    dashes = {"thin": ("solid",), "level": look.LEVELS, "control": look.CONTROLS}
    dash = dashes.get(kind, look.DASHES)
    joined = "lines+markers" if kind == "main" and len(line) <= 40 else "lines"
    mode = "markers" if kind in ("cloud", "points", "dots", "ring") else joined
    curve = go.Scatter(
        x=look.numbers(line["x"]),
        y=look.numbers(line["value"]),
        mode=f"{mode}+text" if line["label"].any() else mode,
        name=plot_text(name, 60),
        legendgroup=name,
        legendrank=2000 if kind in ("control", "rival") else 1000,
        showlegend=shown,
        line={
            "color": color,
            "width": {"main": 2, "area": 2, "control": 1.2, "rival": 1.4}.get(kind, 1),
            "dash": dash[place % len(dash)],
        },
        marker={
            "symbol": "circle-open" if kind in ("dots", "ring") else look.SYMBOLS[series],
            "size": {"ring": 14, "cloud": 5, "main": 6}.get(kind, 8),
            "opacity": 0.45 if kind == "cloud" else 1,
            "color": color,
            "line": {"width": 2} if kind == "ring" else None,
        },
        fill="tozeroy" if kind == "area" else None,
        fillcolor=look.faint(color, 0.14) if kind == "area" else None,
        text=line["label"].tolist() if line["label"].any() else None,
        textposition="bottom right",
        textfont={"size": 10, "color": look.GREY},
        customdata=[list(pair) for pair in zip(line["hover"], line["text"], strict=True)],
        hovertemplate=f"{plot_text(name, 60)}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
    )
    if kind in ("thin", "level", "ring"):
        curve.update(hoverinfo="skip", hovertemplate=None)
    elif kind == "points" or (kind == "main" and bars):
        curve.update(error_y=look.error_bar(line, color))
    return [*(look.bands(line, color, name) if kind == "main" and not bars else []), curve]


def histograms(
    data: pd.DataFrame, *, counted: str = "", zero: str = "", **more: Any  # noqa: ANN401 - of `lines`
) -> go.Figure:  # fmt: skip
    """Draw distributions over the same bins, 0 an edge of one: a panel each `panel`, one each `name`.

    Parameters
    ----------
    data
        A row a value: `panel`, `name`, `value`.
    counted
        What is counted; without it every distribution is drawn in shares of its own values.
    zero
        What a value of 0 means; a line is drawn there.
    """
    edges = look.bin_edges(np.append(data["value"].to_numpy(float), [0.0] if zero else []))
    bins = [f"{number(low)} to {number(high)}" for low, high in zip(edges, edges[1:], strict=False)]
    outlines = []
    for (panel, name), values in data.groupby(["panel", "name"], sort=False)["value"]:
        known = values.dropna()
        heights = np.histogram(known, bins=edges)[0] / (1 if counted else max(1, len(known)))
        y = [Interval(0.0), *(Interval(float(h)) for h in np.repeat(heights, 2)), Interval(0.0)]
        kind = {"panel": panel, "name": name, "axis": counted or "Share", "share": not counted}
        hover = [bins[0], *np.repeat(bins, 2), bins[-1]]
        outlines.append(points(np.repeat(edges, 2).tolist(), y, hover, look="area", **kind))
    n, marks = data["panel"].nunique(), {zero: ([0.0], look.BLACK)} if zero else {}
    return lines(outlines, across=1 if n < 4 else 2, each=150, marks=marks, **more)


def forest(
    values: Mapping[str, Interval], what: Measure, *, title: str, subtitle: str
) -> go.Figure:
    """Draw a measure by name from top to bottom, the first one large, the numbers in a column on the right.

    Down from the first goes its interval; a dashed line stands at chance.
    """
    figure = go.Figure()
    data = pd.DataFrame([*values.values()], columns=Interval._fields).assign(
        name=[*values],
        main=[True, *([False] * (len(values) - 1))],
        text=[spanned(value, digits=2) for value in values.values()],
        y=range(len(values) - 1, -1, -1),
    )
    for main, rows in data.groupby("main", sort=False):
        color = look.BLUE if main else look.GREY
        symbol, size = ("diamond", 11) if main else ("circle", 8)
        figure.add_scatter(
            x=look.numbers(rows["value"]), y=rows["y"].tolist(), mode="markers", cliponaxis=False,
            marker={"color": color, "size": size, "symbol": symbol}, showlegend=False,
            error_x=look.error_bar(rows, color), customdata=rows[["name", "text"]].to_numpy().tolist(),
            hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
        )  # fmt: skip
    names = []
    for row in data.itertuples():
        bold = "<b>{}</b>" if row.main else "{}"
        names.append(bold.format(row.name))
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=12, y=row.y, yref="y", showarrow=False,
            text=bold.format(row.text), font={"size": 12}, align="left",
        )  # fmt: skip
        if row.main and row.low <= row.high:
            shade = {"fillcolor": look.BLUE, "opacity": 0.08, "line_width": 0, "layer": "below"}
            figure.add_vrect(x0=row.low, x1=row.high, **shade)
    if what.chance is not None:
        figure.add_vline(x=what.chance, line={"color": look.BLACK, "width": 1, "dash": "dash"})
        look.above(figure, what.chance, "chance")
    figure.update_xaxes(title_text=what.axis_title)
    figure.update_yaxes(
        tickmode="array", tickvals=data["y"].tolist(), ticktext=names, range=[-0.6, len(data) - 0.4],
        showgrid=False, ticks="", showline=False, ticklabelstandoff=6,
    )  # fmt: skip
    return look.finish(
        figure, title=title, subtitle=subtitle, height=30 * len(data) + 14, right=150, head=24
    )
