"""`probekit fit`: an activation store in, probes, sweep rows and a report out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import probekit.cli.options as opt
from probekit.cli.settings import SettingsCommand

if TYPE_CHECKING:
    from probekit.probes.config import SweepConfig

ENDS = {
    "high": "at the largest l2: their folds found no signal",
    "low": "at the smallest l2: their folds would take less still",
    "rough": "not converged: their l2 or weights are inexact",
}


@click.command(cls=SettingsCommand, settings="probekit.probes.config:SweepConfig")
@click.argument("store", type=click.Path())
@opt.out_option("Directory to write probes, sweep and report to.")
@opt.THREADS
@opt.FORCE
@opt.JSON
def fit(store: str, out: str, config: SweepConfig, **options: Any) -> None:  # noqa: ANN401
    """Fit a head to every layer and position, choose one, and report it held out.

    Groups are split into fit, choose and report; the report split is read once, for the chosen cell.

    \b
    Example:
      probekit fit acts.h5 --out sweep --positions last,mean
    """
    import torch

    from probekit.activations.store import ActivationStore
    from probekit.probes import fit_sweep
    from probekit.probes.classes import fit_classes
    from probekit.reports.sweep import beside_words, sweep_words
    from probekit.results.sweep import close, l2_ends

    target = opt.claim(out, "fit", options)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    with ActivationStore.open(store) as source, opt.progress_bar() as progress:
        fitted: Any = fit_classes if source.examples.several else fit_sweep
        result = fitted(source, config, progress=progress)
    arguments = {"out": out, **options, **asdict(config)}
    result.save(target, force=options["force"], arguments=arguments)
    rows = result.record()["rows"]
    summary = {
        **result.summary(),
        "l2_ends": l2_ends(rows),
        "chosen_l2_end": next(row.get("l2_end") for row in rows if row["chosen"]),
        "close": close(rows),
        "paths": {
            "directory": str(target),
            "report": str(target / "report.html"),
            "sweep": str(target / "sweep.json"),
            "probes": str(target / "probes.json"),
            "predictions": str(target / "predictions.jsonl"),
            "splits": str(target / "splits.jsonl"),
        },
    }
    if options["as_json"]:
        return opt.echo_json(summary)
    *lines, report = summary_lines(summary)
    beside = [f"beside   {words}" for words in beside_words(target)]
    for line in (*lines, *beside, f"verdict  {sweep_words(target)}", report):
        opt.echo(line)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return the chosen cell, its held-out metric beside the controls, and the report's path."""
    from probekit.data.resolution import FEW
    from probekit.reports.formats import spanned
    from probekit.results.intervals import Interval
    from probekit.results.sweep import capped, heavy

    def written(metrics: dict[str, Any]) -> str:
        return spanned(Interval.from_json(metrics[metric]), digits=3)

    chosen, metric, n = summary["chosen"], summary["primary"], summary["n"]
    outer, unit = summary.get("outer"), "pairs" if metric == "pair_accuracy" else "rows"
    drawn, near = capped(n), summary["close"]
    lines = [
        f"chosen   {chosen['kind']} at {chosen['site']} layer {chosen['layer']}, position "
        f"{chosen['position']} (on the choose split)",
        *opt.positive_line(summary.get("positive_class")),
        f"held out {n['report']} of {n['examples']}, {n['report_groups']} groups; "
        + (
            "95 % intervals over groups; beside a control, how far the probe is above it, paired"
            if Interval.from_json(summary["report"][metric]).has_interval
            else "too few groups for an interval"
        ),
        f"  {metric + ':':<24}{written(summary['report'])}",
    ]
    lines += _control_lines(summary, metric)
    lines += _confusion_lines(summary)
    if outer:
        rows = Counter(row["layer"] for row in outer["folds"]).most_common()
        layers = ", ".join(
            f"{layer} ({times})" if times > 1 else f"{layer}" for layer, times in rows
        )
        lines.append(
            f"outer folds {outer['n_folds']}: {metric} {written(outer['report'])} over {drawn['used']} "
            f"{unit}, {outer['n_folds']} heads; chosen layers {layers}"
        )
        lines += _control_lines(outer, metric)
    elif n["examples"] < FEW and "confusion" not in summary:
        lines.append(
            f"advice   under {FEW} {unit} one split tells little: --outer-folds 5 reports every one"
        )
    if drawn["left_out"]:
        lines.append(
            f"capped   {drawn['left_out']} of {n['examples']} {unit} left out: a group counts with "
            f"{drawn['cap']} at most (--group-cap)"
        )
    if n.get("identical"):
        lines.append(
            f"warning  {n['identical']} of {n['examples']} pairs have the same text on both sides: left out"
        )
    for split, share in heavy(n).items():
        lines.append(
            f"warning  one group holds {share:.0%} of the {split} split: it carries what is found there"
        )
    if near["close"]:
        one, at = near["close"] == 1, f"layer {near['first']}"
        if near["first"] < near["last"]:
            at = f"layers {near['first']} to {near['last']}"
        lines.append(
            f"choice   {near['close']} of the other {near['cells']} cells {'is' if one else 'are'} not "
            f"shown to be worse than the chosen one ({at})"
        )
    ends = summary["l2_ends"]
    for end, words in ENDS.items():
        if ends[end]:
            among = ", the chosen one too" if end == summary.get("chosen_l2_end") else ""
            lines.append(f"l2       {ends[end]} of {ends['cells']} cells{among} {words}")
    for tag, values in summary["by_tag"].items():
        # A tag that is the label itself leaves one class a value: nothing to tell apart.
        known = any(Interval.from_json(m[metric]).known for m in values.values())
        if len(values) <= 4 and known:
            words = ", ".join(f"{value} {written(m)}" for value, m in values.items())
            lines.append(f"by {tag}: {words}")
    return [*lines, f"report   {summary['paths']['report']}"]


def _confusion_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the other measures and the confusion matrix of three or more classes."""
    from probekit.reports.formats import shorten, spanned

    if "confusion" not in summary:
        return
    for name in ("macro_f1", "accuracy"):
        yield f"  {name + ':':<24}{spanned(summary['report'][name], digits=3)}"
    names = [shorten(name, 12) for name in summary["classes"]]
    yield "confusion (true class down, predicted across)"
    yield f"  {'':<13}" + "".join(f"{name:>13}" for name in names)
    for name, counts in zip(names, summary["confusion"], strict=True):
        yield f"  {name:<13}" + "".join(f"{count:>13,}" for count in counts)


def _control_lines(found: dict[str, Any], metric: str) -> Iterator[str]:
    """Yield the metric of every control, and how far the probe is above it."""
    from probekit.reports.formats import spanned
    from probekit.results.intervals import Interval
    from probekit.results.measures import measure

    for name, metrics in found["controls"].items():
        if metric in metrics:
            above = Interval.from_json(found["differences"].get(name))
            after = f"   {spanned(above, digits=3, sign=True)}" if above.known else ""
            value = spanned(Interval.from_json(metrics[metric]), digits=3)
            yield f"  {measure('control', name).label:<24}{value:<24}{after}".rstrip()
