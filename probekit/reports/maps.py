"""Heat maps of one tidy frame: values by column and row as colours, the numbers written into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.reports import look
from probekit.reports.formats import number, plot_text
from probekit.reports.look import Panels


def heatmap(
    data: pd.DataFrame, *, title: str, subtitle: str, x_title: str, y_title: str = "",
    ends: tuple[float, float] | None = None, diverging: bool = False, square: bool = False,
    frames: Sequence[pd.Series] = (),
) -> go.Figure:  # fmt: skip
    """Draw values as colours in cells of one size: a panel each `panel`, one below the other.

    Parameters
    ----------
    data
        A row a cell: `panel`, `x` and `y` (names of its column and row, in the order in which they
        first come), `value` (grey where it is NaN; empty without a row), `hover`.
    ends
        Values of the first and the last colour; by default the smallest and the largest value.
    diverging, square
        Take colours that part in the middle; draw cells as high as they are wide.
    frames
        Masks of rows; a black frame goes around the cells of each.
    """
    panels, columns, names = (list(data[key].unique()) for key in ("panel", "x", "y"))
    cell = 30 if len(panels) * len(names) <= 16 else 23
    each = max(240, min(440, 46 * len(names))) if square else cell * len(names)
    layout = Panels(len(panels), 1, each, 46)
    room = (each if square else look.WIDTH - 120) / len(columns)
    figure = layout.figure(shared_xaxes=True)
    for index, panel in enumerate(panels):
        rows = data[data["panel"] == panel]
        for trace in _cells(rows, columns, names, room=room):
            figure.add_trace(trace, **layout.cell(index))
        for mask in frames:
            inside = rows[mask.loc[rows.index]]
            if len(inside):
                x, y = inside["x"].map(columns.index), inside["y"].map(names.index)
                figure.add_shape(
                    type="rect", x0=x.min() - 0.5, x1=x.max() + 0.5, y0=y.min() - 0.5,
                    y1=y.max() + 0.5, line={"color": look.BLACK, "width": 2}, **layout.cell(index),
                )  # fmt: skip
        if len(panels) > 1:
            look.panel_title(figure, panel, index, 60)
    bare = {"showgrid": False, "showline": False, "ticks": "", "tickmode": "array"}
    across = look.thinned(columns, room * len(columns) / 21)
    down = look.thinned(names, each / 14)
    figure.update_xaxes(
        tickvals=across, ticktext=[plot_text(columns[at], 18) for at in across], tickangle=0,
        range=[-0.5, len(columns) - 0.5], **bare,
    )  # fmt: skip
    figure.update_xaxes(title_text=x_title, **layout.cell(len(panels) - 1))
    figure.update_yaxes(
        title_text=y_title, tickvals=down, ticktext=[plot_text(names[at], 18) for at in down],
        range=[len(names) - 0.5, -0.5], ticklabelstandoff=5, **bare,
    )  # fmt: skip
    if square:
        figure.update_xaxes(constrain="domain").update_yaxes(scaleanchor="x", constrain="domain")
    low, high = ends or (data["value"].min(), data["value"].max())
    colors = look.DIVERGING if diverging else look.SEQUENTIAL
    head = 72 if len(panels) > 1 else 52
    look.finish(figure, title=title, subtitle=subtitle, height=layout.height, head=head)
    # The scale hangs below the title, in pixels, wherever the panels begin.
    bar = {
        "orientation": "h", "x": 0, "xref": "paper", "xanchor": "left", "xpad": 0,
        "y": 1 - 54 / figure.layout.height, "yref": "container", "yanchor": "top", "ypad": 0,
        "thickness": 9, "len": 200, "lenmode": "pixels", "outlinewidth": 0, "nticks": 5,
        "tickfont": {"size": 11},
    }  # fmt: skip
    return figure.update_layout(
        coloraxis={"cmin": low, "cmax": high, "colorscale": colors, "colorbar": bar}
    )


def _cells(
    rows: pd.DataFrame, columns: Sequence[object], names: Sequence[object], *, room: float
) -> list[go.Heatmap]:
    """Return the grey cells of a panel, which have no value, and the coloured ones, `room` pixels wide."""
    missing, compact = rows["value"].isna(), room < 35
    texts = rows["value"].map(number).mask(missing, "")
    texts = texts.str.replace(r"^(\D?)0\.", r"\1.", regex=True) if compact else texts
    table = rows.assign(text=texts, grey=missing.map({True: 1.0})).pivot(index="y", columns="x")

    def grid(key: str, empty: str | None = None) -> list[list[Any]]:
        cells = table[key].reindex(index=names, columns=columns).astype(object)
        return list(cells.where(cells.notna(), empty).to_numpy().tolist())

    common = {
        "x": list(range(len(columns))), "y": list(range(len(names))), "hoverongaps": False,
        "xgap": int(len(columns) <= 40), "ygap": int(len(columns) <= 40),
        "customdata": grid("hover", ""), "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    coloured = go.Heatmap(z=grid("value"), coloraxis="coloraxis", **common)
    if room >= (22 if rows["value"].min() < 0 else 17.5):
        size = 9 if room < 24 else 10 if compact else 11
        coloured.update(text=grid("text", ""), texttemplate="%{text}", textfont={"size": size})
    grey = {"colorscale": [[0, look.FAINT], [1, look.FAINT]], "showscale": False}
    return [*([go.Heatmap(z=grid("grey"), **grey, **common)] if missing.any() else []), coloured]
