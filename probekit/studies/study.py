"""`Study`: stages, a recipe and a page under one name; the registry of studies, and how one is run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from probekit.container import RECORD, discard, disk_errors
from probekit.errors import DataError, OutputError
from probekit.foreign import recorded
from probekit.outputs import PARTIAL, claim
from probekit.parsing import read_json
from probekit.provenance import run_record
from probekit.results.study import DOCUMENT, StudyRun
from probekit.studies.schedule import Schedule, run_in_turn
from probekit.studies.stages import Progress, Setting, Stage

STUDIES = {
    "knowledge-awareness": "probekit.studies.knowledge_awareness",
    "ratings": "probekit.studies.ratings",
}
"""Name of a study to the module that declares it as `STUDY`."""


@dataclass(frozen=True)
class Study:
    """An end-to-end study: a list of stages, a recipe and the page that shows what they left."""

    name: str
    """Name on the command line, and a key of `STUDIES`."""
    stages: Callable[[Setting], None]
    """Adds the stages to a setting, in order; see `Setting.stage`."""
    full: Any
    """How much of everything: a frozen dataclass that `stages` reads as `setting.size`."""
    quick: Any
    """The same for `--quick`: every stage, small."""
    template: str | Path
    """Template of the page, which extends `study.html.j2`: a name, or a file of another package."""
    page: Callable[[StudyRun], Mapping[str, Any]] = lambda run: {}
    """Returns what the template needs beside the study itself: figures, frames, findings."""
    recipe: str = ""
    """Recipe of `probekit elicit`, by name or file, where the data are elicited."""
    data: str = ""
    """Data of the study where none are given; empty for a study that takes none."""

    def plan(
        self,
        out: Path,
        *,
        model: str,
        seed: int = 0,
        quick: bool = False,
        samples: int | None = None,
        data: str = "",
        models: Sequence[str] = (),
        scale: str = "",
        options: tuple[str, ...] = (),
    ) -> list[Stage]:
        """Return the stages in order.

        Parameters
        ----------
        out
            Directory of the study.
        model
            Name, hub id or directory.
        seed
            Seed of every stage.
        quick
            Use the size `quick` in place of `full`.
        samples
            Replaces the size's own `samples`.
        data
            Rows to use instead of the study's own.
        models
            Further models to compare, where the study does.
        scale
            Ends of the ratings' scale, LOW:HIGH, where the study's rows are ratings.
        options
            Options of every command that runs the model, such as `--device cuda`.

        Raises
        ------
        DataError
            When `samples`, `data`, `models` or `scale` is given and the study has no use for it.
        """
        for name, given in (("--data", data), ("--models", ",".join(models)), ("--scale", scale)):
            if given and not self.data:
                raise DataError(
                    f"study {self.name}: got {name} {given}, expected none: it makes its own rows. "
                    "Leave the option out."
                )
        size = self.quick if quick else self.full
        if samples is not None:
            if not hasattr(size, "samples"):
                raise DataError(
                    f"study {self.name}: got --samples {samples}, expected none: it draws no samples. "
                    "Leave the option out."
                )
            size = dataclasses.replace(size, samples=samples)
        rows = data or self.data
        source = rows if rows.startswith(("demo:", "hf:")) else Path(rows)
        setting = Setting(
            out, model, seed, size, self.recipe, options, source, tuple(models), scale
        )
        self.stages(setting)
        return setting.stages


class Done(NamedTuple):
    """What a study left."""

    path: Path
    """Its page."""
    seconds: float
    """Time that this call took; stages that were done before took none of it."""
    stages: list[str]
    """Names of all stages."""


def find_study(name: str) -> Study:
    """Return the study of a name.

    Raises
    ------
    DataError
        When there is none.
    """
    if name not in STUDIES:
        raise DataError(f"study {name!r}: unknown. Expected {', '.join(STUDIES)}.")
    found = import_module(STUDIES[name]).STUDY
    assert isinstance(found, Study)
    return found


def run_study(
    name: str,
    out: str | Path,
    *,
    model: str,
    execute: Callable[[list[str]], None],
    seed: int = 0,
    quick: bool = False,
    samples: int | None = None,
    data: str = "",
    models: Sequence[str] = (),
    scale: str = "",
    options: tuple[str, ...] = (),
    jobs: int = 1,
    force: bool = False,
    arguments: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Done:
    """Run the stages of a study that are not done yet, then write its page.

    Parameters
    ----------
    name
        A key of `STUDIES`.
    out
        Directory of the study; one of the same study goes on.
    model, seed, quick, samples, data, models, scale, options
        See `Study.plan`.
    execute
        Runs one command line of probekit in this process; used where `jobs` is 1.
    jobs
        Stages at a time, each in a process of its own.
    force
        Delete an earlier study at `out` and begin again.
    arguments
        Arguments of the command, for the run record.
    log
        Called with a line when a stage begins and when it ends.

    Raises
    ------
    DataError
        When the study is unknown.
    OutputError
        When `out` holds something else, or a study with other settings.
    ProbekitError
        When a stage failed.
    """
    study = find_study(name)
    with claim(
        out, DOCUMENT.command, force=force, resume=not force, marker=DOCUMENT.file, keeps=True
    ) as path:
        stages = study.plan(
            path, model=model, seed=seed, quick=quick, samples=samples, data=data, models=models, scale=scale,
            options=options,
        )  # fmt: skip
        if path.exists() and not force and not (path / DOCUMENT.file).is_file():
            raise OutputError(f"{path}: already exists and is no study. Choose another --out.")
        with disk_errors(path):
            path.mkdir(exist_ok=True)
        if force:
            _clear(path)
        identity = {"study": name, "model": model, "seed": seed, "quick": quick, "samples": samples}
        if study.data:
            identity |= {
                "data": recorded(data or study.data),
                "models": list(models),
                "scale": scale,
            }
        _check_same(path, identity)
        record = run_record(DOCUMENT.command, dict(arguments or {}), seed=seed)
        progress = Progress(path / DOCUMENT.file, {**record, **identity}, stages)
        started = time.time()
        if jobs > 1:
            Schedule(progress, jobs=jobs, log=log).run()
        else:
            run_in_turn(progress, execute=execute, log=log)
        seconds = time.time() - started
        return Done(write_study_report(path, force=True), seconds, [stage.name for stage in stages])


def _clear(folder: Path) -> None:
    """Take away what an earlier study left in its directory, its record last."""
    record = folder / DOCUMENT.file
    if not record.is_file():
        return
    try:
        stages = read_json(record, OutputError, "").get("stages", [])
        names = [str(item["output"]) for item in stages]
    except (OutputError, KeyError, TypeError):  # damaged, which is why it is to begin anew
        names = []
    for name in ("logs", "report.html", *names):
        place = (folder / name).resolve()
        if not place.is_relative_to(folder.resolve()) or place == folder.resolve():
            continue
        for path in (place, *(place.with_name(place.name + end) for end in (PARTIAL, RECORD))):
            discard(path)
    with disk_errors(folder):
        record.unlink()


def write_study_report(
    directory: str | Path, *, out: Path | None = None, force: bool = False
) -> Path:
    """Write the page of a study as one HTML file and return its path.

    Parameters
    ----------
    directory
        What `probekit study NAME --out` wrote: `study.json` and the outputs of its stages, as far as it
        got.
    out
        Where to write; `report.html` in `directory` by default.
    force
        Replace the file when it exists.

    Raises
    ------
    ProbeError
        When `directory` is not that of a study, or a stage in it is damaged.
    DataError
        When it is of a study that this probekit does not have.
    OutputError
        When `out` exists and `force` is not set, or cannot be written.
    """
    # Imported late: figures take a second to load, and `elicit` draws none.
    from probekit.reports.study import write_study_page

    run = StudyRun.open(Path(directory))
    study = find_study(run.study)
    return write_study_page(run, study.template, study.page(run), out=out, force=force)


def _check_same(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with a study of something else, whose stages would be replaced one by one."""
    path = folder / DOCUMENT.file
    if not path.is_file():
        return
    known = read_json(path, OutputError, "Choose another --out, or pass --force to begin again.")
    for key, value in identity.items():
        if known.get(key) != value:
            raise OutputError(
                f"{folder}: is a study with {key} {known.get(key)!r}, now {value!r}. Choose another "
                "--out, or pass --force to replace it."
            )
