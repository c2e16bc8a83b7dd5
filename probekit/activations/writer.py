"""Write the two halves of a store: the examples table first, the activations when all are there."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probekit.activations.checksums import (
    Checksums,
    Digest,
    digests_below,
    hdf5_errors,
    write_checksums,
)
from probekit.activations.schema import FORMAT, FORMAT_VERSION, RAGGED
from probekit.activations.table import Cell
from probekit.activations.workdir import AGAIN, WorkDir
from probekit.data.rows import Example, Kind
from probekit.errors import DataError
from probekit.models.chat import Rendered

_TEXT = h5py.string_dtype(encoding="utf-8")
_BLOCK = 2048
CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def hdf5_writing(path: Path, mode: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to write to; a disk that is full ends in its `OSError`.

    HDF5 itself crashes the process when it cannot write what it holds at the end. So it writes through a
    file object that swallows the first error of the disk and all that comes after.
    """
    with path.open("w+b" if mode == "w" else "r+b", buffering=0) as raw:
        through = _Through(raw)
        try:
            with h5py.File(through, mode) as file:
                yield file
        finally:
            if through.error is not None:
                raise through.error


class _Through:
    """What h5py needs of a file, without an error that HDF5 would see."""

    def __init__(self, raw: io.FileIO) -> None:
        self.raw = raw
        self.error: OSError | None = None
        self.read, self.readinto, self.seek, self.tell = raw.read, raw.readinto, raw.seek, raw.tell

    def write(self, data: memoryview) -> int:
        """Write all of some bytes, or keep the error."""
        done, n = 0, len(data)
        try:
            while self.error is None and done < n:
                done += self.raw.write(data[done:])
        except OSError as error:
            self.error = error
        return n

    def truncate(self, size: int) -> int:
        """Cut or lengthen the file, or keep the error."""
        try:
            return self.raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size

    def flush(self) -> None:
        """Nothing is held back here."""


def write_examples(
    path: Path,
    rows: Iterable[tuple[Example, Rendered]],
    *,
    kind: Kind,
    classes: Sequence[str] | None,
) -> None:
    """Write the examples table to a new HDF5 file, in blocks, whatever the number of rows."""
    with hdf5_writing(path, "w") as file:
        group = file.create_group("examples")
        group.attrs["kind"] = kind
        if classes is not None:
            group.attrs["classes"] = json.dumps(list(classes))
        table = _Table(group, kind, tuple(classes or ()))
        block: list[tuple[Example, Rendered]] = []
        for row in rows:
            block.append(row)
            if len(block) == _BLOCK:
                table.append(block)
                block = []
        table.append(block)


class _Table:
    """Growing columns of the examples group."""

    def __init__(self, group: h5py.Group, kind: Kind, classes: tuple[str, ...]) -> None:
        self._group = group
        self._classes = classes
        self._n = 0
        self._n_tokens = 0
        for name in ("id", "group", "prompt", "completion"):
            self._column(name, _TEXT)
        self._column("span", np.int32, (2,))
        self._column("turn_end", np.int32)
        self._column("has_prompt", np.bool_)
        self._column("n_tokens", np.int32)
        self._column("token_ids", np.int32)
        self._column("token_offsets", np.int64)
        self._add("token_offsets", np.zeros(1))
        columns = {
            "label": ("label", np.int8),
            "rating": ("score", np.float64),
            "pair": ("side", _TEXT),
        }
        self._column(*columns[kind])

    def append(self, block: list[tuple[Example, Rendered]]) -> None:
        """Add rows to every column."""
        if not block:
            return
        examples, rendered = [row[0] for row in block], [row[1] for row in block]
        self._texts(examples)
        self._add("span", [(row.start, row.stop) for row in rendered])
        self._add("turn_end", [-1 if row.turn_end is None else row.turn_end for row in rendered])
        self._add("has_prompt", [row.has_prompt for row in rendered])
        self._add("n_tokens", [row.n_content for row in rendered])
        self._add("token_ids", np.concatenate([row.ids for row in rendered]))
        ends = self._n_tokens + np.cumsum([len(row.ids) for row in rendered])
        self._add("token_offsets", ends)
        self._n += len(block)
        self._n_tokens = int(ends[-1])

    def _texts(self, examples: list[Example]) -> None:
        self._add("id", [example.id for example in examples])
        self._add("group", [example.group for example in examples])
        self._add("prompt", [_prompt_text(example) for example in examples])
        self._add("completion", [example.completion or "" for example in examples])
        if "label" in self._group:
            self._add("label", [self._classes.index(str(example.label)) for example in examples])
        if "score" in self._group:
            self._add("score", [example.score for example in examples])
        if "side" in self._group:
            self._add("side", [example.side for example in examples])
        names = {name for example in examples for name in example.tags}
        if bad := sorted(name for name in names if "/" in name or name in ("", ".")):
            raise DataError(f"tag {bad[0]!r}: cannot be a column name. Rename it without '/'.")
        for name in sorted(names | set(self._group.get("tags", ()))):
            if f"tags/{name}" not in self._group:
                # A tag first seen here: the rows before it have none.
                self._column(f"tags/{name}", _TEXT)
                self._group[f"tags/{name}"].resize(self._n, axis=0)
            self._add(f"tags/{name}", [example.tags.get(name, "") for example in examples])

    def _column(self, name: str, dtype: Any, shape: tuple[int, ...] = ()) -> None:  # noqa: ANN401
        self._group.create_dataset(
            name, shape=(0, *shape), maxshape=(None, *shape), chunks=(_BLOCK, *shape), dtype=dtype
        )

    def _add(self, name: str, values: Any) -> None:  # noqa: ANN401 - a column of any dtype
        dataset = self._group[name]
        start = dataset.shape[0]
        dataset.resize(start + len(values), axis=0)
        if h5py.check_string_dtype(dataset.dtype) is not None:
            values = [_storable(value) for value in values]
        dataset[start:] = values


def assemble(
    examples: Path,
    work: WorkDir,
    target: Path,
    cells: Sequence[Cell],
    *,
    n_layers: int,
    d_model: int,
    provenance: dict[str, Any],
) -> None:
    """Write the finished store to `target`: the examples table, every cell, `complete` last."""
    with h5py.File(examples, "r") as source, hdf5_writing(target, "w") as file:
        with hdf5_errors(examples, AGAIN):
            digests = dict(
                Checksums.read(examples, source, AGAIN).datasets or digests_below(source)
            )
            source.copy("examples", file)
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["n_layers"] = n_layers
        file.attrs["d_model"] = d_model
        file.attrs["provenance"] = json.dumps(provenance, ensure_ascii=False)
        span = source["examples/span"][()]
        for cell in cells:
            n_rows = int((span[:, 1] - span[:, 0]).sum()) if cell.position == RAGGED else len(span)
            kind = np.dtype(work.dtype(cell))
            # Chunks of equal size: HDF5 stores the last one whole, filled or not.
            n_chunks = max(1, math.ceil(n_rows * d_model * kind.itemsize / CHUNK_BYTES))
            chunk = max(1, math.ceil(n_rows / n_chunks))
            dataset = file.create_dataset(
                f"activations/{cell}", (n_rows, d_model), kind, chunks=(chunk, d_model)
            )
            digest = Digest(kind, dataset.shape)
            for start, values in work.blocks(cell, n_rows, d_model):
                dataset[start : start + len(values)] = values
                digest.update(values)
            digests[f"activations/{cell}"] = digest.hex()
        write_checksums(file, digests)
        file.attrs["complete"] = True


def _storable(text: str) -> str:
    """Replace what an HDF5 string cannot hold; the token ids stay as the model saw them."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _prompt_text(example: Example) -> str:
    return "\n\n".join(turn.content for turn in example.prompt or ())
