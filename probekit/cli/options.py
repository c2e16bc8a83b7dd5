"""Options that several commands share, and the progress bar they draw on stderr."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from logging import getLogger
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_MODEL = "smollm2-135m"


def with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options to a command; its help shows the last one first."""
    for option in options:
        command = option(command)
    return command


def out_option(help_text: str) -> Callable[[Command], Command]:
    """Return the `--out/-o` option."""
    return click.option("-o", "--out", required=True, type=click.Path(), help=help_text)


def force_option(command: Command) -> Command:
    """Add `--force`."""
    return click.option("--force", is_flag=True, help="Replace what is at --out.")(command)


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(
        command
    )


def seed_option(command: Command) -> Command:
    """Add `--seed`."""
    return click.option(
        "--seed", default=0, show_default=True, help="Seed of splits, controls and intervals."
    )(command)


def data_options(command: Command) -> Command:
    """Add the options that say how rows are read."""
    return with_options(
        command,
        click.option(
            "--split", default="train", show_default=True, help="Split of a hf: data set."
        ),
        click.option("--limit", type=click.IntRange(min=1), help="Read only the first N rows."),
        click.option(
            "--tag", "tags", multiple=True, metavar="FIELD", help="Use a top-level field as a tag."
        ),
        click.option("--layout", help="Public column layout; recognised when not given."),
        click.option(
            "--data-kind",
            type=click.Choice(["label", "rating", "pair"]),
            help="Kind of rows; inferred from the fields when not given.",
        ),
    )


def read_data(source: str, options: dict[str, Any]) -> Any:  # noqa: ANN401 - a Dataset
    """Open a data source as the data options say."""
    from probekit.data import open_dataset

    return open_dataset(
        source,
        kind=options["data_kind"],
        layout=options["layout"],
        tags=options["tags"],
        split=options["split"],
        limit=options["limit"],
    )


def model_options(command: Command) -> Command:
    """Add the options that say how a model is loaded."""
    return with_options(
        command,
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch."),
        click.option(
            "--trust-remote-code", is_flag=True, help="Run code that ships with a hub repository."
        ),
        click.option("--revision", help="Revision of a hub model."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N]."),
        click.option(
            "--batch-tokens",
            default=4096,
            show_default=True,
            type=click.IntRange(min=1),
            help="Padded tokens of a batch: the bound on memory.",
        ),
    )


def echo_json(value: object) -> None:
    """Print one JSON object on stdout."""
    from probekit.container import jsonable

    click.echo(json.dumps(jsonable(value), ensure_ascii=False))


def log(line: str) -> None:
    """Print a line of log on stderr."""
    click.echo(line, err=True)


def quiet_libraries(threads: int | None = None) -> None:
    """Keep transformers' own bars and warnings off stderr; set torch's threads when asked."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    getLogger("huggingface_hub").setLevel("ERROR")  # its retries are not the user's business
    if threads is not None:
        torch.set_num_threads(threads)


UNITS = {
    "tokenising": "rows",
    "capturing": "tokens",
    "writing": "file",
    "fitting": "cells",
    "scoring": "rows",
    "steering": "completions",
    "sampling": "completions",
    "reranking": "completions",
    "training": "runs",
}
"""What a step of the work counts."""


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Draw progress with rate and time left on stderr; yield `progress(what, done, total)`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed:>9,.0f} / {task.total:,.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}
        begun: dict[str, int] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, unit=UNITS[what], rate="")
                begun[what] = done
            elapsed = bars.tasks[tasks[what]].elapsed or 0.0
            rate = (done - begun[what]) / elapsed if elapsed > 0.5 else 0.0
            shown = f"{rate:,.0f} {UNITS[what]}/s" if rate else ""
            bars.update(tasks[what], completed=done, total=total, rate=shown)

        yield progress
