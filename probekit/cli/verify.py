"""`probekit verify`: compare what probekit wrote with its checksums."""

from __future__ import annotations

from pathlib import Path

import click

from probekit.cli.options import JSON, echo, echo_json


@click.command()
@click.argument("path", type=click.Path())
@JSON
def verify(path: str, *, as_json: bool) -> None:
    """Check a store, fit, vector, run, checkpoint or study against the checksums in it.

    Prints a line for each place that is damaged, and exits with 1 if there is any.

    \b
    Example:
      probekit verify acts.h5
      probekit verify run
    """
    from probekit.errors import DataError
    from probekit.verify import verify as check

    found = check(path)
    if as_json:
        unsealed = [str(file) for file in found.unsealed]
        echo_json({"n_files": found.n_files, "problems": found.problems, "unsealed": unsealed})
    for line in found.problems if not as_json else ():
        echo(line)
    if found.problems:
        raise DataError(
            f"{path}: {len(found.problems)} damaged. Make it again, or fetch another copy."
        )
    if as_json:
        return
    if not found.n_files:
        echo(f"{path}: has no checksums (written by an older version), and can be read")
        return
    left = [file.relative_to(path) if Path(path).is_dir() else file for file in found.unsealed]
    more = f"; without a checksum: {', '.join(map(str, left[:5]))}" if left else ""
    more += f" and {len(left) - 5} more" if len(left) > 5 else ""
    echo(f"{path}: whole, {found.n_files} {'file' if found.n_files == 1 else 'files'}{more}")
