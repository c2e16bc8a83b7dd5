"""The conditions of an unfinished steering sweep on disk, one whole file each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from probekit.container import atomic_file, jsonable
from probekit.partial import PartialFolder
from probekit.steering.grid import Condition


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
        if not path.exists():
            return None
        # Not splitlines(): it also breaks at U+2028 and the like, which a text may hold.
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]

    def write(self, condition: Condition, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a finished condition."""
        lines = [json.dumps(jsonable(row), ensure_ascii=False) + "\n" for row in rows]
        with atomic_file(self._file(condition)) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def set_down(self) -> None:
        """Let go of the folder; it stays only when it holds a finished condition."""
        if any(self.path.glob("*.jsonl")):
            self.close()
        else:
            self.remove()

    def _file(self, condition: Condition) -> Path:
        return self.path / f"{condition.name}.jsonl"
