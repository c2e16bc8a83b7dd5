"""`probekit dynamics`: why a projection head trains where a direct vector may not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import probekit.cli.options as opt
from probekit.cli.settings import SettingsCommand

if TYPE_CHECKING:
    from probekit.analyses.config import DynamicsConfig


@click.command(cls=SettingsCommand, settings="probekit.analyses.config:DynamicsConfig")
@opt.PROBE
@opt.out_option("Directory to write the analysis to.")
@opt.STORE
@opt.THREADS
@opt.FORCE
@opt.JSON
def dynamics(
    probe: str,
    out: str,
    store: str | None,
    config: DynamicsConfig,
    **options: Any,  # noqa: ANN401
) -> None:
    """Train a Bradley-Terry head as matrix, vector and rescaled vector over learning rates.

    The head is the chosen one of a fit to pairs; the report split is not read.

    \b
    Example:
      probekit dynamics --probe sweep --out dynamics
    """
    import torch

    from probekit.analyses import Pairs, head_dynamics
    from probekit.container import atomic_directory, write_json
    from probekit.provenance import run_record
    from probekit.reports.dynamics import dynamics_words, write_dynamics_report
    from probekit.results.dynamics import RUNS, DynamicsRun

    target = opt.claim(out, "dynamics", options)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    pairs = Pairs.open(probe, store)
    with opt.progress_bar() as progress:
        found = head_dynamics(
            pairs.fit, pairs.choose, config,
            l2=pairs.head.l2, standardize=pairs.standardize, progress=progress,
        )  # fmt: skip
    arguments = {"probe": probe, "out": out, "store": store, **options, **asdict(config)}
    record = run_record("dynamics", arguments, seed=config.seed)
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
        return opt.echo_json({**head, **found.summary(), "conclusion": conclusion, "paths": paths})
    opt.echo(words["headline"])
    for point in words["points"]:
        opt.echo(f"  {point}")
    opt.echo(f"report   {paths['report']}")
