"""The figures of every report, each a function of one tidy frame."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.reports import look
from probekit.reports.formats import number, plot_text, spanned
from probekit.reports.look import Panels
from probekit.results.intervals import Interval

POINT = ["panel", "axis", "name", "x", "value", "low", "high", "share", "look", "hover"]
"""Columns of `lines`."""
KINDS = ("thin", "level", "control", "main", "points", "dots", "ring")
"""What a point of `lines` may look like, what is drawn first at the front."""
Marks = Mapping[str, tuple[Sequence[float | tuple[float, float]], str]]
"""Name, in the legend, to places on the horizontal axis and a colour: lines, or shaded between two."""


def points(
    x: Sequence[float], values: Sequence[Interval], hover: Sequence[str], **more: object
) -> pd.DataFrame:
    """Return points of `lines`; `more` are its other columns, `look` `main` by default."""
    frame = pd.DataFrame(list(values), columns=["value", "low", "high"])
    return frame.assign(x=x, hover=hover, **{"look": "main", "share": False, **more})[POINT]


def level(value: float, ends: Sequence[float], name: str = "", **more: object) -> pd.DataFrame:
    """Return a straight line of `lines` at a value: thin without a name, a dashed level with one."""
    kind = "level" if name else "thin"
    both = [min(ends), max(ends)]
    return points(both, [Interval(value)] * 2, ["", ""], name=name, **{"look": kind, **more})


def lines(
    data: pd.DataFrame, *, title: str, subtitle: str, x_title: str,
    across: int | None = None, each: int | None = None, same: bool = False, bars: bool = False,
    log_x: bool = False, log_y: Collection[str] = (), bounds: tuple[float, float] = (1e-9, 1e9),
    marks: Marks | None = None, tops: Sequence[tuple[float, str]] = (),
    levels: Mapping[str, float] | None = None, ticks: Mapping[float, str] | None = None,
) -> go.Figure:  # fmt: skip
    """Draw lines with their intervals, a panel each value of the column `panel`.

    Parameters
    ----------
    data
        A row a point, columns `POINT`: `panel`, `axis` (title of the vertical axis), `name` (in the
        legend where it is not empty), `x`, `value`, `low`, `high`, `share` (drawn in per cent),
        `look` and `hover`. Looks: `main`; `points` (not joined); `control` (grey, broken, in the
        legend); `dots` (grey, not joined); `thin` (faint, behind all); `level` (a dashed reference);
        `ring` (around a point). A row without a value breaks its line.
    title, subtitle, x_title
        Texts of the figure and of its horizontal axis.
    across, each
        Panels beside each other and their height in pixels; what fits by default.
    same
        Give all panels one vertical axis.
    bars
        Draw intervals as bars: for an axis on which a line may turn back.
    log_x
        Draw the horizontal axis by powers of ten.
    log_y
        Panels whose vertical axis is by powers of ten; those with one title have the same ends.
    bounds
        Ends that such an axis does not go beyond: what lies there leaves the panel.
    marks
        Vertical lines in every panel.
    tops
        Places with a text above every panel, as many as have room, the last one first.
    levels
        Name and value of straight lines through every panel, named on the right; with `same`.
    ticks
        Names of places on the horizontal axis, as many of them as fit.
    """
    panels, ends, lift = list(data["panel"].unique()), ["value", "low", "high"], 18 if tops else 4
    layout = Panels.fitting(len(panels), across, each)
    figure, shapes = layout.figure(shared_yaxes="all" if same else False), []
    texts = [
        spanned(Interval(*row), "share" if share else "")
        for *row, share in data[[*ends, "share"]].itertuples(index=False)
    ]
    data = data.assign(text=texts)
    for index, panel in enumerate(panels):
        cell, rows = layout.cell(index), data[data["panel"] == panel]
        if panel in log_y:
            like = data.loc[data["axis"] == rows["axis"].iloc[0], ends]
            figure.update_yaxes(**look.powers(like, bounds), **cell)
            rows = rows.assign(**rows[ends].clip(bounds[0] / 10, bounds[1] * 10))
        for trace in _traces(rows, data, bars=bars):
            figure.add_trace(trace, **cell)
        _tops(figure, layout, index, tops)
        for places, color in (marks or {}).values():
            shapes += [look.mark(place, color, index) for place in places]
        _vertical(figure, rows, cell, titled=cell["col"] == 1 or not same)
        figure.update_xaxes(title_text=x_title if layout.is_last(index) else None, **cell)
        if len(panels) > 1:
            look.panel_title(figure, f"<b>{plot_text(panel, layout.letters)}</b>", index, lift=lift)
    figure.update_layout(shapes=shapes)
    figure.update_xaxes(showgrid=False, nticks=6, type="log" if log_x else None)
    if ticks := ticks or (look.decades(data["x"]) if log_x else {}):
        _ticks(figure, layout, ticks)
    if levels:
        _levels(figure, layout, levels, look.padded(data[ends], levels.values()))
    shown_marks = {name: mark for name, mark in (marks or {}).items() if len(mark[0])}
    for name, (places, color) in shown_marks.items():
        symbol = "square" if isinstance(places[0], tuple) else "line-ns"
        figure.add_trace(look.key(name, color, symbol), row=1, col=1)
    legend = [*(str(name) for name in data["name"].unique() if name), *shown_marks]
    return look.finish(
        figure, title=title, subtitle=subtitle, height=layout.height, legend=legend, bottom=56,
        head=(30 if len(panels) > 1 else 10) + 14 * bool(tops), right=122 if levels else 16,
    )  # fmt: skip


def _traces(rows: pd.DataFrame, data: pd.DataFrame, *, bars: bool) -> Iterator[go.Scatter]:
    """Yield the traces of a panel; a name is in the legend once and looks the same in every panel."""
    drawn = data["look"].isin(["main", "points"])
    looks = {name: i for i, name in enumerate(data[drawn]["name"].unique())}
    looks |= {name: i for i, name in enumerate(data[data["look"] == "control"]["name"].unique())}
    first = data.drop_duplicates("name").set_index("name")["panel"]
    for kind in KINDS:
        for name, line in rows[rows["look"] == kind].groupby("name", sort=False):
            shown = bool(name) and first[name] == line["panel"].iloc[0]
            yield from _line(line, str(name), kind, looks.get(name, 0), bars=bars, shown=shown)


def _tops(figure: go.Figure, layout: Panels, index: int, tops: Sequence[tuple[float, str]]) -> None:
    """Name places on the horizontal axis above a panel."""
    for x, text in look.apart(tops, look.WIDTH / layout.across - 80):
        figure.add_annotation(
            x=x, y=1, yref=f"{look.axis('y', index)} domain", yanchor="bottom", text=text,
            showarrow=False, font={"size": 10.5, "color": look.GREY}, **layout.cell(index),
        )  # fmt: skip


def _vertical(
    figure: go.Figure, rows: pd.DataFrame, cell: Mapping[str, int], *, titled: bool
) -> None:
    """Set the vertical axis of a panel."""
    title = rows["axis"].iloc[0] if titled else None
    tickformat = ".0%" if rows["share"].iloc[0] else None
    figure.update_yaxes(title_text=title, nticks=6, tickformat=tickformat, **cell)
    if tickformat and not (rows[["value", "low"]] < 0).any(axis=None):
        figure.update_yaxes(rangemode="nonnegative", **cell)


def _ticks(figure: go.Figure, layout: Panels, ticks: Mapping[float, str]) -> None:
    """Name places on the horizontal axis, as many of them as fit."""
    shown = look.thinned(list(ticks.values()), {1: 16, 2: 9}.get(layout.across, 6))
    places, texts = list(ticks), list(ticks.values())
    figure.update_xaxes(
        tickmode="array", tickvals=[places[at] for at in shown], tickangle=0,
        ticktext=[texts[at] for at in shown],
    )  # fmt: skip


def _levels(
    figure: go.Figure, layout: Panels, levels: Mapping[str, float], ends: tuple[float, float]
) -> None:
    """Draw straight lines through every panel, and name them right of the last one of a row."""
    figure.update_yaxes(range=list(ends), showgrid=False)
    names = [(value, f"{name} {number(value)}") for name, value in levels.items()]
    for index in range(layout.n):
        for order, value in enumerate(levels.values()):
            line = {"color": look.BLACK, "width": 1, "dash": look.LEVELS[order % len(look.LEVELS)]}
            figure.add_hline(y=value, line=line, layer="below", **layout.cell(index))
        if index + 1 == layout.n or layout.cell(index)["col"] == layout.across:
            look.right_labels(figure, names, index, ends, layout.each)


def _line(
    line: pd.DataFrame, name: str, kind: str, order: int, *, bars: bool, shown: bool
) -> list[go.Scatter]:
    """Return the traces of one line, its interval first."""
    at = order % len(look.SERIES)
    if kind == "ring":
        ring = {"symbol": "circle-open", "size": 14, "color": look.BLACK, "line": {"width": 2}}
        return [look.key(name, look.BLACK).update(
            x=look.numbers(line["x"]), y=look.numbers(line["value"]), marker=ring, showlegend=False,
        )]  # fmt: skip
    colors = {"thin": look.THIN, "level": look.GREEN, "control": look.GREY, "dots": look.GREY}
    color = colors.get(kind, look.SERIES[at])
    broken = look.CONTROLS[order % len(look.CONTROLS)]
    dash = {"thin": "solid", "level": "dash", "control": broken}.get(kind, look.DASHES[at])
    few = "lines+markers" if len(line) <= 40 else "lines"
    mode = {"main": few, "points": "markers", "dots": "markers"}.get(kind, "lines")
    symbol = "line-ew-open" if kind == "dots" else look.SYMBOLS[at]
    curve = go.Scatter(
        x=look.numbers(line["x"]),
        y=look.numbers(line["value"]),
        mode=mode,
        name=plot_text(name, 60),
        legendgroup=name,
        legendrank=2000 if kind == "control" else 1000,
        showlegend=shown,
        line={"color": color, "width": {"main": 2, "control": 1.2}.get(kind, 1), "dash": dash},
        marker={"symbol": symbol, "size": 8 if mode == "markers" else 6, "color": color},
        customdata=[list(pair) for pair in zip(line["hover"], line["text"], strict=True)],
        hovertemplate=f"{plot_text(name, 60)}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
    )
    if kind in ("thin", "level"):
        return [curve.update(hoverinfo="skip", hovertemplate=None)]
    if kind in ("control", "dots"):
        return [curve]
    if bars or kind == "points":
        return [curve.update(error_y=look.error_bar(line, color))]
    return [*look.bands(line, color, name), curve]


def histograms(
    data: pd.DataFrame, *, title: str, subtitle: str, x_title: str, counted: str = "",
    zero: str = "",
) -> go.Figure:  # fmt: skip
    """Draw distributions over the same bins, 0 an edge of one: a panel each `panel`, one each `name`.

    Parameters
    ----------
    data
        A row a value: `panel`, `name`, `value`.
    title, subtitle, x_title
        Texts.
    counted
        What is counted; without it every distribution is drawn in shares of its own values.
    zero
        What a value of 0 means; a dashed line is drawn there.
    """
    panels, names = list(data["panel"].unique()), list(data["name"].unique())
    layout = Panels.fitting(len(panels), 1 if len(panels) < 4 else 2, 150)
    figure = layout.figure(shared_xaxes=True)
    values = data["value"].to_numpy(dtype=float)
    edges = look.bin_edges(np.append(values, 0.0) if zero else values)
    for (panel, name), rows in data.groupby(["panel", "name"], sort=False):
        index, order = panels.index(panel), names.index(name) % len(look.SERIES)
        values = rows["value"].dropna()
        heights = np.histogram(values, bins=edges)[0] / (1 if counted else max(1, len(values)))
        figure.add_trace(
            go.Scatter(
                x=np.repeat(edges, 2).tolist(), y=[0.0, *np.repeat(heights, 2).tolist(), 0.0],
                mode="lines", name=str(name), legendgroup=str(name), showlegend=index == 0,
                line={"color": look.SERIES[order], "width": 2, "dash": look.DASHES[order]},
                fill="tozeroy", fillcolor=look.faint(look.SERIES[order], 0.14),
            ),
            **layout.cell(index),
        )  # fmt: skip
    for index, panel in enumerate(panels):
        if len(panels) > 1:
            look.panel_title(figure, f"<b>{plot_text(panel, layout.letters)}</b>", index)
        title_x = x_title if layout.is_last(index) else None
        figure.update_xaxes(title_text=title_x, showgrid=False, **layout.cell(index))
    if zero:
        figure.add_vline(x=0, line={"color": look.BLACK, "width": 1, "dash": "dash"})
        figure.add_trace(look.key(zero, look.BLACK), row=1, col=1)
    figure.update_yaxes(
        title_text=counted or "Share", tickformat=None if counted else ".0%", rangemode="tozero"
    )
    legend = [*(str(name) for name in names if len(names) > 1 or zero), *([zero] if zero else [])]
    head = 30 if len(panels) > 1 else 10
    return look.finish(
        figure, title=title, subtitle=subtitle, height=layout.height, legend=legend, head=head
    )


def forest(
    data: pd.DataFrame, *, title: str, subtitle: str, x_title: str, reference: float | None = None,
    reference_name: str = "chance", digits: int | None = None,
) -> go.Figure:  # fmt: skip
    """Draw values with their intervals from top to bottom, the numbers in a column on the right.

    Parameters
    ----------
    data
        A row a value: `name`, `value`, `low`, `high`, `main` (drawn large, its interval shaded).
    title, subtitle, x_title
        Texts.
    reference, reference_name
        Where a dashed line stands, and what it is called.
    digits
        Decimals of the numbers on the right.
    """
    figure, heights = go.Figure(), np.arange(len(data) - 1, -1, -1)
    for row in data[data["main"]].dropna(subset=["low", "high"]).itertuples():
        figure.add_vrect(
            x0=row.low, x1=row.high, fillcolor=look.BLUE, opacity=0.08, line_width=0, layer="below"
        )
    if reference is not None:
        figure.add_vline(x=reference, line={"color": look.BLACK, "width": 1, "dash": "dash"})
        look.above(figure, reference, reference_name)
    texts = [
        spanned(Interval(*row), digits=digits)
        for row in data[["value", "low", "high"]].itertuples(index=False)
    ]
    for main, rows in data.assign(y=heights, text=texts).groupby("main", sort=False):
        color = look.BLUE if main else look.GREY
        symbol, size = ("diamond", 11) if main else ("circle", 8)
        figure.add_trace(
            go.Scatter(
                x=look.numbers(rows["value"]), y=rows["y"].tolist(), mode="markers", cliponaxis=False,
                marker={"color": color, "size": size, "symbol": symbol}, showlegend=False,
                error_x=look.error_bar(rows, color), customdata=rows[["name", "text"]].to_numpy().tolist(),
                hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
            )
        )  # fmt: skip
        for row in rows.itertuples():
            figure.add_annotation(
                x=1, xref="paper", xanchor="left", xshift=12, y=row.y, yref="y", showarrow=False,
                text=f"<b>{row.text}</b>" if main else row.text, font={"size": 12}, align="left",
            )  # fmt: skip
    names = [f"<b>{row.name}</b>" if row.main else row.name for row in data.itertuples(index=False)]
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(
        tickmode="array", tickvals=heights.tolist(), ticktext=names, range=[-0.6, len(data) - 0.4],
        showgrid=False, ticks="", showline=False, ticklabelstandoff=6,
    )  # fmt: skip
    return look.finish(
        figure, title=title, subtitle=subtitle, height=30 * len(data) + 14, right=150, head=24
    )


def scatter(
    data: pd.DataFrame, *, title: str, subtitle: str, x_title: str, y_title: str,
    diagonal: str = "", ends: tuple[float, float] | None = None, log_x: bool = False,
    bounds: Mapping[str, float] | None = None, height: int = 340,
) -> go.Figure:  # fmt: skip
    """Draw points by two numbers, a colour each `name`.

    Parameters
    ----------
    data
        A row a point: `name` (in the legend), `x`, `value` (upwards) with its interval `low` and
        `high`, `look`, `label` (written right below the point) and `hover`. Looks: `points`, `path`
        (joined in their order), `line` (joined, without points), `control` (small, grey, open).
    title, subtitle, x_title, y_title
        Texts.
    diagonal
        Name of a dashed line where both numbers are equal; both axes then have one scale.
    ends
        Ends of both axes where there is a diagonal; by default those of the points.
    log_x
        Draw the horizontal axis by powers of ten.
    bounds
        Names and places of upright dashed lines.
    height
        Height of the plot area in pixels.
    """
    figure, names, scale = go.Figure(), list(data["name"].unique()), math.log10 if log_x else float
    if diagonal:
        low, high = ends or look.padded(data[["x", "value", "low", "high"]])
        figure.add_trace(
            go.Scatter(
                x=[low, high], y=[low, high], mode="lines", name=diagonal, hoverinfo="skip",
                line={"color": look.BLACK, "width": 1, "dash": "dash"},
            )
        )  # fmt: skip
        equal = {"range": [low, high], "constrain": "domain", "dtick": look.step(high - low)}
        figure.update_xaxes(**equal).update_yaxes(scaleanchor="x", scaleratio=1, **equal)
    for order, (name, rows) in enumerate(data.groupby("name", sort=False)):
        figure.add_trace(_spots(rows, str(name), order, many=len(data) > 600))
    for name, place in (bounds or {}).items():
        figure.add_vline(x=place, line={"color": look.ORANGE, "width": 1.6, "dash": "dash"})
        look.above(figure, scale(place), name)
    if not diagonal:
        # Fixed: margins and an axis that fit themselves to the labels can chase each other.
        ends = look.padded(data[["x"]].map(scale), map(scale, (bounds or {}).values()))
        figure.update_xaxes(range=list(ends))
    figure.update_xaxes(title_text=x_title, type="log" if log_x else None)
    figure.update_yaxes(title_text=y_title)
    legend = [*([diagonal] if diagonal else []), *(str(name) for name in names)]
    return look.finish(
        figure, title=title, subtitle=subtitle, height=height, legend=legend, head=24
    )


def _spots(rows: pd.DataFrame, name: str, order: int, *, many: bool) -> go.Scatter:
    """Return the points of one name."""
    kind, at = rows["look"].iloc[0], order % len(look.SERIES)
    color = look.GREY if kind == "control" else look.SERIES[at]
    mode = {"path": "lines+markers", "line": "lines"}.get(kind, "markers")
    size, opacity = (5 if many else 6.5, 0.35 if many else 0.55) if kind == "points" else (8, 1)
    return go.Scatter(
        x=look.numbers(rows["x"]), y=look.numbers(rows["value"]), name=name, cliponaxis=False,
        mode=f"{mode}+text" if rows["label"].any() else mode, text=rows["label"].tolist(),
        textposition="bottom right", textfont={"size": 10, "color": look.GREY},
        line={"color": color, "width": 1.6},
        marker={
            "color": color, "symbol": "circle-open" if kind == "control" else look.SYMBOLS[at],
            "size": size, "opacity": opacity,
        },
        error_y=look.error_bar(rows, color) if rows["low"].notna().any() else None,
        customdata=rows["hover"].tolist(), hoverinfo="skip" if kind == "line" else None,
        hovertemplate=None if kind == "line" else "%{customdata}<extra></extra>",
    )  # fmt: skip
