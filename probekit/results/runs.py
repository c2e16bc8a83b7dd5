"""`open_run`: what a command left in a directory, as frames."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from probekit.container import jsonable
from probekit.errors import ProbeError
from probekit.foreign import Shown
from probekit.parsing import parse_json, read_json
from probekit.results.table import Document

if TYPE_CHECKING:
    import pandas as pd

COMMANDS = {
    "study": ("study.json", "study:StudyRun"),
    "steer": ("steer.json", "steer:SteerRun"),
    "fit": ("sweep.json", "sweep:SweepRun"),
    "evaluate": ("evaluate.json", "evaluate:EvaluateRun"),
    "dynamics": ("dynamics.json", "dynamics:DynamicsRun"),
    "rl": ("run.json", "rl:RLRun"),
    "elicit": ("run.json", "elicit:ElicitRun"),
    "dpo": ("run.json", "dpo:DPORun"),
}
"""Command to the file at the heart of its output, and the module and class that read it."""
HEARTS = {command: heart for command, (heart, _) in COMMANDS.items()}


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """The output of one command; `metrics` and `rows` are read when they are first asked for."""

    directory: Path
    record: dict[str, Any]
    """The JSON object at its heart."""

    DOCUMENT: ClassVar[Document]

    def __init_subclass__(cls) -> None:
        """Have frames made of a file with other content than a command writes end in one line."""
        for name in ("metrics", "rows"):
            if isinstance(own := vars(cls).get(name), cached_property):
                own.func = _guarded(own.func)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read the directory of a run; see `open_run`."""
        directory = Path(directory)
        return cls(directory, cls.DOCUMENT.read(directory))

    @classmethod
    def in_memory(cls, record: Mapping[str, Any], **frames: Any) -> Self:  # noqa: ANN401 - by attribute
        """Return a run that has no directory yet: its record, and what would be read of its files."""
        run = cls(Path(cls.DOCUMENT.command), {**cls.DOCUMENT.header, **jsonable(dict(record))})
        vars(run).update(frames)
        return run

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.directory.resolve().name

    @property
    def command(self) -> str:
        """Command that wrote it."""
        return self.DOCUMENT.command

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The run record beside it: arguments, versions, seed; empty where there is none."""
        path = self.directory / "run.json"
        return read_json(path, ProbeError, self.DOCUMENT.again) if path.is_file() else {}

    @property
    def metrics(self) -> pd.DataFrame:
        """A row a measure: what it is of, `measure`, `value`, `low`, `high` (95 % interval)."""
        raise NotImplementedError

    def metrics_frame(self) -> pd.DataFrame:
        """Return `metrics`, under the name that tables have elsewhere."""
        return self.metrics

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        by = self.provenance.get("probekit_version") or self.provenance.get("version")
        frames = "metrics, rows, record, metrics_frame()"
        return {"directory": self.name, "command": self.command, "probekit": by, "holds": frames}

    @property
    def rows(self) -> pd.DataFrame:
        """A row an example, a completion or a trained vector."""
        raise NotImplementedError


def _guarded(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(read)
    def guarded(run: Run) -> Any:  # noqa: ANN401 - as what is guarded
        try:
            return read(run)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"{type(error).__name__}: {error}"[:200]
            path, again = run.directory / run.DOCUMENT.file, run.DOCUMENT.again
            raise ProbeError(f"{path}: cannot be made into tables ({what}). {again}") from error

    return guarded


def command_of(directory: Path) -> str:
    """Return the command that wrote a directory, by the file at its heart; ProbeError without one."""
    for command, file in HEARTS.items():
        if file != "run.json" and (directory / file).is_file():
            return command
    path = directory / "run.json"
    if not path.is_file():
        files = ", ".join(dict.fromkeys(HEARTS.values()))
        raise ProbeError(
            f"{directory}: holds none of {files}. Expected a directory that probekit "
            f"{', '.join(HEARTS)} wrote."
        )
    try:
        command = parse_json(path.read_bytes())["command"]
    except (ValueError, KeyError, TypeError):
        return "rl"  # its reader says what is wrong with the file
    # Others leave a run record too: without their own file they are partial, and their reader says so.
    return command if isinstance(command, str) and command in HEARTS else "rl"


def open_run(directory: str | Path) -> Run:
    """Open what `elicit`, `fit`, `evaluate`, `steer`, `rl`, `dpo`, `dynamics` or `study` left in `--out`.

    Returns a run of the class that fits: `ElicitRun`, `SweepRun`, `EvaluateRun`, `SteerRun`, `RLRun`,
    `DPORun`, `DynamicsRun` or `StudyRun`, with the frames `metrics` and `rows` and the file's JSON as
    `record`. Raises ProbeError when the directory is not such an output, or is partial, damaged or newer.

    Examples
    --------
    >>> from probekit.results.runs import open_run
    >>> run = open_run("sweep")
    >>> run.command, run.metrics_frame()["measure"].iloc[0]
    ('fit', 'auroc')
    """
    folder = Path(directory)
    module, _, name = COMMANDS[command_of(folder)][1].partition(":")
    reader: type[Run] = getattr(import_module(f"probekit.results.{module}"), name)
    return reader.open(folder)
