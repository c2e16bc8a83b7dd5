"""An unfinished capture on disk: flat row files that a killed run picks up where it stopped.

HDF5 is not crash-safe, so nothing is written to an HDF5 file while the model runs. Each cell has
one flat file in which every row has its final place; rows that were not yet committed are simply
written again. `progress.json` is replaced whole after the files are flushed and says how many
batches are safe. Batches are planned from the data alone, so the result does not depend on where
a run was killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.activations.table import Cell
from probekit.container import disk_errors, write_json
from probekit.errors import StoreError
from probekit.partial import PartialFolder

_SUFFIX = {"float16": ".f16", "float32": ".f32"}


class WorkDir(PartialFolder):
    """The folder `OUT.partial` of a capture in progress."""

    WORK = "capture"
    ERROR = StoreError

    @classmethod
    def beside(cls, out: Path) -> WorkDir:
        """Return the work folder that belongs to the store `out`."""
        return cls(cls.path_beside(out))

    @property
    def batches_done(self) -> int:
        """How many batches are committed."""
        try:
            return int(json.loads((self.path / "progress.json").read_text())["batches_done"])
        except FileNotFoundError:
            return 0

    def commit(self, batches_done: int, cells: Sequence[Cell]) -> None:
        """Flush every cell's rows to disk, then record that `batches_done` batches are safe."""
        with disk_errors(self.path):
            for cell in cells:
                with self._file(cell).open("rb") as handle:
                    os.fsync(handle.fileno())
            write_json(self.path / "progress.json", {"batches_done": batches_done})

    def create(self, cells: Sequence[Cell], dtype: str) -> None:
        """Make an empty file for every cell that has none."""
        with disk_errors(self.path):
            for cell in cells:
                if not self._file(cell).exists():
                    self._named(cell, dtype).touch()

    def write(
        self, cell: Cell, rows: NDArray[np.int64], values: NDArray[np.float32], *, float16: bool
    ) -> None:
        """Write values (n, d_model) at the cell's `rows`.

        With `float16`, a row is rounded to float16 unless one of its values is beyond that dtype's
        range: then the row keeps float32 and the cell's file becomes float32. Which rows are
        rounded depends on the row alone, never on what came before it.
        """
        with disk_errors(self.path):
            if float16:
                with np.errstate(over="ignore"):
                    rounded = values.astype(np.float16)
                over = np.asarray(np.isinf(rounded).any(axis=1))
                if over.any():
                    self._promote(cell)
                if self.dtype(cell) == "float16":
                    return self._write_rows(cell, rows, rounded)
                values = np.where(over[:, None], values, rounded.astype(np.float32))
            self._write_rows(cell, rows, values)

    def dtype(self, cell: Cell) -> str:
        """Return the dtype of the cell's file."""
        return "float16" if self._named(cell, "float16").exists() else "float32"

    def blocks(
        self, cell: Cell, n_rows: int, d_model: int, *, megabytes: int = 16
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield first row and values (n, d_model) over the cell's file in blocks of bounded size."""
        kind = np.dtype(self.dtype(cell))
        step = max(1, megabytes * 2**20 // (d_model * kind.itemsize))
        with self._file(cell).open("rb") as handle:
            for start in range(0, n_rows, step):
                n = min(step, n_rows - start)
                block = np.fromfile(handle, dtype=kind, count=n * d_model)
                yield start, block.reshape(n, d_model)

    def _write_rows(self, cell: Cell, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        width = values.shape[1] * values.itemsize
        values = np.ascontiguousarray(values)
        handle = os.open(self._file(cell), os.O_WRONLY)
        try:
            # One write for each run of consecutive rows.
            cuts = np.flatnonzero(np.diff(rows) != 1) + 1
            for part in np.split(np.arange(len(rows)), cuts):
                data = values[part[0] : part[-1] + 1].tobytes()
                at = int(rows[part[0]]) * width
                while data:
                    n = os.pwrite(handle, data, at)
                    data, at = data[n:], at + n
        finally:
            os.close(handle)

    def _promote(self, cell: Cell) -> None:
        """Rewrite a float16 file as float32; the old file stays until the new one is whole."""
        old = self._named(cell, "float16")
        if not old.exists():
            return
        new = self._named(cell, "float32")
        temporary = new.with_suffix(".tmp")
        with old.open("rb") as source, temporary.open("wb") as target:
            while len(block := np.fromfile(source, dtype=np.float16, count=1 << 22)):
                block.astype(np.float32).tofile(target)
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(new)
        old.unlink()

    def _file(self, cell: Cell) -> Path:
        return self._named(cell, self.dtype(cell))

    def _named(self, cell: Cell, dtype: str) -> Path:
        name = f"{cell.site}-{cell.layer:03d}-{cell.position.replace(':', '_')}"
        return self.path / (name + _SUFFIX[dtype])
