"""An unfinished capture on disk: flat row files that a killed run picks up where it stopped.

HDF5 is not crash-safe, so nothing is written to an HDF5 file while the model runs. Each cell has
one flat file in which every row has its final place, and one of the rows' checksums; rows that were
not yet committed are simply written again. `progress.json` is replaced whole after the files are
flushed and says how many batches are safe. Batches are planned from the data alone, so the result
does not depend on where a run was killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.activations.table import Cell
from probekit.container import disk_errors, write_json
from probekit.errors import StoreError
from probekit.parsing import read_json
from probekit.partial import PartialFolder

AGAIN = "Pass --force to start the capture again."
_SUFFIX = {"float16": ".f16", "float32": ".f32"}


class WorkDir(PartialFolder):
    """The folder `OUT.partial` of a capture in progress."""

    WORK = "capture"
    ERROR = StoreError

    @property
    def batches_done(self) -> int:
        """How many batches are committed."""
        path = self.path / "progress.json"
        if not path.is_file():
            return 0
        done = read_json(path, StoreError, AGAIN).get("batches_done")
        if type(done) is not int or done < 0:
            raise StoreError(f"{path}: batches_done is {done!r}, expected a count. {AGAIN}")
        return done

    def check(
        self,
        cells: Sequence[Cell],
        rows: NDArray[np.int64],
        ragged: NDArray[np.int64],
        d_model: int,
    ) -> None:
        """Compare what is committed with the sums of its rows, before work goes on from it.

        Parameters
        ----------
        cells
            All of the capture.
        rows
            Examples whose batches are committed, shape (n,), rising.
        ragged
            Offsets of each example's rows where the position is `all`, shape (n_examples + 1,).
        d_model
            Width of a row.

        Raises
        ------
        StoreError
            Naming the file that is cut short or damaged.
        """
        lengths = np.diff(ragged)[rows]
        tokens = np.repeat(ragged[rows] - np.cumsum(lengths) + lengths, lengths) + np.arange(
            lengths.sum()
        )
        for cell in cells if len(rows) else ():
            wanted = tokens if cell.position == "all" else rows
            if not len(wanted):
                continue
            kind = np.dtype(self.dtype(cell))
            width, last = d_model * kind.itemsize, int(wanted[-1])
            path, known = self._file(cell), self._sums(cell)
            if not path.is_file() or path.stat().st_size < (last + 1) * width:
                raise StoreError(f"{path}: is cut short, row {last} was written. {AGAIN}")
            if known is None:
                continue
            if len(known) <= last:
                raise StoreError(
                    f"{self._sum_file(cell)}: is cut short, row {last} was written. {AGAIN}"
                )
            for start, block in self.blocks(cell, last + 1, d_model, checked=False):
                part = wanted[(wanted >= start) & (wanted < start + len(block))]
                wrong = row_sums(block[part - start]) != known[part]
                if wrong.any():
                    row = int(part[np.argmax(wrong)])
                    raise StoreError(f"{path}: row {row} does not fit its checksum. {AGAIN}")

    def commit(self, batches_done: int, cells: Sequence[Cell]) -> None:
        """Flush every cell's rows to disk, then record that `batches_done` batches are safe."""
        with disk_errors(self.path):
            for cell in cells:
                for path in filter(Path.exists, (self._file(cell), self._sum_file(cell))):
                    with path.open("rb") as handle:
                        os.fsync(handle.fileno())
            write_json(self.path / "progress.json", {"batches_done": batches_done})

    def create(self, cells: Sequence[Cell], dtype: str, *, new: bool = True) -> None:
        """Make an empty file for every cell that has none; the sums of its rows in a `new` capture."""
        with disk_errors(self.path):
            for cell in cells:
                if not self._file(cell).exists():
                    self._named(cell, dtype).touch()
                if new:
                    self._sum_file(cell).touch()

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
                    self._promote(cell, values.shape[1])
                if self.dtype(cell) == "float16":
                    return self._write_rows(cell, rows, rounded)
                values = np.where(over[:, None], values, rounded.astype(np.float32))
            self._write_rows(cell, rows, values)

    def dtype(self, cell: Cell) -> str:
        """Return the dtype of the cell's file."""
        return "float16" if self._named(cell, "float16").exists() else "float32"

    def blocks(
        self, cell: Cell, n_rows: int, d_model: int, *, megabytes: int = 16, checked: bool = True
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield first row and values (n, d_model) over the cell's file in blocks of bounded size.

        Raises
        ------
        StoreError
            When the file is cut short or, where it is `checked`, a row is not what was written.
        """
        kind = np.dtype(self.dtype(cell))
        known = self._sums(cell) if checked else None
        step = max(1, megabytes * 2**20 // (d_model * kind.itemsize))
        with self._file(cell).open("rb") as handle:
            for start in range(0, n_rows, step):
                n = min(step, n_rows - start)
                block = np.fromfile(handle, dtype=kind, count=n * d_model)
                if len(block) < n * d_model:
                    raise StoreError(f"{self._file(cell)}: is cut short. {AGAIN}")
                block = block.reshape(n, d_model)
                if known is not None and not np.array_equal(
                    row_sums(block), known[start : start + n]
                ):
                    raise StoreError(f"{self._file(cell)}: does not fit its checksums. {AGAIN}")
                yield start, block

    def _write_rows(self, cell: Cell, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        values = np.ascontiguousarray(values)
        if self._sum_file(cell).exists():
            _put(self._sum_file(cell), rows, row_sums(values)[:, None])
        _put(self._file(cell), rows, values)

    def _sums(self, cell: Cell) -> NDArray[np.uint32] | None:
        """Return the sums of the cell's rows, shape (n,); None in a capture of an older version."""
        path = self._sum_file(cell)
        return np.fromfile(path, dtype=np.uint32) if path.exists() else None

    def _promote(self, cell: Cell, d_model: int) -> None:
        """Rewrite a float16 file as float32; the old file stays until the new one is whole."""
        old = self._named(cell, "float16")
        if not old.exists():
            return
        new, known, sums = self._named(cell, "float32"), self._sums(cell), []
        temporary, at = new.with_suffix(".tmp"), 0
        with old.open("rb") as source, temporary.open("wb") as target:
            while len(block := np.fromfile(source, dtype=np.float16, count=4096 * d_model)):
                wide = block.astype(np.float32)
                wide.tofile(target)
                if known is not None:
                    then, now = (row_sums(_rows(values, d_model)) for values in (block, wide))
                    # A row that did not fit its sum does not fit the new one either.
                    listed = known[at : at + len(then)]
                    listed = np.pad(listed, (0, len(then) - len(listed)))
                    sums.append(now + (listed - then))
                    at += len(then)
            target.flush()
            os.fsync(target.fileno())
        if known is not None:
            np.concatenate([*sums, known[:0]]).tofile(f"{new}.sum")
        temporary.replace(new)
        old.unlink()
        Path(f"{old}.sum").unlink(missing_ok=True)

    def _sum_file(self, cell: Cell) -> Path:
        return Path(f"{self._file(cell)}.sum")

    def _file(self, cell: Cell) -> Path:
        return self._named(cell, self.dtype(cell))

    def _named(self, cell: Cell, dtype: str) -> Path:
        name = f"{cell.site}-{cell.layer:03d}-{cell.position.replace(':', '_')}"
        return self.path / (name + _SUFFIX[dtype])


def row_sums(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Return a checksum of each row, shape (n,), of values (n, d_model); of zeros it is 0.

    The row's words times odd numbers, added modulo 2^32: one flipped bit always changes it.
    """
    words = np.ascontiguousarray(values).view(f"u{values.itemsize}")
    odd = (np.arange(words.shape[1], dtype=np.uint32) * 2 + 1) * np.uint32(0x9E3779B1)
    return np.asarray(np.einsum("ij,j->i", words, odd, dtype=np.uint32, casting="unsafe"))


def _rows(values: NDArray[Any], d_model: int) -> NDArray[Any]:
    """Return a flat run of values as rows (n, d_model), the last one filled up with zeros."""
    missing = -len(values) % d_model
    return np.append(values, np.zeros(missing, values.dtype)).reshape(-1, d_model)


def _put(path: Path, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
    """Write values (n, width) at `rows` of a file, one write for each run of consecutive rows."""
    width = values.shape[1] * values.itemsize
    handle = os.open(path, os.O_WRONLY)
    try:
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        for part in np.split(np.arange(len(rows)), cuts):
            data = values[part[0] : part[-1] + 1].tobytes()
            at = int(rows[part[0]]) * width
            while data:
                n = os.pwrite(handle, data, at)
                data, at = data[n:], at + n
    finally:
        os.close(handle)
