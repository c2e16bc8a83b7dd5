"""`report.html` of a fit: which figures and tables, in which order, with which captions."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.reports.load import load_sweep
from probekit.reports.output import write_page
from probekit.reports.rows import EMBEDDING, Sweep, layers_of, positions_of, series_of, tag_values
from probekit.reports.verdict import Verdict, verdict
from probekit.reports.words import (
    CHANCE,
    CONTROL_MEANINGS,
    INTERVAL,
    control_name,
    metric_name,
    number,
    ordered_controls,
    upper_first,
    with_interval,
)

if TYPE_CHECKING:
    from probekit.reports.old_page import Plot, Section

_BARS = f"Bars: {INTERVAL}."
FEW = 20
"""Below this many rows the caption warns of the interval."""


def write_sweep_report(directory: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the report of a fit as one self-contained HTML file and return its path.

    Parameters
    ----------
    directory
        What `probekit fit --out` wrote: `sweep.json`, `predictions.jsonl` and, where there is
        one, `run.json`.
    out
        Where to write; `report.html` in `directory` by default.
    force
        Replace the file when it exists.

    Raises
    ------
    ProbeError
        When `directory` is not the output of a fit, is partial, or is of a newer probekit.
    OutputError
        When `out` exists and `force` is not set, or can not be written.
    """
    sweep = load_sweep(Path(directory))
    return write_page(Path(directory), lambda: render_sweep(sweep), out=out, force=force)


def render_sweep(sweep: Sweep) -> str:
    """Return the report of a sweep as HTML."""
    from probekit.reports.old_page import render_page

    found = verdict(sweep)
    store = sweep.provenance.get("store") or {}
    data = store.get("data") or {}
    source = str(data.get("source") or "") if isinstance(data, dict) else str(data)
    name = Path(source).name.removeprefix("demo:") or f"{sweep.data_kind} data"
    model = Path(str(store.get("model") or "")).name or "a model"
    lead = (
        f'<div class="verdict"><p class="headline">{escape(found.headline)}</p>'
        f"<p>{escape(found.conclusion)}</p></div>"
    )
    return render_page(
        title=f"{name} on {model}",
        eyebrow=f"probekit layer sweep, {sweep.data_kind} data",
        lead=lead,
        sections=list(_sections(sweep, found)),
        footer=f"Intervals are {INTERVAL}s. Groups never straddle the splits. "
        "This file holds everything it shows and loads nothing.",
    )


def _sections(sweep: Sweep, found: Verdict) -> Iterator[Section]:
    from probekit.reports import tables
    from probekit.reports.examples import examples_html
    from probekit.reports.old_page import Section

    yield Section("result", "Result and controls", [
        f'<div class="beside">{tables.chosen_table(sweep)}{tables.metrics_table(sweep)}</div>',
        _controls(sweep),
        tables.controls_table(sweep, found),
    ])  # fmt: skip
    yield Section("where", "Where it is read", list(_where(sweep)))
    yield Section("how", "How held-out rows are scored", list(_scores(sweep)))
    by_tag = list(_by_tag(sweep))
    if by_tag:
        yield Section("tags", "By tag", by_tag)
    yield Section("examples", "Best and worst examples", [examples_html(sweep)])
    yield Section("provenance", "Provenance", [tables.provenance_table(sweep)])


def _controls(sweep: Sweep) -> Plot:
    from probekit.reports.forest import controls_figure
    from probekit.reports.old_page import Plot

    meanings = "; ".join(
        f"{control_name(name)}, {CONTROL_MEANINGS[name]}"
        for name in ordered_controls(list(sweep.controls))
        if name in CONTROL_MEANINGS
    )
    metric = metric_name(sweep.primary)
    return Plot(
        "controls",
        controls_figure(sweep),
        f"Held-out {escape(metric)} of the chosen probe (diamond) and of every control. Bars: {INTERVAL}, "
        "unless said otherwise. "
        "The shaded band carries the probe's interval down to the controls"
        + (
            f"; the dashed line is chance ({number(CHANCE[sweep.primary])})"
            if sweep.primary in CHANCE
            else ""
        )
        + f". <i>Controls</i>: {escape(meanings)}.",
        f"Forest plot. {metric} of the chosen probe {with_interval(sweep.best)}. "
        + verdict(sweep).conclusion,
    )


def _where(sweep: Sweep) -> Iterator[Plot | str]:
    from probekit.reports.cosine import cosine_figure
    from probekit.reports.curves import curves_figure
    from probekit.reports.heatmap import heatmap_figure
    from probekit.reports.old_page import Plot

    metric = metric_name(sweep.primary)
    columns = len(layers_of(sweep.rows))
    cell = f"{sweep.chosen.site} layer {sweep.chosen.layer}, position {sweep.chosen.position}"
    if len(sweep.rows) == 1:
        yield "<p>Only one cell was fitted, so there is no map and no curve to draw.</p>"
    else:
        yield Plot(
            "heatmap",
            heatmap_figure(sweep),
            f"Each square is one probe, fitted on the fit split; its {escape(metric)} on the "
            "choose split is written in it where it fits, always shown on pointing, with the "
            f"{INTERVAL}. The lightest colour is chance or below. A grey square has no value, an "
            "empty one was not fitted. "
            + (
                "<i>emb</i>: the embedding, before any layer."
                if EMBEDDING in layers_of(sweep.rows)
                else ""
            ),
            f"Heat map of {metric} by layer and position on the choose split; chosen: {cell}.",
            width=max(480, 160 + 70 * columns) if columns <= 8 else None,
        )
        yield Plot(
            "curves",
            curves_figure(sweep),
            _curves_caption(sweep),
            f"Curves of {metric} over layers for each position on the choose split, with controls.",
        )
    if len(sweep.cosine_layers) > 1:
        yield Plot(
            "cosine",
            cosine_figure(sweep),
            "Cosine between the unit directions fitted at each pair of layers. A block near 1 "
            "means that those layers hold the same direction; two unrelated directions give about "
            "0. Grey: no value. No interval: directions are those of one fit.",
            "Matrix of cosines between the directions of all layers at the chosen position.",
            width=600,
        )


def _curves_caption(sweep: Sweep) -> str:
    from probekit.reports.curves import TOGETHER

    metric = escape(upper_first(metric_name(sweep.primary)))
    if len(layers_of(sweep.rows)) == 1:
        return (
            f"{metric} of every position at the only layer, choose split. {_BARS} Lines: controls "
            "on the report split."
        )
    panels = len(series_of(sweep.rows)) * len(positions_of(sweep.rows)) > TOGETHER
    where = (
        "Light grey curves, where drawn, repeat the other positions; thin broken ones are a random "
        "direction and shuffled labels at the same cells."
        if panels
        else "Thin broken curves: a random direction and shuffled labels at the chosen position."
    )
    return (
        f"{metric} of the probe fitted at each layer, choose split. Bands: {INTERVAL}. Straight "
        "lines: probes on length alone and on TF-IDF features, scored on the report split, and "
        f"chance. The ring is the chosen cell. {where}"
    )


def _scores(sweep: Sweep) -> Iterator[Plot | str]:
    from probekit.reports.old_page import Plot
    from probekit.reports.reliability import reliability_figure

    few = [tag for tag, values in tag_values(sweep.predictions).items() if 2 <= len(values) <= 4]
    for tag in [None, *few[:2]]:
        yield _score_plot(sweep, tag)
    if sum(item.n for item in sweep.reliability):
        yield Plot(
            "reliability",
            reliability_figure(sweep),
            f"{_RELIABILITY[sweep.data_kind]} Below: how many each bin holds.",
            "Reliability diagram: observed against predicted, with counts of each bin.",
            width=600,
        )


_RELIABILITY = {
    "label": "Points on the dashed line are calibrated: of the examples given probability p, a "
    "fraction p is of the class. ECE: mean distance from the line, weighted by bin. Bars: 95 % "
    "Wilson intervals.",
    "pair": "Points on the dashed line are calibrated: of the pairs given probability p, a "
    "fraction p is preferred that way. Every pair is counted in both orders, so the diagram is "
    "symmetric about 0.5. ECE: mean distance from the line, weighted by bin. Bars: 95 % Wilson "
    "intervals.",
    "rating": "Each point is a tenth of the held-out predictions: their mean against the mean of "
    "the true ratings. On the dashed line a predicted rating can be taken at face value. "
    "Bars: 1.96 standard errors of the mean.",
}


def _score_plot(sweep: Sweep, tag: str | None) -> Plot:
    from probekit.reports.distributions import distribution_figure
    from probekit.reports.old_page import Plot
    from probekit.reports.predicted import is_spread, predicted_figure

    name = (
        "scores"
        if tag is None
        else f"scores-by-tag-{sorted(tag_values(sweep.predictions)).index(tag)}"
    )
    by = f", by {escape(tag)}" if tag else ""
    if sweep.data_kind == "rating":
        spread = (
            " Ratings take few values, so points are spread a little up and down to be told apart."
            if is_spread(sweep)
            else ""
        )
        caption = (
            f"One point a held-out example{by}. Dashed: prediction equals truth. Solid: least "
            "squares of true on predicted rating; a slope of 1 means that a predicted difference "
            f"is a true one.{spread}"
        )
        return Plot(
            name, predicted_figure(sweep, tag), caption,
            "Scatter plot of true against predicted rating with the identity and a fitted line.",
            width=620,
        )  # fmt: skip
    if sweep.data_kind == "pair":
        caption = (
            f"Counts of held-out scores{by}. Left: chosen and rejected completions; the less they "
            "overlap, the better. Right: margins of the same pairs; right of the dashed line the "
            "chosen one scores higher, and that fraction is the pair accuracy. Counts, no interval."
        )
    else:
        caption = (
            f"Counts of held-out scores by true class{by}. The dashed line is where the probe "
            "says that both classes are equally likely. Counts, no interval."
        )
    return Plot(
        name, distribution_figure(sweep, tag), caption,
        "Histograms of held-out scores, one colour a side or class.",
    )  # fmt: skip


def _by_tag(sweep: Sweep) -> Iterator[Plot | str]:
    from probekit.reports.forest import tag_figure, value_counts
    from probekit.reports.old_page import Plot
    from probekit.reports.tables import tag_table

    for index, (tag, values) in enumerate(sweep.by_tag.items()):
        if not values:
            continue
        metric, counts = metric_name(sweep.primary), value_counts(sweep.predictions, tag)
        small = min((counts.get(value, 0) for value in values), default=0) < FEW
        yield Plot(
            f"tag-{index}",
            tag_figure(sweep, tag),
            f"Held-out {escape(metric)} within each value of <bdi>{escape(tag)}</bdi>, under the "
            f"same probe. {_BARS} The shaded band is the interval over all rows."
            + (f" With fewer than {FEW} rows a bootstrap interval is too narrow." if small else ""),
            f"Forest plot of {metric} for each value of {tag}.",
        )
        yield tag_table(sweep, tag, counts)
