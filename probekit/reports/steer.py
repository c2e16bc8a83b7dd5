"""`report.html` of a steering run: frames to figures; the words are in steer.html.j2."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.reports import look
from probekit.reports.figures import level, lines, points
from probekit.reports.formats import count, number, sentence, shorten, signed, spanned
from probekit.reports.look import Panels
from probekit.reports.page import said, write_page
from probekit.results.intervals import NO_VALUE, Interval
from probekit.results.measures import Measure, measure
from probekit.results.steer import ABLATED, BASELINE, FEWEST_CONTROLS, PROBE, Condition, SteerRun

PANELS, SHOWN = 9, 6
"""Panels of a figure at most: three rows fit on a page; prompts of the table of completions."""
WIDE = 5
"""From this ratio of the largest to the smallest value on, an axis is by powers of ten."""
ALONG = "probe direction"
EACH = {"random": "random directions", "shuffled": "shuffled labels", "placebo": "placebos"}
"""Names of the kinds of control directions, in figures."""


def write_steer_report(directory: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the report of what `probekit steer --out` wrote; see `probekit.reports`."""
    run = SteerRun.open(directory)
    context = {
        "run": run, "doses": {group: _by_dose(run, group) for group in ("effect", "behaviour", "damage")},
        "layer_figure": _layers(run), "frontier": _frontier(run), "ranking": _ranking(run),
        "examples": _examples(run), "named": named, "FEWEST_CONTROLS": FEWEST_CONTROLS,
    }  # fmt: skip
    return write_page("steer.html.j2", context, run.directory, out, force=force)


def steer_figures(run: SteerRun) -> dict[str, go.Figure]:
    """Return the figures of a steering run's report by name: `effect`, `damage`, `frontier` and others."""
    found: dict[str, go.Figure | None] = {}
    for group in ("effect", "behaviour", "damage"):
        drawn = _by_dose(run, group)
        found |= {f"{group}:{n}" if n else group: figure for n, figure in enumerate(drawn)}
    found |= {"layers": _layers(run), "frontier": _frontier(run), "ranking": _ranking(run)}
    return {name: figure for name, figure in found.items() if figure is not None}


def steer_words(directory: Path) -> dict[str, str]:
    """Return the page's sentences on the score and on the layers, for a terminal."""
    run = SteerRun.open(directory)
    names = {"verdict": "headline", **({"layers": "ranking"} if run.record["rerank"] else {})}
    return {name: said("steer_words.html.j2", macro, run) for name, macro in names.items()}


def _by_dose(run: SteerRun, group: str) -> list[go.Figure]:
    """Return figures of a group of measures, in as many as they need."""
    # Distinct tokens say what distinct bigrams say: they stand in the tables only.
    drawn = [item for item in run.measures(group) if item.name != "distinct_1"]
    parts = [drawn[start : start + PANELS] for start in range(0, len(drawn), PANELS)]
    title = sentence(f"{group}, ablated" if run.ablate_only else f"{group} by dose")
    names = [title if part is parts[0] else f"{title}, continued" for part in parts]
    return [dose_figure(run, part, name) for part, name in zip(parts, names, strict=True)]


def dose_figure(run: SteerRun, measures: Sequence[Measure], title: str) -> go.Figure:
    """Draw measures over the doses, a panel each, the ablated model on the right."""
    doses = [condition.coeff or 0.0 for condition in run.curve()]
    across = Panels.fitting(len(measures)).across
    pixels = (look.WIDTH - 76 - 64 * (across - 1)) / across
    span = doses[-1] - doses[0] or 1.0
    slot = doses[-1] + span * (max(0.14, 46 / (pixels - 46)) if len(doses) > 1 else 1.0)
    parts = [_panel(run, item, doses, slot, 14 * span / pixels) for item in measures]
    known = pd.concat(parts).groupby("panel")["value"]
    wide = known.max()[(known.min() > 0) & (known.max() >= WIDE * known.min())].index
    panel = dict(parts[0].iloc[0][["panel", "axis"]])
    only_score = [item.name for item in measures] == ["score"]
    for item in (run.record["reference"] or ()) if only_score else ():
        name = f"{shorten(item['name'], 14)} {number(item['mean'])}"
        parts.append(level(item["mean"], [doses[0], slot], name, **panel))
    return lines(
        parts, title=title, subtitle=_n(run), ticks=_ticks(run, doses, slot, pixels),
        x_title="Model" if run.ablate_only else measure("steer", "coeff").axis_title,
        log_y={sentence(item.label) for item in measures if item.name == "perplexity"} & set(wide),
        marks={"dose not usable": (_not_usable(run, doses), look.ORANGE)},
    )  # fmt: skip


def _panel(
    run: SteerRun, item: Measure, doses: Sequence[float], slot: float, aside: float
) -> pd.DataFrame:
    """Return a measure along the probe's direction and random ones; both ablated, at a slot."""
    by_score = item.name.partition("@")[0] == "score"
    axis = f"Score<br>({item.unit})" if by_score else sentence(item.axis or item.unit)
    more = {"panel": sentence(item.label), "axis": axis, "share": item.share}

    def values(conditions: Iterable[Condition]) -> list[Interval]:
        return [run.value(item.name, condition) for condition in conditions]

    base, texts = Interval(values([BASELINE])[0].value), [signed(dose) for dose in doses]
    own = ("unsteered model", "points") if run.ablate_only else (ALONG, "main")
    parts = [points(doses, values(run.curve()), texts, name=own[0], look=own[1], **more)]
    ends = [doses[0], slot]
    parts.append(points(ends, [base] * 2, ["", ""], name="unsteered", look="control", **more))
    if not run.ablate_only:
        for kind, names in run.controls.items():
            each = {name: [v.value for v in values(run.curve(name))] for name in names}
            parts += _controls(doses, kind, each, texts, **more)
    ablated = [condition for condition in run.conditions if condition.mode == "ablate"]
    for name, kind, at in ((ALONG, "points", slot), ("controls", "dots", slot + aside)):
        some = [condition for condition in ablated if bool(condition.control) == (kind == "dots")]
        texts, x = [named(condition)[1] for condition in some], [at] * len(some)
        parts.append(points(x, values(some), texts, name=f"{name} ablated", look=kind, **more))
    return pd.concat(part for part in parts if len(part))


def _controls(
    x: Sequence[float], kind: str, each: Mapping[str, Sequence[float]], texts: Sequence[str],
    **more: object,
) -> list[pd.DataFrame]:  # fmt: skip
    """Return a line of each control of a kind, all under one name: each ends with a gap."""
    look_of = "rival" if kind == "placebo" else "control"
    return [
        points(
            [*x, math.nan], [*map(Interval, values), NO_VALUE], [*(f"{name}, {t}" for t in texts), ""],
            name=EACH[kind], look=look_of, **more,
        )
        for name, values in each.items()
    ]  # fmt: skip


def _layers(run: SteerRun) -> go.Figure | None:
    """Draw the change that the probe of each layer reads."""
    if len(run.layers) < 2:
        return None
    layers, quantity = list(run.layers), "ablation" if run.ablate_only else "slope"
    per = "ablated − unsteered" if run.ablate_only else "per mean residual norm"
    more = {"panel": "", "axis": f"Change of score<br>({per})"}
    texts = [f"layer {layer}" for layer in layers]
    table = run.metrics[run.metrics["quantity"] == quantity].pivot(
        index="direction", columns="measure", values="value"
    )[[f"score@{layer}" for layer in layers]]
    changes = [change.interval for change in run.layers.values()]
    data = [points(layers, changes, texts, name="probe of each layer", **more)]
    for kind, names in run.controls.items():
        each = {name: table.loc[name].tolist() for name in names}
        data += _controls(layers, kind, each, texts, **more)
    data.append(level(0.0, layers, **more))
    return lines(
        data, title="Change by layer", subtitle=_n(run), x_title="Layer of the probe",
        marks={"steered layer": (run.record["vector"]["layers"], look.VERMILLION)},
    )  # fmt: skip


def _frontier(run: SteerRun) -> go.Figure | None:
    """Draw the change of the score against perplexity, both against the unsteered model."""
    if run.ablate_only or not run.value("perplexity").known:
        return None
    coeffs = run.record["coeffs"]
    labelled = {min(coeffs), max(coeffs), *(condition.coeff for condition in run.ends)}
    groups = {
        ALONG: ("main", run.curve()),
        f"{ALONG} ablated": ("points", [ABLATED]),
        "controls": ("dots", [c for c in run.conditions if c.control and c.mode != "ablate"]),
    }
    more = {"panel": "", "axis": f"Change of score ({run.measures('effect')[0].unit})"}
    data = {}
    for name, (kind, conditions) in groups.items():
        ratios = {c: run.ratio("perplexity", c) for c in conditions}
        changes = {c: run.value("score", c, "differences") for c in conditions}
        kept = [c for c in conditions if ratios[c].known and changes[c].known]
        doses = {c: "ablated" if c.coeff is None else signed(c.coeff) for c in kept}
        named_here = labelled if kind == "main" else ()
        label = [dose if c.coeff in named_here else "" for c, dose in doses.items()]
        hover = [f"{named(c)[1]}, {dose}" for c, dose in doses.items()]
        x, values = [ratios[c].value for c in kept], [changes[c] for c in kept]
        data[name] = points(x, values, hover, name=name, look=kind, label=label, **more)
    if len(data[ALONG]) + len(data[f"{ALONG} ablated"]) < 2:
        return None
    x, bound = pd.concat(data.values())["x"], run.record["damage_bound"]
    return lines(
        [*data.values()], title="Effect against damage", subtitle=_n(run), bars=True, each=340,
        x_title=measure("steer", "ratio_of_perplexity").axis_title,
        log_x=x.min() > 0 and x.max() >= WIDE * x.min(),
        marks={f"usable up to {bound:g}": ([bound], look.ORANGE)},
    )  # fmt: skip


def _ranking(run: SteerRun) -> go.Figure | None:
    """Draw the metric of every layer's probe above the effect of its direction for its damage."""
    rerank = run.record["rerank"]
    if not rerank or not rerank["rows"]:
        return None
    rows = sorted(rerank["rows"], key=lambda row: row["layer"])
    layers, (causal, predictive) = [row["layer"] for row in rows], run.best_layers
    metric, ratio = measure("sweep", rerank["metric"]), measure("steer", "ratio")
    data = []
    for item, key, best in ((metric, "metric", predictive), (ratio, "ratio", causal)):
        panel = sentence(item.label) + ("" if best is None else f", best: layer {best}")
        more = {"panel": panel, "axis": sentence(item.axis or item.unit or item.label), "name": ""}
        values = [Interval.from_json(row[key]) for row in rows]
        data.append(points(layers, values, [f"layer {layer}" for layer in layers], **more))
        if best is not None:
            data.append(points([best], [values[layers.index(best)]], [""], look="ring", **more))
        reference = item.chance if key == "metric" else 0.0
        data += [] if reference is None else [level(reference, layers, **more)]
    rho, n = Interval.from_json(rerank["spearman"]), rerank["n_prompts"]
    coeff = f"coeff {signed(rerank['coeff'])}; n = {count(n)} prompts"
    steered = [row["layer"] for row in rows if row["steered"]]
    return lines(
        data, title="Reading and steering by layer", x_title="Layer", across=1, each=170, bars=True,
        subtitle=coeff + (f"; Spearman ρ {spanned(rho, digits=2)}" if rho.known else ""),
        marks={"steered layer": (steered, look.VERMILLION)},
    )  # fmt: skip


def _examples(run: SteerRun) -> dict[str, Any]:
    """Return the conditions, their headings and the prompts of the table of completions.

    Prompts are evenly spaced over how far their score is moved, the one moved furthest first.
    """
    low, high = run.ends
    ends = [condition for condition in (low, high) if condition.coeff]
    top = ends[-1] if ends else ABLATED
    base = low if len(ends) == 2 else BASELINE
    shown = sorted({*ends, BASELINE}, key=lambda condition: condition.coeff or 0.0)
    some = [name for names in run.controls.values() for name in names]
    shown += [ABLATED, *(Condition(name, top.mode, top.coeff) for name in some[:1])]
    keys = ["direction", "mode", "coeff", "prompt_id"]
    rows = run.rows.sort_values("sample", kind="stable").drop_duplicates(keys)
    cells: dict[str, dict[Condition, dict[str, Any]]] = {}
    for row in rows.sort_index().to_dict("records"):
        coeff = None if math.isnan(row["coeff"]) else row["coeff"]
        condition = Condition(row["direction"], row["mode"], coeff)
        cells.setdefault(row["prompt_id"], {})[condition] = row

    def moved(prompt: str) -> float:
        scores = [cells[prompt].get(c, {"score": math.nan})["score"] for c in (top, base)]
        change = float(scores[0] - scores[1])
        return -math.inf if math.isnan(change) else change

    order = sorted(cells, key=moved, reverse=True)
    if len(order) > SHOWN:
        order = [order[round(i * (len(order) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    prompts = [
        (name, next(iter(cells[name].values()))["prompt"], [*map(cells[name].get, shown)])
        for name in order
    ]
    heads = [(sentence(what), along) for what, along in map(named, shown)]
    return {"columns": shown, "heads": heads, "prompts": prompts, "of": len(cells)}


def _not_usable(run: SteerRun, doses: Sequence[float]) -> list[tuple[float, float]]:
    """Return the stretches of doses that are not usable, each up to halfway to its neighbour."""
    pad = 0.05 * (doses[-1] - doses[0])
    edges = [doses[0] - pad, *((a + b) / 2 for a, b in pairwise(doses)), doses[-1] + pad]
    usable = doses if run.ablate_only else run.usable
    return [span for dose, span in zip(doses, pairwise(edges), strict=True) if dose not in usable]


def _ticks(run: SteerRun, doses: Sequence[float], slot: float, pixels: float) -> dict[float, str]:
    """Return names of places on the axis of doses, as many as fit: ends and 0 before others."""
    first = dict.fromkeys([0.0, doses[-1], doses[0], *sorted(doses, key=abs, reverse=True)])
    names = [(dose, "unsteered" if run.ablate_only else signed(dose)) for dose in first]
    return dict(sorted(look.apart([(slot, "ablated"), *names], pixels)))


def named(condition: Condition) -> tuple[str, str]:
    """Return what is done, `coeff +0.4`, and along which direction: `random direction 1`."""
    if condition == BASELINE:
        return "unsteered", ""
    dose = "ablated" if condition.coeff is None else f"coeff {signed(condition.coeff)}"
    return dose, ALONG if condition.direction == PROBE else _direction(condition.direction)


def _direction(name: str) -> str:
    """Return the name of a control in words: `random direction 1`, `placebo cooking astronomy`."""
    kind, _, which = name.partition("-")
    if kind == "placebo":
        return f"placebo {which.replace('-', ' ')}"
    return f"{'random direction' if kind == 'random' else 'shuffled labels'} {which.lstrip('0')}"


def _n(run: SteerRun) -> str:
    """Return how many prompts, samples and random directions there are."""
    n, total = run.record["n"], run.n_controls
    each = f" × {count(n['samples'])} samples" if n["samples"] > 1 else ""
    controls = f"{count(total) if total else 'no'} control direction{'' if total == 1 else 's'}"
    return f"n = {count(n['prompts'])} prompts{each}; {controls}"
