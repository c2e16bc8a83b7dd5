"""`probekit dynamics`: why a projection head trains where a direct vector may not."""

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
)


@click.command()
@click.option("--probe", required=True, type=click.Path(), help="Directory written by fit.")
@out_option("Directory to write.")
@click.option("--store", type=click.Path(), help="The store of the fit, where it was moved.")
@click.option(
    "--steps", default=300, show_default=True, type=click.IntRange(min=1), help="Training steps."
)
@click.option(
    "--learning-rates",
    default="1e-6:1",
    show_default=True,
    help="LOW:HIGH[:PER_DECADE], or a list with commas.",
)
@click.option(
    "--optimizers", default="adamw,sgd", show_default=True, help="adamw, sgd, or both with a comma."
)
@click.option(
    "--batch-pairs",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Pairs of a minibatch.",
)
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(min=3), help="Starts tried."
)
@click.option(
    "--seed", default=0, show_default=True, help="Of the first start and its minibatches."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch.")
@force_option
@json_option
def dynamics(probe: str, out: str, store: str | None, **options: Any) -> None:  # noqa: ANN401
    """Train a Bradley-Terry head as matrix, vector and rescaled vector over learning rates.

    The head is the chosen one of a fit to pairs; the report split is not read.

    \b
    Example:
      probekit dynamics --probe sweep --out dynamics
    """
    import torch

    from probekit.analyses import DynamicsConfig, Pairs, head_dynamics, parse_learning_rates
    from probekit.container import atomic_directory, refuse_existing, write_json
    from probekit.provenance import run_record
    from probekit.reports.dynamics import dynamics_words, write_dynamics_report
    from probekit.results.dynamics import RUNS, DynamicsRun

    target = Path(out)
    refuse_existing(target, force=options["force"], marker=DynamicsRun.DOCUMENT.file)
    names = [part.strip() for part in options["optimizers"].split(",") if part.strip()]
    config = DynamicsConfig(
        learning_rates=parse_learning_rates(options["learning_rates"]),
        optimizers=tuple(dict.fromkeys(names)),
        steps=options["steps"],
        batch_pairs=options["batch_pairs"],
        n_seeds=options["seeds"],
        seed=options["seed"],
    )
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    pairs = Pairs.open(probe, store)
    with progress_bar() as progress:
        found = head_dynamics(
            pairs.fit, pairs.choose, config,
            l2=pairs.head.l2, standardize=pairs.standardize, progress=progress,
        )  # fmt: skip
    record = run_record(
        "dynamics", {"probe": probe, "out": out, "store": store, **options}, seed=options["seed"]
    )
    head = {**pairs.head.cell._asdict(), "head": pairs.head.head, "l2": pairs.head.l2}
    with atomic_directory(target, force=options["force"]) as folder:
        provenance = {"store": pairs.head.provenance, "run": record}
        write_json(folder / DynamicsRun.DOCUMENT.file, found.to_json(**head, provenance=provenance))
        (folder / RUNS.file).write_text(RUNS.lines(found.runs), encoding="utf-8")
        write_json(folder / "run.json", record)
        write_dynamics_report(folder)
    paths = {"directory": str(target), "report": str(target / "report.html")}
    words = dynamics_words(DynamicsRun.open(target))
    if options["as_json"]:
        conclusion = {**found.conclusion, **words}
        return echo_json({**head, **found.summary(), "conclusion": conclusion, "paths": paths})
    click.echo(words["headline"])
    for point in words["points"]:
        click.echo(f"  {point}")
    click.echo(f"report   {paths['report']}")
