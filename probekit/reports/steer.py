"""`report.html` of a steering run: which figures and tables, in which order, with which captions."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.reports.output import write_page
from probekit.reports.steer_load import load_steer
from probekit.reports.steer_rows import Measure, Steer
from probekit.reports.steer_verdict import SteerVerdict, steer_verdict
from probekit.reports.steer_words import INTERVAL
from probekit.reports.words import metric_name, number

if TYPE_CHECKING:
    from probekit.reports.old_page import Plot, Section

_BAND = f"Blue band: {INTERVAL}."
NOT_DRAWN = ("distinct_1",)
"""Measures that stand in the table only: they say what another one says."""


def write_steer_report(directory: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the report of a steering run as one self-contained HTML file and return its path.

    Parameters
    ----------
    directory
        What `probekit steer --out` wrote: `steer.json` and `completions.jsonl`.
    out
        Where to write; `report.html` in `directory` by default.
    force
        Replace the file when it exists.

    Raises
    ------
    ProbeError
        When `directory` is not the output of a steering run, is partial, or is of a newer
        probekit.
    OutputError
        When `out` exists and `force` is not set, or can not be written.
    """
    steer = load_steer(Path(directory))
    return write_page(Path(directory), lambda: render_steer(steer), out=out, force=force)


def render_steer(steer: Steer) -> str:
    """Return the report of a steering run as HTML."""
    from probekit.reports.old_page import render_page

    found, probe = steer_verdict(steer), steer.probe
    model = steer.provenance.get("model")
    if isinstance(model, dict):
        model = model.get("model") or model.get("name")
    name = Path(str(model or "")).name or "a model"
    title = f"Steering {name} along a {probe.kind} probe"
    if steer.ablate_only:
        title = f"Ablating the direction of a {probe.data_kind} probe in {name}"
    return render_page(
        title=title,
        eyebrow=f"probekit steer, {probe.site} layer {probe.layer}, position {probe.position}",
        lead=_lead(found),
        sections=list(_sections(steer)),
        footer=f"Intervals are {INTERVAL}s. This file holds everything it shows and loads nothing.",
    )


def _lead(found: SteerVerdict) -> str:
    points = "".join(f"<p>{escape(point)}</p>" for point in found.points)
    items = "".join(f"<li>{escape(warning)}</li>" for warning in found.warnings)
    warnings = f'<ul class="warnings" aria-label="Warnings">{items}</ul>' if items else ""
    return (
        f'<div class="verdict"><p class="headline">{escape(found.headline)}</p>'
        f"{points}{warnings}</div>"
    )


def _sections(steer: Steer) -> Iterator[Section]:
    from probekit.reports import steer_tables as tables
    from probekit.reports.old_page import Section
    from probekit.reports.steer_examples import examples_html
    from probekit.reports.steer_layers import layer_changes
    from probekit.reports.steer_method import method_html

    heading = "Ablation" if steer.ablate_only else "Dose response"
    yield Section("doses", heading, list(_doses(steer)))
    if layer_changes(steer):
        yield Section("layers", "Which layers read it", [_layers(steer)])
    changes = [tables.slopes_table(steer), tables.summary_table(steer)]
    yield Section("slopes", "Every change against random directions", changes)
    frontier = list(_frontier(steer))
    if frontier:
        yield Section("damage", "Effect against damage", frontier)
    ranking = list(_ranking(steer))
    if ranking:
        yield Section("ranking", "Layers ranked by effect", ranking)
    yield Section("texts", "Before and after", [examples_html(steer)])
    yield Section("method", "Method", [
        method_html(steer),
        f'<div class="beside">{tables.setting_table(steer)}{tables.judge_table(steer)}</div>',
    ])  # fmt: skip
    yield Section("provenance", "Provenance", [tables.steer_provenance(steer)])


def _doses(steer: Steer) -> Iterator[Plot]:
    parts = [
        ("score", "The probe's score", _drawn(steer, "effect")),
        ("behaviour", "Behaviour", _drawn(steer, "behaviour")),
        ("cost", "What it does to the text", _drawn(steer, "damage")),
    ]
    for index, (name, title, measures) in enumerate(item for item in parts if item[2]):
        yield from _dose_plots(steer, name, title, measures, first=index == 0)


def _drawn(steer: Steer, group: str) -> list[Measure]:
    return [item for item in steer.grouped(group) if item.name not in NOT_DRAWN]


def _dose_plots(
    steer: Steer, name: str, title: str, measures: list[Measure], *, first: bool
) -> Iterator[Plot]:
    from probekit.reports.old_page import Plot
    from probekit.reports.steer_dose import dose_figures

    against = "with and without the direction" if steer.ablate_only else "against the dose"
    caption = _dose_caption(steer) if first else f"As in the first figure. {_BAND}"
    if steer.ablate_only and not first:
        caption = "As in the first figure."
    extra = {"score": _reference_caption(steer), "cost": _COST, "behaviour": _BEHAVIOUR}[name]
    labels = ", ".join(item.label for item in measures)
    for index, figure in enumerate(dose_figures(steer, measures, title=f"{title} {against}")):
        yield Plot(
            f"dose-{name}" + (f"-{index + 1}" if index else ""),
            figure,
            f"{caption} {extra}".strip(),
            f"Small multiples {against}: {labels}.",
            width=640 if steer.ablate_only and len(measures) == 1 else None,
        )


_COST = (
    "Perplexity is of the completions under the unsteered model, on a logarithmic axis where its "
    "range is wide; divergence is against the unsteered model."
)
_BEHAVIOUR = (
    "Shares of all completions, found by rules on the words (or by the judge, who is not shown those "
    "of random directions)."
)


def _dose_caption(steer: Steer) -> str:
    if steer.ablate_only:
        return (
            "The unsteered model (circle) and the model with the probe's direction projected out "
            f"(diamond). Bars: {INTERVAL}. Grey dashes: random directions projected out."
        )
    unfitted = "" if steer.slopes_on_all else "; no slope is fitted there"
    shaded = (
        f" Shaded, with open circles: doses that are not usable{unfitted}."
        if set(steer.coeffs) - set(steer.usable.coeffs)
        else ""
    )
    grey = " Grey: random directions of the same length and their range." if steer.controls else ""
    side = (
        " Right of the line: the model with the direction projected out, which has no dose."
        if steer.ablation
        else ""
    )
    return f"Blue: along the probe's direction. {_BAND}{grey}{shaded}{side} Dotted: unsteered."


def _reference_caption(steer: Steer) -> str:
    if not steer.reference:
        return ""
    return (
        "Green lines: mean score of the probe's own data (± one standard deviation), which says "
        "how far a change is."
    )


def _layers(steer: Steer) -> Plot:
    from probekit.reports.old_page import Plot
    from probekit.reports.steer_layers import layers_figure

    what = "Ablated minus unsteered score" if steer.ablate_only else "Slope of the score"
    grey = " Grey: the same for random directions, and their range." if steer.controls else ""
    return Plot(
        "layer-slopes",
        layers_figure(steer),
        f"{what} as the probe of each layer of the same sweep reads it in a clean pass. {_BAND}"
        f"{grey} Each probe scores in its own units, so compare a layer with its own random "
        "directions rather than with other layers.",
        f"{what} over layers with intervals.",
    )


def _frontier(steer: Steer) -> Iterator[Plot]:
    from probekit.reports.old_page import Plot
    from probekit.reports.steer_frontier import frontier, frontier_figure

    found = frontier(steer)
    if found is None or steer.ablate_only:
        return
    damage = "perplexity as a multiple of the unsteered" if found.by_perplexity else "divergence"
    grey = " Grey circles: random directions at the same doses." if steer.controls else ""
    bound = (
        f" The dashed line is the bound of usable text ({number(steer.usable.bound, 1)})."
        if found.by_perplexity
        else ""
    )
    bars = (
        f"Bars: {INTERVAL} of the paired difference; perplexity is without intervals here."
        if any(spot.effect.has_interval for spot in found.path)
        else "Means without intervals; those are in the figures above."
    )
    yield Plot(
        "frontier",
        frontier_figure(steer, found),
        f"Change of the score against {damage}. Blue: along the probe's direction, the coeff beside "
        f"each point where there is room.{grey}{bound} Up and to the left is better (down, for "
        f"negative coeffs). {bars}",
        f"Path of the score's change against {damage}, with random directions.",
        width=760,
    )


def _ranking(steer: Steer) -> Iterator[Plot | str]:
    from probekit.reports.old_page import Plot
    from probekit.reports.steer_rerank import rerank_figure, rerank_table

    ranking = steer.rerank
    if ranking is None or not ranking.rows:
        return
    metric = escape(metric_name(ranking.metric))
    yield Plot(
        "layer-ranking",
        rerank_figure(steer, ranking),
        f"Above: {metric} of each layer's probe on the choose split. Below: what steering along that "
        f"layer's own direction does to the score (half the difference between coeffs ±"
        f"{number(abs(ranking.coeff))}), over the root of the mean divergence (nats per token). "
        "Bars: 95 % intervals. Rings: the best layer of each. Dotted: the "
        "layer steered in this run. The best of many layers flatters.",
        "Metric on the choose split and effect for its damage over layers.",
    )
    yield rerank_table(ranking)
