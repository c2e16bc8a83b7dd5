"""`open_run`: what a command left in a directory, as frames."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from probekit.errors import ProbeError
from probekit.results.table import Document, read_json

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    "study.json": "probekit.results.study:StudyRun",
    "steer.json": "probekit.results.steer:SteerRun",
    "sweep.json": "probekit.results.sweep:SweepRun",
    "dynamics.json": "probekit.results.dynamics:DynamicsRun",
    "run.json": "probekit.results.rl:RLRun",
}
"""File at the heart of an output, and the class that reads it."""
COMMANDS = {"fit": "sweep.json", "steer": "steer.json", "dynamics": "dynamics.json"}
"""Commands that leave a run record beside their own file; without that file they are partial."""


@dataclass(frozen=True)
class Run:
    """The output of one command; `metrics` and `rows` are read when they are first asked for."""

    directory: Path
    record: dict[str, Any]
    """The JSON object at its heart."""

    DOCUMENT: ClassVar[Document]

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read the directory of a run; see `open_run`."""
        directory = Path(directory)
        return cls(directory, cls.DOCUMENT.read(directory))

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
        return read_json(path, self.DOCUMENT.again) if path.is_file() else {}

    @property
    def metrics(self) -> pd.DataFrame:
        """A row a measure: what it is of, `measure`, `value`, `low`, `high` (95 % interval)."""
        raise NotImplementedError

    @property
    def rows(self) -> pd.DataFrame:
        """A row an example, a completion or a trained vector."""
        raise NotImplementedError


def open_run(directory: str | Path) -> Run:
    """Open what `fit`, `steer`, `rl`, `dynamics` or `study` left in a directory.

    Parameters
    ----------
    directory
        The command's `--out`.

    Returns
    -------
    Run
        Of the class that fits: `SweepRun`, `SteerRun`, `RLRun`, `DynamicsRun` or `StudyRun`, with
        the frames `metrics` and `rows` and the file's JSON as `record`.

    Raises
    ------
    ProbeError
        When the directory is not such an output, or is partial, damaged or newer.
    """
    folder = Path(directory)
    heart = next((name for name in KINDS if (folder / name).is_file()), None)
    if heart is None:
        raise ProbeError(
            f"{folder}: holds none of {', '.join(KINDS)}. Expected a directory that probekit fit, "
            "steer, rl, dynamics or study wrote."
        )
    if heart == "run.json":
        try:
            command = json.loads((folder / heart).read_text(encoding="utf-8"))["command"]
        except (ValueError, KeyError, TypeError):
            command = "rl"  # its reader says what is wrong with the file
        heart = COMMANDS.get(command, heart)
    module, _, name = KINDS[heart].partition(":")
    reader: type[Run] = getattr(import_module(module), name)
    return reader.open(folder)
