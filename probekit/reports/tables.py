"""The tables of a report as HTML: the chosen probe, metrics, controls, tags, provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from probekit.reports.rows import NO_VALUE, Metric, Metrics, Sweep
from probekit.reports.verdict import Standing, Verdict
from probekit.reports.words import (
    INTERVAL,
    LOWER_IS_BETTER,
    control_name,
    count,
    kind_name,
    metric_name,
    number,
    ordered_controls,
    penalty,
    upper_first,
)

COLUMNS = 4
"""Metrics beside each other at most: more do not fit on A4."""


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, name: str = ""
) -> str:
    """Return a table of ready HTML cells; the first cell of each row is its header."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    kind = f' class="{name}"' if name else ""
    return (
        f'<div class="table"><table{kind}><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def interval_cell(metric: Metric, digits: int = 3) -> str:
    """Return a value with its interval in small figures beside it."""
    if not metric.known:
        return '<span class="none">–</span>'
    value = number(metric.value, digits)
    if not metric.has_interval:
        return value
    low, high = number(metric.low, digits), number(metric.high, digits)
    return f'{value} <span class="interval">[{low}, {high}]</span>'


def metric_header(metric: str) -> str:
    """Return a metric's column or row header; an arrow where lower is better."""
    arrow = " ↓" if metric in LOWER_IS_BETTER else ""
    return escape(upper_first(metric_name(metric))) + arrow


def chosen_table(sweep: Sweep) -> str:
    """Return what the chosen probe is and what it was chosen from."""
    chosen, n = sweep.chosen, sweep.n
    rows = [
        ("Kind", escape(kind_name(chosen.kind, chosen.head))),
        ("Site", f"<code>{escape(chosen.site)}</code>"),
        ("Layer", str(chosen.layer)),
        ("Position", f"<code>{escape(chosen.position)}</code>"),
        ("l2 penalty", penalty(chosen.l2)),
        ("Chosen among", f"{count(len(sweep.rows))} cells by {escape(metric_name(sweep.primary))}"),
        ("Splits", _splits(sweep)),
        ("All rows", f"{count(n['examples'])} {sweep.unit} in {count(n['groups'])} groups"),
    ]
    if sweep.classes:
        rows.append(("Classes", f"0: {escape(sweep.classes[0])}; 1: {escape(sweep.classes[1])}"))
    if sweep.score_range:
        low, high = (number(end, 2) for end in sweep.score_range)
        rows.append(("Rating range", f"{low} to {high} on the fit split, mapped to [−1, 1]"))
    return table(["", "Value"], rows, caption="The chosen probe.", name="settings")


def metrics_table(sweep: Sweep) -> str:
    """Return every metric of the chosen probe on the choose and the report split."""
    names = [sweep.primary, *(name for name in sweep.report if name != sweep.primary)]
    rows = [
        [
            f"<b>{metric_header(name)}</b>" if name == sweep.primary else metric_header(name),
            interval_cell(sweep.choose.get(name, NO_VALUE)),
            f"<b>{interval_cell(sweep.report.get(name, NO_VALUE))}</b>"
            if name == sweep.primary
            else interval_cell(sweep.report.get(name, NO_VALUE)),
        ]
        for name in names
    ]
    return table(
        ["Metric", f"Choose split, n = {count(sweep.n['choose'])}",
         f"Report split, n = {count(sweep.n['report'])}"],
        rows,
        caption=f"Its metrics, with the {INTERVAL}. The choose split picked the cell, so it "
        "flatters; the report split was used once. ↓ lower is better.",
        name="numbers",
    )  # fmt: skip


def controls_table(sweep: Sweep, verdict: Verdict) -> str:
    """Return every control on the report split, and whether the probe clears it."""
    metrics = _columns(sweep, list(sweep.controls.values()))
    rows = [["<b>chosen probe</b>", *_cells(sweep.report, metrics), ""]]
    for name in ordered_controls(list(sweep.controls)):
        stands = verdict.standings.get(name, Standing.UNKNOWN)
        rows.append(
            [
                escape(control_name(name)),
                *_cells(sweep.controls[name], metrics),
                _STANDINGS[stands],
            ]
        )
    header = ["Control", *(metric_header(name) for name in metrics), "Cleared?"]
    return table(
        header,
        rows,
        caption="Controls on the report split. Cleared: the probe's whole interval lies above the "
        "control's value.",
        name="numbers",
    )


_STANDINGS = {
    Standing.ABOVE: "yes",
    Standing.INCLUDES: "no, interval includes it",
    Standing.BELOW: "no, below it",
    Standing.UNKNOWN: "–",
}


def tag_table(sweep: Sweep, tag: str, counts: dict[str, int]) -> str:
    """Return the report metrics for every value of a tag."""
    values = sweep.by_tag[tag]
    metrics = _columns(sweep, list(values.values()))
    rows = [
        [f'<bdi dir="auto">{escape(value)}</bdi>', count(counts.get(value, 0)),
         *_cells(values[value], metrics)]
        for value in sorted(values, key=lambda value: -counts.get(value, 0))
    ]  # fmt: skip
    header = [escape(tag), "n", *(metric_header(name) for name in metrics)]
    return table(
        header,
        rows,
        caption=f"Report metrics by <bdi>{escape(tag)}</bdi>, with the {INTERVAL}.",
        name="numbers",
    )


def provenance_table(sweep: Sweep) -> str:
    """Return who, what and when: model, data, seed, versions; everything else folds out."""
    store = sweep.provenance.get("store") or {}
    fit = sweep.run or sweep.provenance.get("fit") or {}
    data = store.get("data") or {}
    data = data if isinstance(data, dict) else {"source": data}
    rows = [
        ("Model", _join(store.get("model"), store.get("revision") and f"@ {store['revision']}")),
        ("Weights fingerprint", _code(store.get("weights_fingerprint"))),
        ("Forward pass, storage", _join(store.get("forward_dtype"), store.get("storage_dtype"))),
        ("Data", _join(data.get("source"), data.get("rows") and f"({data['rows']} rows)")),
        ("Data fingerprint", _code(data.get("fingerprint"))),
        ("Command", _code(_command(fit))),
        ("Seed", escape(str(sweep.seed if sweep.seed is not None else fit.get("seed", "–")))),
        ("Created", escape(str(fit.get("created") or "–"))),
        ("Git commit", _code(fit.get("git_commit"))),
        ("Versions", escape(", ".join(f"{k} {v}" for k, v in _dict(fit.get("versions")).items()))),
    ]
    shown = [row for row in rows if row[1] not in ("", "–")]
    if sweep.splits:
        shares = ", ".join(f"{name} {100 * part:.0f} %" for name, part in sweep.splits.items())
        shown.append(("Splits by group", escape(shares)))
    everything = {"fit": sweep.provenance.get("fit"), "run": sweep.run, "store": store}
    return recorded_html(shown, everything)


def recorded_html(rows: Sequence[Sequence[str]], record: dict[str, Any]) -> str:
    """Return how the numbers were made as a table of cells; all that was recorded folds out."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return (
        table(["", "Value"], rows, caption="How these numbers were made.", name="settings")
        + "<details><summary>Everything that was recorded</summary>"
        + f"<pre>{escape(text)}</pre></details>"
    )


def _columns(sweep: Sweep, metrics: Sequence[Metrics]) -> list[str]:
    """Return the primary metric and the first others that any row has."""
    names = dict.fromkeys([sweep.primary, *(name for item in metrics for name in item)])
    skipped = {"chosen", "rejected"}
    return [name for name in names if name not in skipped][:COLUMNS]


def _cells(metrics: Metrics, names: Sequence[str]) -> list[str]:
    return [interval_cell(metrics.get(name, NO_VALUE), 2) for name in names]


def _splits(sweep: Sweep) -> str:
    parts = []
    for name in ("fit", "choose", "report"):
        groups = sweep.n.get(f"{name}_groups")
        within = f" in {count(groups)} groups" if groups else ""
        parts.append(f"{name} {count(sweep.n[name])}{within}")
    return "<br>".join(parts)


def _command(fit: dict[str, Any]) -> str:
    argv = fit.get("argv")
    if isinstance(argv, list) and argv:
        return "probekit " + " ".join(str(item) for item in argv)
    return f"probekit {fit['command']}" if fit.get("command") else ""


def _code(value: object) -> str:
    return f"<code>{escape(str(value))}</code>" if value else ""


def _join(*values: object) -> str:
    return escape(" ".join(str(value) for value in values if value))


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
