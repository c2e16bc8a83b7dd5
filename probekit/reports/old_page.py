"""The HTML file around figures and tables: one document, no request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

# The policy lets the browser load nothing at all: whatever a text holds, it can not phone home.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)

_PRINT_WIDTH = 680

_SCRIPT = """
"use strict";
(function () {
  var plots = [];
  function addButtons(gd) {
    var bar = document.createElement("div");
    bar.className = "download";
    ["PNG", "SVG"].forEach(function (format) {
      var button = document.createElement("button");
      button.textContent = format;
      button.setAttribute("aria-label", "Download figure " + gd.id + " as " + format);
      button.addEventListener("click", function () {
        Plotly.downloadImage(gd, {format: format.toLowerCase(), scale: format === "PNG" ? 3 : 1,
          width: gd.clientWidth, height: gd.clientHeight, filename: gd.id});
      });
      bar.appendChild(button);
    });
    gd.parentNode.insertBefore(bar, gd);
  }
  document.querySelectorAll("script.figure-data").forEach(function (node) {
    var value = JSON.parse(node.textContent);
    var gd = document.getElementById(node.dataset.for);
    plots.push(gd);
    // Each in its own promise: one that fails does not keep the others from being drawn.
    Promise.resolve().then(function () {
      return Plotly.newPlot(gd, value.data, value.layout, {responsive: true,
        displayModeBar: false, doubleClick: false, scrollZoom: false, showTips: false});
    });
    addButtons(gd);
  });
  window.addEventListener("beforeprint", function () {
    plots.forEach(function (gd) {
      Plotly.relayout(gd, {width: Math.min(gd.clientWidth, PRINT_WIDTH), autosize: false});
    });
  });
  window.addEventListener("afterprint", function () {
    plots.forEach(function (gd) { Plotly.relayout(gd, {width: null, autosize: true}); });
  });
})();
""".replace("PRINT_WIDTH", str(_PRINT_WIDTH))


@dataclass(frozen=True)
class Plot:
    """A figure with what a reader needs beside it."""

    id: str
    """Unique in the page; also the name of a downloaded image."""
    figure: go.Figure
    caption: str
    """How to read it, as HTML."""
    alt: str
    """What it shows, as plain text, for readers who can not see it."""
    width: int | None = None
    """Widest it is drawn, in pixels; as wide as the page where None."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in order: figures, or ready HTML."""

    id: str
    heading: str
    parts: Sequence[Plot | str]


def render_page(
    *, title: str, eyebrow: str, lead: str, sections: Sequence[Section], footer: str
) -> str:
    """Return the whole document.

    Parameters
    ----------
    title, eyebrow
        Plain text: what the page is called, and the line of small print above it.
    lead, footer
        Ready HTML.
    sections
        Figures are numbered in the order they come.

    Returns
    -------
    str
        HTML with styles, plotly.js (once) and every figure's data inside.
    """
    counter = iter(range(1, 1 + sum(len(section.parts) for section in sections)))
    body = "".join(_section(section, counter) for section in sections)
    contents = "".join(
        f'<li><a href="#{section.id}">{escape(section.heading)}</a></li>' for section in sections
    )
    style = (files("probekit.reports") / "templates" / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<header><p class="eyebrow">{escape(eyebrow)}</p><h1><bdi>{escape(title)}</bdi></h1>'
        f'{lead}<nav aria-label="Contents"><ul>{contents}</ul></nav></header>\n'
        f"{body}<footer>{footer}</footer>\n</main>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(section: Section, counter: Iterator[int]) -> str:
    parts = []
    for part in section.parts:
        parts.append(part if isinstance(part, str) else _figure(part, next(counter)))
    return (
        f'<section id="{section.id}" aria-labelledby="{section.id}-heading">'
        f'<h2 id="{section.id}-heading">{escape(section.heading)}</h2>{"".join(parts)}</section>\n'
    )


def _figure(plot: Plot, number: int) -> str:
    height = plot.figure.layout.height
    limit = f' style="max-width:{plot.width}px"' if plot.width else ""
    # `<` never reaches the page raw: no text can close the script element it stands in.
    value = json.dumps(plot.figure.to_plotly_json(), ensure_ascii=False, allow_nan=False)
    return (
        f'<figure><div class="stage"{limit}>'
        f'<div class="plot" id="{plot.id}" role="img" style="height:{height}px" '
        f'aria-label="{escape(plot.alt)}"></div></div>'
        f'<script type="application/json" class="figure-data" data-for="{plot.id}">'
        f"{value.replace('<', chr(92) + 'u003c')}</script>"
        f"<figcaption><b>Figure {number}.</b> {plot.caption}</figcaption></figure>"
    )
