"""Options that several commands share, and the progress bar they draw on stderr."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from probekit.foreign import escaped, shown

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

DEFAULT_MODEL = "smollm2-135m"
SOURCE = "jsonl, json, csv, tsv, parquet, hf:NAME or demo:NAME"


def with_options(*options: Decorator[Any]) -> Decorator[Any]:
    """Return several options as one decorator; help shows them in this order."""

    def add(command: Any) -> Any:  # noqa: ANN401 - a click command
        for option in reversed(options):
            command = option(command)
        return command

    return add


def out_option(help_text: str = "Directory to write the results to.") -> Decorator[Any]:
    """Return the `--out/-o` option."""
    return click.option("-o", "--out", required=True, type=click.Path(), help=help_text)


def prompts_option(
    name: str = "prompts", purpose: str = "that the model answers", *, required: bool = True
) -> Decorator[Any]:
    """Return the `--prompts` option."""
    return click.option("--prompts", name, required=required, help=f"Prompts {purpose}: {SOURCE}.")


def batch_tokens_option(*, hidden: bool = False) -> Decorator[Any]:
    """Return the `--batch-tokens` option of commands without a setting of that name."""
    return click.option(
        "--batch-tokens",
        default=4096,
        show_default=True,
        type=click.IntRange(min=1),
        hidden=hidden,
        help="Padded tokens of a forward pass, which bounds the memory.",
    )


PROBE = click.option(
    "--probe", required=True, type=click.Path(), help="Directory that probekit fit wrote."
)
STORE = click.option(
    "--store",
    type=click.Path(),
    help="Activation store of the fit, where it is no longer at the path that the fit recorded.",
)
DATA = click.option("--data", required=True, help=f"Rows to read: {SOURCE}.")
LIMIT = click.option("--limit", type=click.IntRange(min=1), help="Use only the first N prompts.")
ALLOW_CODE = click.option(
    "--allow-code",
    is_flag=True,
    help="Import and run the module:function that a behaviours file, recipe or reward names.",
)
BEHAVIOURS = with_options(
    click.option(
        "--behaviours",
        help="Behaviours file, or the name of a shipped one, that sorts completions into categories.",
    ),
    ALLOW_CODE,
)
"""What completions do."""
FORCE = click.option("--force", is_flag=True, help="Replace what is already at --out.")
RESUME = click.option(
    "--resume", is_flag=True, help="Continue an interrupted run with the same settings."
)
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout."
)
THREADS = click.option(
    "--threads", type=click.IntRange(min=1), help="Number of CPU threads that torch uses."
)
DTYPE = click.option(
    "--dtype",
    default="auto",
    show_default=True,
    help="Type of the model's numbers: auto, float32, bfloat16 or float16.",
)
MODEL = click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Model to run: built-in name, hub id, folder or .gguf file.",
)
FIELDS = (
    ("text", "the text, where there is no prompt"),
    ("label", "the class"),
    ("prompt", "what is answered"),
    ("completion", "the answer"),
    ("score", "the rating"),
    ("chosen", "the better answer"),
    ("rejected", "the worse answer"),
    ("group", "what must not be in two splits"),
)
COLUMNS = with_options(
    *(
        click.option(f"--{field}-field", metavar="COLUMN", help=f"Column that holds {what}.")
        for field, what in FIELDS
    )
)
"""Which columns hold the fields of a row."""
ROWS = with_options(
    click.option(
        "--data-kind",
        type=click.Choice(["label", "rating", "pair"]),
        help="Kind of the rows, which is inferred from their fields when not given.",
    ),
    click.option(
        "--layout", help="Public column layout of the file, which is recognised when not given."
    ),
    click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="FIELD",
        help="Use a top-level field of the rows as a tag; may be repeated.",
    ),
    click.option("--limit", type=click.IntRange(min=1), help="Read only the first N rows."),
    click.option(
        "--split", default="train", show_default=True, help="Split of a data set given as hf:NAME."
    ),
)
"""Which rows are read, and as what."""
READING = with_options(
    COLUMNS,
    click.option(
        "--positive",
        metavar="CLASS",
        help="Class that is told from the others, or from the rest, of three or more.",
    ),
    ROWS,
)
"""How rows are read."""


def _use_models(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from probekit.models.registry import FILE

    before = {key: text for key, text in os.environ.items() if key == FILE}
    os.environ[FILE] = str(Path(value).absolute())  # the processes of a study have it too
    context.call_on_close(lambda: (os.environ.pop(FILE), os.environ.update(before)))


MODELS_FILE = click.option(
    "--models-file",
    type=click.Path(),
    expose_value=False,
    callback=_use_models,
    help="TOML file that names further models in wheels, as benchmarks/models.toml does.",
)
LOADING = with_options(
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Device to run on: auto, cpu or cuda[:N].",
    ),
    click.option("--revision", help="Revision of a model from the hub, a branch or a commit."),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        help="Run the code that ships with a model from the hub.",
    ),
    click.option(
        "--template-date",
        metavar="YYYY-MM-DD",
        help="Day for a chat template that prints the date: today's, or the one that a probe recorded.",
    ),
    MODELS_FILE,
    THREADS,
)
"""How a model is loaded."""
ADAPTER = click.option("--adapter", help="LoRA adapter, or a run of dpo or rl, put into the model.")
HEAD = with_options(
    click.option("--kind", help="Read with the probe of this kind of the same fit, as mlp."),
    click.option("--layer", type=int, help="Read with the probe of this layer of the same fit."),
    click.option(
        "--position", help="Read with the probe of this position of the same fit, or rule, as max."
    ),
)
"""Which probe of a fit."""
SAME_MODEL = with_options(
    click.option("--model", help="Model to run, instead of the one that the probe was fitted on."),
    click.option(
        "--dtype", help="Type of the model's numbers, instead of the one that the fit recorded."
    ),
    LOADING,
)
"""How the model of a probe is loaded."""


def read_behaviours(options: dict[str, Any]) -> Any:  # noqa: ANN401 - Behaviours or None
    """Return the behaviours that the options of `BEHAVIOURS` name."""
    from probekit.behaviours import Behaviours

    source = options["behaviours"]
    return Behaviours.load(source, allow_code=options["allow_code"]) if source else None


def claim(
    out: str,
    command: str,
    options: dict[str, Any],
    *,
    marker: str | None = None,
    **more: Any,  # noqa: ANN401 - further arguments of `probekit.outputs.claim`
) -> Path:
    """Take an output until the command ends; see `probekit.outputs.claim`.

    Whatever else the command was given may be an input, which is never replaced.
    """
    from probekit.outputs import claim as take
    from probekit.results.runs import HEARTS

    context = click.get_current_context()
    given = [value for name, value in context.params.items() if name != "out"]
    inputs = [part for value in given for part in (value if isinstance(value, tuple) else [value])]
    more |= {name: options[name] for name in ("force", "resume") if name in options}
    marker = marker or HEARTS.get(command)
    return context.with_resource(take(out, command, marker=marker, inputs=inputs, **more))


def refuse_both(options: dict[str, Any]) -> None:
    """Refuse `--force` together with `--resume`."""
    if options["force"] and options["resume"]:
        raise click.UsageError("--force starts again and --resume continues: give one of them.")


def read_data(source: str, options: dict[str, Any], *, several: bool = False) -> Any:  # noqa: ANN401 - a Dataset
    """Open a data source as the options of `READING` say."""
    from probekit.data import open_dataset

    return open_dataset(
        source,
        kind=options["data_kind"],
        layout=options["layout"],
        tags=options["tags"],
        split=options["split"],
        limit=options["limit"],
        positive=options.get("positive"),
        several=several,
        **columns(options),
    )


def read_texts(source: str, options: dict[str, Any]) -> Any:  # noqa: ANN401 - Texts
    """Open texts that need no labels, as the options of `ROWS` and `COLUMNS` say."""
    from probekit.data.texts import open_unlabelled

    read: dict[str, Any] = {k: options[k] for k in ("layout", "tags", "split", "limit")}
    return open_unlabelled(source, **{**read, **columns(options)})


def log_rows(dataset: Any) -> None:  # noqa: ANN401 - a Dataset or Texts
    """Say on stderr how rows were understood, when all went well: an error is one line."""
    log(f"rows     {dataset.understood}")


def columns(options: dict[str, Any]) -> dict[str, str | None]:
    """Return what the options of `COLUMNS` name, as arguments of `open_dataset`."""
    return {f"{field}_field": options.get(f"{field}_field") for field, _ in FIELDS}


def open_model(options: dict[str, Any], probe: Any = None, adapter: str | None = None) -> Any:  # noqa: ANN401
    """Load the model that the options of `LOADING` name, else the one that a probe was fitted on."""
    from probekit.models.load import load_model

    fitted = {} if probe is None else probe.provenance
    quiet_libraries(options["threads"])
    return load_model(
        options["model"] or str(fitted.get("model")),
        dtype=options["dtype"] or str(fitted.get("forward_dtype", "auto")),
        device=options["device"],
        revision=options["revision"] or fitted.get("revision"),
        trust_remote_code=options["trust_remote_code"],
        template_date=options["template_date"] or fitted.get("template_date"),
        adapter=adapter,
        log=log,
    )


def echo(text: object, *, nl: bool = True, err: bool = False) -> None:
    """Print text without what moves a terminal's cursor or colours it: parts of it are others'."""
    click.echo(shown(str(text)), nl=nl, err=err)


def echo_json(value: object) -> None:
    """Print one JSON object on stdout."""
    import json

    from probekit.container import jsonable

    click.echo(escaped(json.dumps(jsonable(value), ensure_ascii=False)))


def positive_line(name: str | None, rows: dict[str, int] | None = None) -> list[str]:
    """Return the line that says which class scores higher, and the rows of each; none without classes."""
    if name is None:
        return []
    counts = ", ".join(f"{label} {n}" for label, n in (rows or {}).items())
    return [f"classes  positive class: {name}" + (f" (rows: {counts})" if counts else "")]


def log(line: str) -> None:
    """Print a line of log on stderr."""
    echo(line, err=True)


def quiet_libraries(threads: int | None = None) -> None:
    """Keep transformers' own bars and warnings off stderr; set torch's threads when asked."""
    from logging import getLogger

    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    getLogger("huggingface_hub").setLevel("ERROR")  # its retries are not the user's business
    if threads is not None:
        torch.set_num_threads(threads)


EVERY = 60.0
"""Seconds between two lines of progress where stderr is no terminal."""
UNITS = {
    "tokenising": "rows", "capturing": "tokens", "reading": "tokens", "writing": "file", "fitting": "cells",
    "fitting beside": "cells", "outer folds": "cells", "scoring": "rows",
    "evaluating": "results", "steering": "completions",
    "sampling": "completions", "reranking": "completions", "training": "runs",
}  # fmt: skip
"""What a step of the work counts."""


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Draw progress with rate and time left on stderr, a line a minute where it is no terminal.

    Yields `progress(what, done, total)`.
    """
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

        said = time.monotonic()

        def progress(what: str, done: int, total: int) -> None:
            nonlocal said
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, unit=UNITS[what], rate="")
                begun[what] = done
            elapsed = bars.tasks[tasks[what]].elapsed or 0.0
            rate = (done - begun[what]) / elapsed if elapsed > 0.5 else 0.0
            shown = f"{rate:,.0f} {UNITS[what]}/s" if rate else ""
            bars.update(tasks[what], completed=done, total=total, rate=shown)
            if not console.is_terminal and time.monotonic() - said >= EVERY:
                said = time.monotonic()
                left = f", {(total - done) / rate / 60:.1f} min left" if rate else ""
                log(f"{what} {done:,} / {total:,} {UNITS[what]}{shown and f', {shown}'}{left}")

        yield progress
