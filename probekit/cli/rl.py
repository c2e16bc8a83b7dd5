"""`probekit rl`: optimise a head and see whether behaviour follows its score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probekit.cli.options import (
    force_option,
    json_option,
    log,
    model_options,
    out_option,
    quiet_libraries,
    seed_option,
    with_options,
)
from probekit.cli.rl_output import Watch, finish


def _reward_options(command: Any) -> Any:  # noqa: ANN401 - a click command
    return with_options(
        command,
        click.option(
            "--ood-penalty",
            default=0.0,
            show_default=True,
            help="For each unit of distance from the head's rows beyond 95 % of them.",
        ),
        click.option(
            "--ensemble-penalty",
            default=0.0,
            show_default=True,
            help="lambda of mean - lambda std.",
        ),
        click.option(
            "--guide-steps", default=20, show_default=True, help="First steps that have guides."
        ),
        click.option(
            "--guides",
            default=0,
            show_default=True,
            help="Completions of a group that are the head's own pairs', both sides alike.",
        ),
        click.option(
            "--refit-rate", default=1.0, show_default=True, help="Share of the refitted head."
        ),
        click.option(
            "--refit-keep", default=640, show_default=True, help="Recent outputs of a refit."
        ),
        click.option(
            "--refit-every", default=0, show_default=True, help="Steps between refits; 0: none."
        ),
        click.option(
            "--reward",
            "rewards",
            multiple=True,
            help="Further reward, NAME=WEIGHT: length, repetition, pattern:REGEX, module:function.",
        ),
        click.option(
            "--clip-margin",
            default=0.0,
            show_default=True,
            help="Of --target clip: chosen mean plus this many sd.",
        ),
        click.option("--target-tag", help="Aim at the chosen scores of each value of this tag."),
        click.option(
            "--target",
            default="chosen",
            show_default=True,
            help="max, clip, gaussian, kde, or chosen (their distribution).",
        ),
    )


def _training_options(command: Any) -> Any:  # noqa: ANN401 - a click command
    return with_options(
        command,
        click.option("--eval-samples", default=1, show_default=True, help="Samples of each."),
        click.option(
            "--eval-prompts",
            default=32,
            show_default=True,
            help="Held-out prompts, equally many of every value of the tag of --balance.",
        ),
        click.option("--eval-every", default=10, show_default=True, help="Steps between them."),
        click.option("--lora-targets", default="all-linear", show_default=True, help="Layers."),
        click.option("--rank", default=16, show_default=True, help="Of the LoRA adapter."),
        click.option("--warmup", default=5, show_default=True, help="Steps of rising rate."),
        click.option(
            "--decay",
            default="constant",
            show_default=True,
            help="Of the rate: constant, linear, cosine.",
        ),
        click.option("--learning-rate", default=2e-4, show_default=True, help="Of AdamW."),
        click.option(
            "--entropy-target",
            default=0.0,
            show_default=True,
            help="Move the entropy bonus, up to tenfold, to hold this share of the start.",
        ),
        click.option("--entropy-bonus", default=0.0, show_default=True, help="Its weight."),
        click.option("--kl-in", default="loss", show_default=True, help="loss (k3), or reward."),
        click.option("--kl-coeff", default=0.02, show_default=True, help="Weight of the KL."),
        click.option("--full-weights", is_flag=True, help="Train all weights, no adapter."),
        click.option("--clip", default=0.2, show_default=True, help="PPO's clip of the ratio."),
        click.option("--epochs", default=1, show_default=True, help="Passes over a step."),
        click.option(
            "--credit",
            default="whole",
            show_default=True,
            help="Tokens share an advantage: whole, or to-go, what a head still reads.",
        ),
        click.option("--estimator", default="grpo", show_default=True, help="grpo, dr-grpo, rloo."),
        click.option("--batch", default=64, show_default=True, help="Sequences decoded together."),
        click.option("--top-p", default=1.0, show_default=True, help="Nucleus to draw from."),
        click.option("--temperature", default=1.0, show_default=True, help="Of sampling."),
        click.option("--max-new-tokens", default=40, show_default=True, help="Of a completion."),
        click.option(
            "--balance",
            help="Tag whose values are drawn equally often, or in shares: TAG=VALUE:3,VALUE:1.",
        ),
        click.option("--group", default=8, show_default=True, help="Completions a prompt."),
        click.option(
            "--prompts-per-step", "prompts", default=8, show_default=True, help="Prompts."
        ),
        click.option(
            "--engine",
            default="embedded",
            show_default=True,
            help="embedded, or trl (GRPOTrainer).",
        ),
        click.option("--steps", default=40, show_default=True, help="Steps of learning."),
    )


@click.command()
@click.option(
    "--probe", "probes", required=True, multiple=True, type=click.Path(),
    help="Directory written by fit; several make an ensemble.",
)  # fmt: skip
@click.option(
    "--prompts", "source", required=True, help="jsonl[.gz], csv, parquet, hf:NAME or demo:NAME."
)
@click.option("--held-out", help="Prompts to evaluate on.  [default: a quarter of --prompts]")
@out_option("Directory to write.")
@_reward_options
@_training_options
@click.option("--behaviours", help="Behaviours file, or the name of a shipped one.")
@click.option(
    "--behaviour",
    multiple=True,
    help="Categories that should become more frequent, NAME[,NAME] or TAG=VALUE:NAME[,NAME].",
)
@click.option("--toward", help="Class to raise, of label heads.  [default: the second]")
@click.option("--ensemble-layers", help="Layers of the fit whose heads join, such as 14,20,26.")
@click.option("--store", type=click.Path(), help="Of the fit.  [default: where the fit found it]")
@click.option("--tensorboard", is_flag=True, help="Write event files to OUT/tensorboard too.")
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N prompts.")
@click.option("--model", help="Model to train.  [default: the one the probe was fitted on]")
@click.option("--dtype", help="Forward pass.  [default: the one of the fit]")
@model_options
@seed_option
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint.")
@force_option
@json_option
def rl(probes: tuple[str, ...], source: str, out: str, **options: Any) -> None:  # noqa: ANN401
    """Train a model with a head as its reward, and see whether behaviour follows the score.

    The head reads the completions on the frozen model; a quarter of the prompts is held out.

    \b
    Example:
      probekit rl --probe sweep --prompts demo:sentiment --out run \\
        --behaviours sentiment --behaviour positive
    """
    from probekit.activations.layers import parse_layers
    from probekit.behaviours import Behaviours
    from probekit.data.prompts import open_prompts
    from probekit.models.load import load_model
    from probekit.probes import Probe
    from probekit.reports import write_rl_report
    from probekit.rl import RLConfig
    from probekit.rl.run import train_run

    if options["force"] and options["resume"]:
        raise click.UsageError("--force starts again and --resume continues: give one of them.")
    names = RLConfig.__dataclass_fields__.keys() & options.keys()
    config = RLConfig(**{name: options[name] for name in names})
    behaviours = Behaviours.load(options["behaviours"]) if options["behaviours"] else None
    first = Probe.load(probes[0])
    rows = open_prompts(source, limit=options["limit"])
    held_out = open_prompts(options["held_out"]) if options["held_out"] else None
    quiet_libraries(options["threads"])
    loaded = load_model(
        options["model"] or str(first.provenance.get("model")),
        dtype=options["dtype"] or str(first.provenance.get("forward_dtype", "auto")),
        device=options["device"],
        revision=options["revision"] or first.provenance.get("revision"),
        trust_remote_code=options["trust_remote_code"],
        log=log,
    )
    layers = options["ensemble_layers"]
    n_layers = loaded.model.config.get_text_config().num_hidden_layers
    watch = Watch(config.steps, Path(out) / "tensorboard" if options["tensorboard"] else None)
    train_run(
        loaded, probes, rows, out, config, behaviours=behaviours,
        behaviour=options["behaviour"], held_out=held_out, toward=options["toward"],
        store=options["store"], resume=options["resume"],
        ensemble_layers=parse_layers(layers, n_layers) if layers else (),
        force=options["force"], arguments={"probes": probes, "prompts": source, "out": out, **options},
        log=watch, finish=lambda folder: write_rl_report(folder, force=True),
    )  # fmt: skip
    finish(Path(out), as_json=options["as_json"])
