"""The page of any study: what its template says, its stages, and links to their own pages."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from probekit.foreign import recorded
from probekit.reports.page import page_path, write_page
from probekit.results.study import StudyRun


def write_study_page(
    run: StudyRun,
    template: str | Path,
    context: Mapping[str, Any],
    *,
    out: Path | None = None,
    force: bool = False,
) -> Path:
    """Write the page of a study as one HTML file and return its path.

    Parameters
    ----------
    run
        The study, as far as it got.
    template
        Template that extends `study.html.j2`: a name, or a file of another package.
    context
        What the template needs beside `run` and `stages`.
    out
        Where to write; `report.html` in the study's directory by default.
    force
        Replace the file when it exists.

    Raises
    ------
    OutputError
        When `out` exists and `force` is not set, or cannot be written.
    """
    stages = _stages(run, page_path(run.directory, out).parent)
    values = {"run": run, "stages": stages, **context}
    return write_page(template, values, run.directory, out, force=force)


def _stages(run: StudyRun, base: Path) -> list[dict[str, Any]]:
    """Return the stages with their commands, and links relative to the folder `base` to their pages."""
    rows = []
    for stage in run.record["stages"]:
        page = run.directory / stage["output"] / "report.html"
        place = relpath(page.resolve(), base.resolve())
        link = quote(Path(place).as_posix()) if page.is_file() else ""
        command = shlex.join(("probekit", *recorded(stage["argv"])))
        rows.append({**stage, "command": command, "link": link})
    return rows
