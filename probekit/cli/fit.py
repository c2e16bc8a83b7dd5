"""`probekit fit`: an activation store in, probes, sweep rows and a report out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probekit.cli.options import (
    echo_json,
    force_option,
    json_option,
    out_option,
    progress_bar,
    seed_option,
)


@click.command()
@click.argument("store", type=click.Path())
@out_option("Directory to write.")
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    help="logistic, mean-difference, ridge or bradley-terry; several with commas.",
)
@click.option(
    "--head",
    default="linear",
    show_default=True,
    type=click.Choice(["linear", "projection"]),
    help="Of bradley-terry: exact convex solve, or a trained matrix.",
)
@click.option(
    "--layers", default="all", show_default=True, help="all, or layers and slices: 0,4,8:24:2,-1."
)
@click.option("--positions", help="Position rules of the store.  [default: all of them]")
@click.option("--sites", help="Sites of the store.  [default: all but the embedding]")
@click.option(
    "--stratify", metavar="TAG", help="Tag whose values are spread evenly over the splits."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch.")
@seed_option
@force_option
@json_option
def fit(store: str, out: str, **options: Any) -> None:  # noqa: ANN401
    """Fit a head to every layer and position, choose one, and report it held out.

    Groups are split into fit, choose and report; the report split is read once, for the chosen cell.

    \b
    Example:
      probekit fit acts.h5 --out sweep --positions last,mean
    """
    import torch

    from probekit.activations.store import ActivationStore
    from probekit.container import atomic_directory, refuse_existing, write_json
    from probekit.probes import SweepConfig, fit_sweep
    from probekit.probes.scoring import reference_rows
    from probekit.reports import write_sweep_report

    target = Path(out)
    refuse_existing(target, force=options["force"], marker="sweep.json")
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    config = SweepConfig(
        kinds=options["kind"],
        head=options["head"],
        layers=options["layers"],
        positions=options["positions"],
        sites=options["sites"],
        seed=options["seed"],
        stratify=options["stratify"],
    )
    with ActivationStore.open(store) as source, progress_bar() as progress:
        result = fit_sweep(source, config, progress=progress)
        result = result.with_reference(reference_rows(source, result.probe))
    with atomic_directory(target, force=options["force"]) as folder:
        result.save(folder)
        arguments = {"store": store, "out": out, **options}
        write_json(folder / "run.json", {**result.fit, "arguments": arguments})
        write_sweep_report(folder)
    summary = {
        **result.summary(),
        "paths": {
            "directory": str(target),
            "report": str(target / "report.html"),
            "sweep": str(target / "sweep.json"),
            "probes": str(target / "probes.json"),
            "predictions": str(target / "predictions.jsonl"),
        },
    }
    if options["as_json"]:
        return echo_json(summary)
    for line in summary_lines(summary):
        click.echo(line)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return the chosen cell, its held-out metric beside the controls, and the report's path."""
    chosen, metric, n = summary["chosen"], summary["primary"], summary["n"]
    lines = [
        f"chosen   {chosen['kind']} at {chosen['site']} layer {chosen['layer']}, position "
        f"{chosen['position']} (on the choose split)",
        f"held out {n['report']} of {n['examples']}, {n['report_groups']} groups; "
        "95 % bootstrap intervals over groups",
        f"  {metric + ':':<20}{_interval(summary['report'][metric])}",
    ]
    for name, metrics in summary["controls"].items():
        if metric in metrics:
            lines.append(f"  {name.replace('_', ' '):<20}{_interval(metrics[metric])}")
    for tag, values in summary["by_tag"].items():
        # A tag that is the label itself leaves one class a value: nothing to tell apart.
        known = any(m[metric]["value"] == m[metric]["value"] for m in values.values())
        if len(values) <= 4 and known:
            words = ", ".join(f"{v} {_interval(m[metric])}" for v, m in values.items())
            lines.append(f"by {tag}: {words}")
    return [*lines, f"report   {summary['paths']['report']}"]


def _interval(metric: dict[str, float]) -> str:
    value, low, high = (
        float("nan") if metric[key] is None else metric[key] for key in ("value", "low", "high")
    )
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
