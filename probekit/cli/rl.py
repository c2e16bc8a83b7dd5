"""`probekit rl`: optimise a head and see whether behaviour follows its score."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import probekit.cli.options as opt
from probekit.cli.settings import SettingsCommand

if TYPE_CHECKING:
    from probekit.rl.config import RLConfig


@click.command(cls=SettingsCommand, settings="probekit.rl.config:RLConfig")
@click.option(
    "--probe",
    "probes",
    required=True,
    multiple=True,
    type=click.Path(),
    help="Directory that probekit fit wrote; may be repeated to make an ensemble.",
)
@opt.prompts_option("source", "to train on")
@click.option(
    "--held-out", help=f"Prompts to evaluate on, instead of a quarter of --prompts: {opt.SOURCE}."
)
@opt.out_option("Directory to write the run to.")
@opt.BEHAVIOURS
@click.option(
    "--behaviour",
    multiple=True,
    help="Categories that should become more frequent, as NAME[,NAME] or TAG=VALUE:NAME[,NAME].",
)
@click.option(
    "--toward",
    help="Class whose score is to rise, where heads were fitted on labels; without it the second.",
)
@click.option(
    "--ensemble-layers", help="Layers of the fit whose heads join the ensemble, such as 14,20,26."
)
@opt.STORE
@click.option(
    "--report-to",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb", "trackio"]),
    help="Tracker that every measure is sent to as well; TensorBoard's files go to OUT/tensorboard.",
)
@click.option(
    "--tensorboard",
    is_flag=True,
    help="Short for --report-to tensorboard.",
)
@opt.LIMIT
@opt.SAME_MODEL
@opt.RESUME
@opt.FORCE
@opt.JSON
def rl(
    probes: tuple[str, ...],
    source: str,
    out: str,
    config: RLConfig,
    **options: Any,  # noqa: ANN401
) -> None:
    """Train a model with a head as its reward, and see whether behaviour follows the score.

    The head reads the completions on the frozen model; a quarter of the prompts is held out.

    \b
    Example:
      probekit rl --probe sweep --prompts demo:sentiment --out run \\
        --behaviours sentiment --behaviour positive
    """
    from probekit.activations.layers import parse_layers
    from probekit.cli.rl_output import Watch, finish
    from probekit.data.prompts import open_prompts
    from probekit.probes import Probe
    from probekit.reports import write_rl_report
    from probekit.rl.extra import ExtraReward
    from probekit.rl.run import train_run

    opt.refuse_both(options)
    target = opt.claim(out, "rl", options, keeps=True)
    behaviours = opt.read_behaviours(options)
    for spec in config.rewards:  # what may not be run is refused before a model is loaded
        ExtraReward.parse(spec, allow_code=options["allow_code"])
    first = Probe.load(probes[0])
    rows = open_prompts(source, limit=options["limit"])
    held_out = open_prompts(options["held_out"]) if options["held_out"] else None
    loaded = opt.open_model(options, first)
    layers = options["ensemble_layers"]
    n_layers = loaded.model.config.get_text_config().num_hidden_layers
    named = [*options["report_to"], *(["tensorboard"] if options["tensorboard"] else [])]
    watch = Watch(config.steps, target, named)
    train_run(
        loaded,
        probes,
        rows,
        target,
        config,
        behaviours=behaviours,
        behaviour=options["behaviour"],
        held_out=held_out,
        toward=options["toward"],
        store=options["store"],
        allow_code=options["allow_code"],
        resume=options["resume"],
        ensemble_layers=parse_layers(layers, n_layers) if layers else (),
        force=options["force"],
        arguments={"probes": probes, "prompts": source, "out": out, **options, **asdict(config)},
        log=watch,
        finish=lambda folder: write_rl_report(folder, force=True),
    )
    watch.close()
    finish(target, as_json=options["as_json"])
