"""The conditions of an unfinished steering sweep on disk, one whole file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probekit.container import jsonable, read_jsonl, write_jsonl
from probekit.partial import PartialFolder
from probekit.results.steer import Condition


class Journal(PartialFolder):
    """The folder `OUT.partial` of a sweep: what a killed or interrupted run has finished."""

    WORK = "steering sweep"

    @classmethod
    def beside(cls, out: Path) -> Journal:
        """Return the journal that belongs to the output directory `out`."""
        return cls(cls.path_beside(out))

    def read(self, condition: Condition) -> list[dict[str, Any]] | None:
        """Return the rows of a finished condition, None for one that is still to run."""
        path = self._file(condition)
        return read_jsonl(path) if path.exists() else None

    def write(self, condition: Condition, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a finished condition."""
        write_jsonl(self._file(condition), map(jsonable, rows))

    def set_down(self) -> None:
        """Let go of the folder; it stays only when it holds a finished condition."""
        if any(self.path.glob("*.jsonl")):
            self.close()
        else:
            self.remove()

    def _file(self, condition: Condition) -> Path:
        return self.path / f"{condition.name}.jsonl"
