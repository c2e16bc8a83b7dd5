"""`probekit dpo`: train a model on preferences and measure held-out pairs before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import probekit.cli.options as opt
from probekit.cli.settings import SettingsCommand

if TYPE_CHECKING:
    from probekit.rl.dpo_config import DPOConfig


@click.command(cls=SettingsCommand, settings="probekit.rl.dpo_config:DPOConfig")
@click.option(
    "--model", required=True, help="Model to train: built-in name, hub id, folder or .gguf file."
)
@click.option("--data", required=True, help=f"Pairs to learn from: {opt.SOURCE}.")
@opt.out_option("Directory to write the adapter and the measures to.")
@opt.COLUMNS
@opt.ROWS
@opt.DTYPE
@opt.LOADING
@opt.RESUME
@opt.FORCE
@opt.JSON
def dpo(data: str, out: str, config: DPOConfig, **options: Any) -> None:  # noqa: ANN401
    """Train a LoRA adapter on pairs with TRL's DPOTrainer (direct preference optimisation).

    A quarter of the groups is held out, and measured before and after: how often and by how much the
    chosen side is preferred, and whether both sides have become less likely.

    \b
    Example:
      probekit dpo --model smollm2-135m --data demo:researchers_pairs --out tuned --epochs 2
      probekit sample --model smollm2-135m --adapter tuned --prompts demo:researchers --out rows.jsonl
    """
    from probekit.rl.dpo import run_dpo
    from probekit.rl.dpo_rows import check_pairs
    from probekit.rl.trl_guard import require_trl

    opt.refuse_both(options)
    require_trl("dpo")  # what cannot run is refused before a model is loaded
    target = opt.claim(out, "dpo", options)
    dataset = opt.read_data(data, options)
    check_pairs(dataset)
    opt.log_rows(dataset)
    loaded = opt.open_model(options)
    run = run_dpo(
        loaded, dataset, target, config,
        resume=options["resume"], force=options["force"], log=_watch,
        arguments={"data": data, "out": out, **options, **asdict(config)},
    )  # fmt: skip
    finish(run, as_json=options["as_json"])


def finish(run: Any, *, as_json: bool) -> None:  # noqa: ANN401 - a DPORun
    """Print what training came to."""
    from probekit.reports.formats import spanned
    from probekit.results.dpo import ADAPTER, DISPLACEMENT, WHEN
    from probekit.results.measures import measure

    paths = {"directory": str(run.directory), "adapter": str(run.directory / ADAPTER)}
    if as_json:
        found = {
            name: {when: value.to_json() for when, value in zip(WHEN, values, strict=True)}
            for name, values in run.measured.items()
        }
        counts = {key: run.record[key] for key in ("n_train", "n_held_out", "steps", "left_out")}
        return opt.echo_json(
            {**counts, "measures": found, "warnings": run.warnings, "paths": paths}
        )
    opt.echo(f"held out {run.record['n_held_out']} pairs, after {run.record['steps']} steps:")
    width = max(len(measure("dpo", name).label) for name in run.measured)
    for name, (before, after, change) in run.measured.items():
        what = measure("dpo", name)
        levels = [spanned(value, what.unit) for value in (before, after)]
        if before.low == before.high:  # known
            levels[0] = levels[0].partition(" [")[0]
        opt.echo(
            f"  {what.label:<{width}}  {' → '.join(levels)}; change {spanned(change, what.unit, sign=True)}"
        )
    if DISPLACEMENT in run.warnings:
        opt.echo(
            "warning: chosen and rejected completions both became less likely (likelihood displacement)"
        )
    opt.echo(f"adapter  {paths['adapter']}")


def _watch(row: Mapping[str, Any]) -> None:
    """Print a line of a step, or a note."""
    from probekit.reports.formats import number, percent

    if "note" in row:
        return opt.log(row["note"])
    parts = [
        f"loss {number(row['loss'], 3)}",
        f"margin {number(row['margin'], 3, sign=True)}",
        f"accuracy {percent(row['accuracy'])}",
        f"log p chosen {number(row['chosen'], 1)}, rejected {number(row['rejected'], 1)}",
    ]
    opt.log(f"step {row['step']}/{row['n_steps']}: {', '.join(parts)}")
