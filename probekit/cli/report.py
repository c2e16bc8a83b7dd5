"""`probekit report`: draw the report of a fit or a steering run again."""

from __future__ import annotations

from pathlib import Path

import click

from probekit.cli.options import echo_json, force_option, json_option


@click.command()
@click.argument("directory", type=click.Path())
@click.option("-o", "--out", type=click.Path(), help="File.  [default: DIRECTORY/report.html]")
@force_option
@json_option
def report(directory: str, out: str | None, *, force: bool, as_json: bool) -> None:
    """Draw the self-contained HTML report of a fit, or of a steering run, from its rows.

    \b
    Example:
      probekit report sweep --out sweep.html
    """
    from probekit.errors import ProbeError
    from probekit.reports import write_steer_report, write_sweep_report

    if not any((Path(directory) / name).is_file() for name in ("steer.json", "sweep.json")):
        raise ProbeError(
            f"{directory}: holds neither sweep.json nor steer.json. Expected a directory that "
            "probekit fit or probekit steer wrote."
        )
    steered = (Path(directory) / "steer.json").is_file()
    write = write_steer_report if steered else write_sweep_report
    path = write(Path(directory), out=Path(out) if out else None, force=force)
    if as_json:
        echo_json({"path": str(path)})
    else:
        click.echo(path)
