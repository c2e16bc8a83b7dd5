"""`probekit report`: draw the report of a fit, a steering run, an RL run, an analysis or a study again."""

from __future__ import annotations

from pathlib import Path

import click

from probekit.cli.options import FORCE, JSON, echo_json


@click.command()
@click.argument("directory", type=click.Path())
@click.option(
    "--with",
    "compare",
    multiple=True,
    type=click.Path(),
    help="Another RL run to draw together with this one; may be repeated.",
)
@click.option(
    "-o", "--out", type=click.Path(), help="File to write, instead of DIRECTORY/report.html."
)
@FORCE
@JSON
def report(
    directory: str, compare: tuple[str, ...], out: str | None, *, force: bool, as_json: bool
) -> None:
    """Draw the self-contained HTML report of a fit, a steering run, an RL run, an analysis or a study.

    \b
    Example:
      probekit report sweep --out sweep.html
      probekit report run --with run-kl --with run-refit --out runs.html
    """
    from probekit.reports import (
        write_dynamics_report,
        write_rl_report,
        write_steer_report,
        write_sweep_report,
    )
    from probekit.results.runs import command_of

    folder, file = Path(directory), Path(out) if out else None
    kind = command_of(folder)
    if kind == "rl":
        path = write_rl_report(
            folder, out=file, force=force, compare=[Path(other) for other in compare]
        )
    elif compare:
        raise click.UsageError("--with compares RL runs, which this directory is not.")
    elif kind == "study":
        from probekit.studies import write_study_report

        path = write_study_report(folder, out=file, force=force)
    else:
        writers = {
            "steer": write_steer_report,
            "dynamics": write_dynamics_report,
        }
        path = writers.get(kind, write_sweep_report)(folder, out=file, force=force)
    if as_json:
        echo_json({"path": str(path)})
    else:
        click.echo(path)
