"""Tables of a steering report: what was steered, every slope, judge, and provenance."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from probekit.reports.rows import Metric
from probekit.reports.steer_rows import PROBE, Change, Measure, Steer, span, steered_ends
from probekit.reports.steer_words import (
    change_text,
    coeff_text,
    digits_for,
    directions,
    signed,
    value_text,
    where_text,
)
from probekit.reports.tables import interval_cell, recorded_html, table
from probekit.reports.words import (
    count,
    kind_name,
    metric_name,
    number,
    upper_first,
    with_interval,
)

NONE = '<span class="none">–</span>'


def setting_table(steer: Steer) -> str:
    """Return what was steered, where and how hard."""
    probe = steer.probe
    rows = [
        ("Probe", escape(f"{kind_name(probe.kind, probe.head)}, {probe.data_kind} data")),
        ("Read at", f"{escape(probe.site)} layer {probe.layer}, {escape(probe.position)}"),
        ("Steered", f"{_layers(steer)}, {escape(where_text(steer.where))}"),
        ("How", _MODES[steer.mode]),
        ("Norm", _norms(steer)),
        ("Prompts", f"{count(steer.n['prompts'])}, {_samples(steer)}"),
        ("Completions", count(steer.n["completions"])),
        ("Random controls", count(len(steer.controls))),
    ]
    if probe.metric.known:
        held = f"{with_interval(probe.metric)} {escape(metric_name(probe.metric_name))}"
        rows.insert(1, ("On the choose split", held))
    if not steer.own_direction:
        rows.insert(2, ("Direction", f"<code>{escape(steer.source)}</code>"))
    if probe.classes:
        low, high = probe.classes
        rows.append(("Score up means", f"{escape(high)} rather than {escape(low)}"))
    return table(["", "Value"], rows, caption="What was steered.", name="settings")


def summary_table(steer: Steer) -> str:
    """Return every measure unsteered, at the usable ends, and ablated."""
    low, high = steered_ends(steer)
    curve = {item.coeff: item for item in steer.curve(PROBE)}
    columns = [(coeff_text(at), curve[at]) for at in (low, high) if at and at in curve]
    columns.insert(1 if low else 0, ("unsteered", steer.baseline))
    ablated = steer.ablated(PROBE)
    if ablated is not None:
        columns.append(("ablated", ablated))
    rows = [
        [escape(upper_first(measure.label)),
         *(_value_cell(measure, item.value(measure.name)) for _, item in columns)]
        for measure in _main(steer)
    ]  # fmt: skip
    return table(
        ["Measure", *(name for name, _ in columns)],
        rows,
        caption="Along the probe's direction, with 95 % intervals.",
        name="numbers",
    )


def slopes_table(steer: Steer) -> str:
    """Return slope and ablation difference of every measure beside those of random directions."""
    main = _changes(steer, _main(steer), _caption(steer))
    layers = steer.grouped("layers")
    if not layers:
        return main
    rest = _changes(steer, layers, "The score as the probe of each layer reads it.")
    return f"{main}<details><summary>The same for every layer's probe</summary>{rest}</details>"


def change_cell(metric: Metric) -> str:
    """Return a slope or a difference with its sign, its interval in small figures beside it."""
    if not metric.known:
        return NONE
    value, _, interval = change_text(metric).partition(" ")
    return f'{value} <span class="interval">{interval}</span>' if interval else value


def judge_table(steer: Steer) -> str:
    """Return who judged the completions and how often it answered."""
    judge = steer.judge
    if judge is None:
        return ""
    rows = [
        ("Model", f"<code>{escape(judge.model)}</code>"),
        ("Address", f"<code>{escape(judge.url)}</code>"),
        ("Asked", f"{count(judge.asked)} completions"),
        ("Answered", f"{count(judge.answered)}, {count(judge.failed)} failed"),
    ]
    if judge.agreement.known:
        rows.append(("Agrees with the rules", interval_cell(judge.agreement, 2)))
    return table(["", "Value"], rows, caption="The judge.", name="settings")


def steer_provenance(steer: Steer) -> str:
    """Return model, command, seed and versions; everything that was recorded folds out."""
    run = steer.provenance
    model, argv, versions = run.get("model"), run.get("argv"), run.get("versions")
    if isinstance(model, dict):
        model = " ".join(str(v) for k in ("model", "name", "revision") if (v := model.get(k)))
    command = "probekit " + " ".join(str(item) for item in argv) if isinstance(argv, list) else ""
    listing = versions.items() if isinstance(versions, dict) else ()
    rows = [
        ("Model", escape(str(model or ""))),
        ("Probe", _code(steer.probe.path)),
        ("Command", _code(command)),
        ("Seed", escape(str("" if steer.seed is None else steer.seed))),
        ("Created", escape(str(run.get("created") or ""))),
        ("Git commit", _code(run.get("git_commit"))),
        ("Versions", escape(", ".join(f"{name} {version}" for name, version in listing))),
    ]
    return recorded_html([row for row in rows if row[1]], run)


_MODES = {
    "add": "coeff × norm is added along the unit direction",
    "clamp": "the component along the unit direction is set to coeff × norm",
    "ablate": "the component along the unit direction is projected out",
}


def _main(steer: Steer) -> list[Measure]:
    return steer.grouped("effect", "behaviour", "damage")


def _caption(steer: Steer) -> str:
    used = steer.change("score").coeffs
    doses = f" ({', '.join(coeff_text(coeff) for coeff in used)})" if used else ""
    usable = "" if steer.slopes_on_all else "usable "
    slope = (
        ""
        if steer.ablate_only
        else f"<i>Slope</i>: change for each mean residual norm over the {usable}doses{doses}. "
    )
    ablated = "<i>Ablated</i>: with the direction projected out, minus unsteered. "
    return (
        slope + (ablated if steer.ablation else "") + "<i>Random</i>: lowest and highest of the "
        f"{directions(len(steer.controls))}. <i>p</i>: rank of the size of the change "
        "among theirs; not corrected for the number of measures. Shares are in fractions (0.1 is "
        "ten points)." + ("" if steer.ablate_only else _EVEN)
    )


_EVEN = " What rises on both sides of 0 alike, as damage does, has a slope near 0: its figure tells more."


def _changes(steer: Steer, measures: Sequence[Measure], caption: str) -> str:
    kinds = []
    if steer.doses:
        kinds.append(("Slope", steer.doses))
    if steer.ablation:
        kinds.append(("Ablated", steer.ablation))
    header = ["Measure"]
    for name, _ in kinds:
        header += [f"{name}, 95 % interval", "Random", "p"]
    rows = []
    for measure in measures:
        row = [_name(measure)]
        for _, changes in kinds:
            row += _cells(changes.get(measure.name, Change()))
        rows.append(row)
    return table(header, rows, caption=caption, name="numbers")


def _name(measure: Measure) -> str:
    return f"<b>{escape(measure.label)}</b>" if measure.name == "score" else escape(measure.label)


def _cells(change: Change) -> list[str]:
    if not change.metric.known:
        return [NONE, NONE, NONE]
    ends = span(change.random)
    random = NONE
    if ends:
        digits = digits_for(Metric(ends[0]), Metric(ends[1]))
        random = " to ".join(dict.fromkeys(signed(end, digits) for end in ends))
    return [change_cell(change.metric), random, number(change.p, 3)]


def _value_cell(measure: Measure, metric: Metric) -> str:
    if not metric.known:
        return NONE
    value, bracket, interval = value_text(measure, metric).partition(" [")
    return f'{value} <span class="interval">[{interval}</span>' if bracket else value


def _layers(steer: Steer) -> str:
    plural = "s" if len(steer.layers) != 1 else ""
    return f"layer{plural} {', '.join(str(layer) for layer in steer.layers)}"


def _norms(steer: Steer) -> str:
    if not steer.norms:
        return NONE
    several = len(steer.norms) > 1
    return "<br>".join(
        f"{f'layer {layer}: ' if several else ''}{number(norm, 1)}, the mean of the residual stream"
        for layer, norm in sorted(steer.norms.items())
    )


def _samples(steer: Steer) -> str:
    samples = steer.n["samples"]
    return f"{count(samples)} sample{'' if samples == 1 else 's'} of each"


def _code(value: object) -> str:
    return f"<code>{escape(str(value))}</code>" if value else ""
