"""`probekit study`: an end-to-end study, a chain of the ordinary commands."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

import probekit.cli.options as opt


@click.command()
@click.argument("name")
@opt.out_option("Directory of the study; one that was begun goes on.")
@opt.MODEL
@click.option(
    "--quick", is_flag=True, help="Run every stage small, which shows the path and not an effect."
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="Answers to each question and side, instead of the study's own number.",
)
@click.option("--data", default="", help=f"Rows of a study that takes some: {opt.SOURCE}.")
@click.option(
    "--models",
    default="",
    help="Further models to compare, with commas, where the study compares models.",
)
@click.option(
    "--scale", default="", help="Ends of the ratings' scale, LOW:HIGH, of a study of ratings."
)
@click.option("--device", help="Device that every stage runs on: auto, cpu or cuda[:N].")
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    help="Padded tokens of a forward pass in every stage, which bounds the memory.",
)
@opt.MODELS_FILE
@opt.THREADS
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Stages that run at the same time and share the cores.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Seed that every stage of the study gets."
)
@opt.FORCE
@opt.JSON
def study(name: str, out: str, **options: Any) -> None:  # noqa: ANN401
    """Run a study from data to report; stages whose output is there and valid are skipped.

    \b
    Studies:
      knowledge-awareness  does a model learn to say that it does not know a name?
      ratings              does a model represent the rating that its text would get?

    \b
    Example:
      probekit study knowledge-awareness --quick --out study
      probekit study ratings --data ratings.jsonl --models gemma3-270m --out study
    """
    from probekit.studies.study import run_study

    speed = [
        word
        for key in ("device", "batch_tokens", "threads")
        if options[key] is not None
        for word in (f"--{key.replace('_', '-')}", str(options[key]))
    ]
    done = run_study(
        name,
        out,
        execute=_execute,
        options=tuple(speed),
        arguments={"study": name, "out": out, **options},
        log=opt.log,
        **{
            key: options[key]
            for key in ("model", "seed", "quick", "samples", "data", "scale", "jobs", "force")
        },
        models=[name.strip() for name in options["models"].split(",") if name.strip()],
    )
    if options["as_json"]:
        opt.echo_json({"path": str(done.path), "seconds": done.seconds, "stages": done.stages})
    else:
        opt.echo(done.path)


def _execute(arguments: list[str]) -> None:
    """Run one command in this process; stdout is left to what the study itself prints."""
    from probekit.cli.main import cli

    with contextlib.redirect_stdout(sys.stderr):
        cli.main(args=arguments, standalone_mode=False)
