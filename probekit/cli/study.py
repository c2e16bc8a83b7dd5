"""`probekit study`: an end-to-end study, a chain of the ordinary commands."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from probekit.cli.options import (
    DEFAULT_MODEL,
    echo_json,
    force_option,
    json_option,
    log,
    out_option,
)


@click.command()
@click.argument("name")
@out_option("Directory to write.")
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="Name, hub id or directory."
)
@click.option("--quick", is_flag=True, help="Every stage, small: shows the path, not an effect.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="Answers of each question and side.  [default: 8; 4 with --quick]",
)
@click.option("--device", help="auto, cpu or cuda[:N], for every stage.")
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Padded tokens of a batch.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Stages at once; they share the cores.",
)
@click.option("--seed", default=0, show_default=True, help="Of every stage.")
@force_option
@json_option
def study(name: str, out: str, **options: Any) -> None:  # noqa: ANN401
    """Run a study from data to report; stages whose output is there and valid are skipped.

    \b
    Example:
      probekit study knowledge-awareness --quick --out study
    """
    from probekit.container import disk_errors, refuse_existing
    from probekit.errors import DataError
    from probekit.provenance import run_record
    from probekit.reports import write_study_report
    from probekit.studies import knowledge_awareness as found

    if name != found.NAME:
        raise DataError(f"study {name!r}: unknown. Expected {found.NAME}.")
    folder = Path(out)
    if options["force"]:
        refuse_existing(folder, force=True, marker="study.json")
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists() and not (folder / "study.json").is_file():
        refuse_existing(folder, force=False)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    extra = [
        word
        for key in ("device", "batch_tokens", "threads")
        if options[key] is not None
        for word in (f"--{key.replace('_', '-')}", str(options[key]))
    ]
    about = {
        **run_record("study", {"study": name, "out": out, **options}, seed=options["seed"]),
        "study": name,
        "quick": options["quick"],
        "model": options["model"],
        "samples": options["samples"],
    }
    _check_same(folder, about)
    stages = found.plan(
        folder,
        model=options["model"],
        seed=options["seed"],
        quick=options["quick"],
        samples=options["samples"],
        extra=tuple(extra),
    )
    seconds = _run(folder, stages, about, jobs=options["jobs"])
    path = write_study_report(folder, force=True)
    if options["as_json"]:
        return echo_json(
            {"path": str(path), "seconds": seconds, "stages": [s.name for s in stages]}
        )
    click.echo(path)


def _check_same(folder: Path, about: dict[str, Any]) -> None:
    """Refuse to go on with a study of something else, whose stages would be replaced one by one."""
    import json

    from probekit.errors import OutputError

    path = folder / "study.json"
    if not path.is_file():
        return
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise OutputError(
            f"{path}: can not be read ({error}). Choose another --out, or pass --force to begin again."
        ) from error
    for key in ("model", "seed", "quick", "samples"):
        if known.get(key) != about[key]:
            raise OutputError(
                f"{folder}: is a study with {key} {known.get(key)!r}, now {about[key]!r}. Choose another "
                "--out, or pass --force to replace it."
            )


def _run(folder: Path, stages: list[Any], about: dict[str, Any], *, jobs: int) -> float:
    """Run what is not done yet; return the seconds it took."""
    from probekit.studies.schedule import Schedule
    from probekit.studies.stages import Progress

    progress, started = Progress(folder / "study.json", about, stages), time.perf_counter()
    if jobs > 1:
        Schedule(progress, jobs=jobs, log=log).run()
    else:
        _one_by_one(progress)
    return time.perf_counter() - started


def _one_by_one(progress: Any) -> None:  # noqa: ANN401
    """Run the stages in this process, in their order."""
    from probekit.cli.main import cli

    stages = progress.stages
    for number, stage in enumerate(stages):
        arguments = stage.arguments()
        words = f"[{number + 1}/{len(stages)}] probekit {shlex.join(arguments)}"
        if progress.is_done(stage, arguments):
            log(f"{words}\n  is done")
            continue
        log(words)
        how = progress.how(stage, arguments)
        progress.begin(stage, arguments)
        begun = time.perf_counter()
        try:
            # What the study itself prints is its report's path, or one JSON object.
            with contextlib.redirect_stdout(sys.stderr):
                cli.main(args=[*arguments, how], standalone_mode=False)
        except BaseException:
            progress.end(stage, "failed", time.perf_counter() - begun)
            raise
        progress.end(stage, "done", time.perf_counter() - begun)
