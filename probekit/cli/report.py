"""`probekit report`: draw the report of a fit, a steering run, an RL run, an analysis or a study again."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from probekit.cli.options import FORCE, JSON, claim, echo, echo_json

WRITERS = {
    "fit": "probekit.reports.sweep:write_sweep_report",
    "evaluate": "probekit.reports.evaluate:write_evaluate_report",
    "steer": "probekit.reports.steer:write_steer_report",
    "rl": "probekit.reports.rl:write_rl_report",
    "dynamics": "probekit.reports.dynamics:write_dynamics_report",
    "study": "probekit.studies:write_study_report",
}
"""Command that wrote a directory, and the function that draws its report."""


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
    """Draw the self-contained HTML report of a fit, an evaluation, a steering or RL run, or a study.

    \b
    Example:
      probekit report sweep --out sweep.html
      probekit report run --with run-kl --with run-refit --out runs.html
    """
    from probekit.errors import ProbeError
    from probekit.reports.page import is_page
    from probekit.results.runs import command_of

    folder, kind = Path(directory), command_of(Path(directory))
    target = folder / "report.html" if out is None else out
    if compare and kind != "rl":
        raise click.UsageError("--with compares RL runs, which this directory is not.")
    if kind not in WRITERS:
        raise ProbeError(
            f"{folder}: got the output of probekit {kind}, expected that of {', '.join(WRITERS)}. "
            "It has no report."
        )
    path = claim(str(target), "report", {"force": force}, own=is_page)
    module, _, name = WRITERS[kind].partition(":")
    more = {"compare": [Path(other) for other in compare]} if kind == "rl" else {}
    write = getattr(import_module(module), name)
    write(folder, out=path, force=force, **more)
    if as_json:
        echo_json({"path": str(path)})
    else:
        echo(path)
