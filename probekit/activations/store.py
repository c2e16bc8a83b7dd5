"""`ActivationStore`: read a finished HDF5 file of activations (the format is docs/formats.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probekit.activations.checksums import AGAIN, Checksums, hdf5_errors
from probekit.activations.schema import check_schema
from probekit.activations.table import Cell, Examples
from probekit.data.rows import Kind
from probekit.errors import StoreError
from probekit.models.chat import Rendered
from probekit.parsing import object_of, parse_json

FORMAT = "probekit.activations"
FORMAT_VERSION = 1
RAGGED = "all"
_ITS_OWN = (
    "Expected a store that holds all of its data. Cache it again, or do not trust where it is from."
)


class ActivationStore:
    """A finished store of activations. Nothing is read until it is asked for.

    Use `ActivationStore.open(path)`; it is a context manager, and `close()` does the same.
    """

    def __init__(self, path: Path, file: h5py.File, checksums: Checksums | None = None) -> None:
        self.path = path
        self._file = file
        self.checksums = checksums or Checksums(path)
        """What the file says that it holds."""

    @classmethod
    def open(cls, path: str | Path) -> ActivationStore:
        """Open a store.

        Raises
        ------
        StoreError
            When the file is missing, not HDF5 or cut short, not a probekit store, written by a
            newer major version, not complete, or not as docs/formats.md says; the line names the place.
        """
        path = Path(path)
        file = _open_hdf5(path)
        try:
            with hdf5_errors(path):
                _refuse_foreign_bytes(path, file)
                _check_header(path, file)
                checksums = Checksums.read(path, file)
                check_schema(path, file)
        except StoreError:
            file.close()
            raise
        return cls(path, file, checksums)

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Model, data, settings, versions and time of the capture."""
        place = f"{self.path}: provenance"
        return object_of(str(self._file.attrs["provenance"]), place, StoreError, AGAIN)

    @property
    def kind(self) -> Kind:
        """`label`, `rating` or `pair`."""
        return str(self._file["examples"].attrs["kind"])  # type: ignore[return-value]

    @property
    def n_examples(self) -> int:
        """Rows of every matrix; a pair is two."""
        return int(self._file["examples/id"].shape[0])

    @property
    def d_model(self) -> int:
        """Width of an activation."""
        return int(self._file.attrs["d_model"])

    @property
    def n_layers(self) -> int:
        """Blocks of the model, whether stored or not."""
        return int(self._file.attrs["n_layers"])

    @cached_property
    def examples(self) -> Examples:
        """The columns of the rows."""
        with hdf5_errors(self.path):
            return _read_examples(self._file["examples"], self._column)

    def cells(self) -> list[Cell]:
        """Return every stored matrix with one row an example, ordered by site, layer, position."""
        return [cell for cell in self._cells() if cell.position != RAGGED]

    def ragged_cells(self) -> list[Cell]:
        """Return every stored matrix with one row a completion token (position `all`)."""
        return [cell for cell in self._cells() if cell.position == RAGGED]

    def read(self, cell: Cell) -> NDArray[np.float32]:
        """Return one matrix, shape (n_examples, d_model), reading nothing else.

        Raises
        ------
        StoreError
            When the store does not hold the cell or its data cannot be read.
        """
        if cell.position == RAGGED:
            raise StoreError(f"{self.path}: {cell} is ragged. Read it with read_ragged.")
        return self._read(self._dataset(cell))

    def read_ragged(self, cell: Cell) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return every completion token's activation and where each example's tokens lie.

        Returns
        -------
        acts
            Shape (n_tokens_of_all_examples, d_model).
        offsets
            Shape (n_examples + 1,); the tokens of example i are rows offsets[i] to offsets[i + 1].
        """
        dataset = self._dataset(cell)
        return self._read(dataset), self.tokens.ragged

    @cached_property
    def tokens(self) -> TokenTable:
        """The rows' token ids and spans."""
        with hdf5_errors(self.path):
            for name in TokenTable.COLUMNS:
                self.checksums.check(self._file[f"examples/{name}"])
            return TokenTable(self._file["examples"])

    def _cells(self) -> Iterator[Cell]:
        for site, layers in self._file["activations"].items():
            for layer, positions in layers.items():
                for position in positions:
                    yield Cell(site, int(layer), position)

    def _dataset(self, cell: Cell) -> h5py.Dataset:
        name = f"activations/{cell}"
        if name not in self._file:
            stored = sorted({other.position for other in self._cells()})
            layers = sorted({other.layer for other in self._cells() if other.site == cell.site})
            raise StoreError(
                f"{self.path}:/{name}: is not in the store. It holds positions {', '.join(stored)} "
                f"and, of {cell.site}, layers {_brief(layers)}."
            )
        return self._file[name]

    def _read(self, dataset: h5py.Dataset) -> NDArray[np.float32]:
        return self._column(dataset).astype(np.float32, copy=False)

    def _column(self, dataset: h5py.Dataset) -> NDArray[Any]:
        """Return all of a dataset as it is stored, compared with its checksum."""
        with hdf5_errors(Path(f"{self.path}:{dataset.name}")):
            values: NDArray[Any] = dataset[()]
            self.checksums.check(dataset, values)
            return values


def _open_hdf5(path: Path) -> h5py.File:
    if not path.exists():
        partial = path.with_name(path.name + ".partial")
        unfinished = (
            f" {partial} is unfinished: run cache with --resume." if partial.exists() else ""
        )
        raise StoreError(f"{path}: no such store.{unfinished or ' Make it with probekit cache.'}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise StoreError(
            f"{path}: is not a readable HDF5 file ({str(error).splitlines()[0]}). Expected a store "
            "written by probekit cache; if it was copied, the copy may be cut short."
        ) from error


def _refuse_foreign_bytes(path: Path, file: h5py.File) -> None:
    """Refuse a store any of whose data lie elsewhere: text of another file would end in a report."""
    seen, groups = set(), [file["/"]]
    while groups:
        group = groups.pop()
        for name in group:
            place, link = f"{path}:{group.name.rstrip('/')}/{name}", group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise StoreError(f"{place}: is a link to elsewhere. {_ITS_OWN}")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue  # a group may hold itself
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                raise StoreError(f"{place}: keeps its data in other files. {_ITS_OWN}")


def _check_header(path: Path, file: h5py.File) -> None:
    name = file.attrs.get("format")
    if name != FORMAT:
        raise StoreError(
            f"{path}: is HDF5 but not a probekit store (format is {name!r}, expected {FORMAT!r}). "
            "Make one with probekit cache."
        )
    version = int(file.attrs.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: has format version {version}, this probekit reads up to {FORMAT_VERSION}. "
            "Update probekit."
        )
    if not bool(file.attrs.get("complete", False)):
        raise StoreError(f"{path}: is not complete, its capture never ended. Cache it again.")


def _read_examples(group: h5py.Group, read: Callable[[h5py.Dataset], NDArray[Any]]) -> Examples:
    def text(name: str) -> NDArray[np.object_]:
        column = read(group[name]).astype(object)
        for row, value in enumerate(column):
            column[row] = value.decode()
        return column

    def words(name: str) -> NDArray[np.object_]:
        # Equal names are one string: a column of fixed width has the longest one in every row.
        once: dict[str, str] = {}
        column = text(name)
        for row, value in enumerate(column):
            column[row] = once.setdefault(value, value)
        return column

    prompt, completion, identical = text("prompt"), text("completion"), None
    if "side" in group:
        same = [column[::2] == column[1::2] for column in (prompt, completion)]
        identical = np.asarray(same[0] & same[1], dtype=bool)
    classes = group.attrs.get("classes")
    names = tuple(parse_json(str(classes))) if classes is not None else None
    side = words("side") if "side" in group else None
    if side is not None and not ((side[::2] == "chosen") & (side[1::2] == "rejected")).all():
        raise StoreError(
            f"{group.file.filename}:{group.name}/side: is not chosen, rejected in turn. {AGAIN}"
        )
    return Examples(
        kind=str(group.attrs["kind"]),  # type: ignore[arg-type]
        id=words("id"),
        group=words("group"),
        n_tokens=read(group["n_tokens"]).astype(np.int64),
        prompt=prompt,
        completion=completion,
        label=read(group["label"]).astype(np.int64) if "label" in group else None,
        classes=names if names is None else (names[0], names[-1]),
        score=read(group["score"]) if "score" in group else None,
        side=side,
        identical=identical,
        surprisal=read(group["surprisal"]) if "surprisal" in group else None,
        tags={name: words(f"tags/{name}") for name in group.get("tags", {})},
    )


def _brief(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    if numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


class TokenTable:
    """Rows of an examples group by index; spans are in memory, token ids stay in the file."""

    COLUMNS = ("token_ids", "token_offsets", "span", "turn_end", "has_prompt")

    def __init__(self, group: h5py.Group) -> None:
        self._ids = group["token_ids"]
        self._offsets = group["token_offsets"][()]
        self._span = group["span"][()]
        self._turn_end = group["turn_end"][()]
        self._has_prompt = group["has_prompt"][()]
        self.lengths: NDArray[np.int64] = np.diff(self._offsets)
        """Tokens of each row, shape (n_examples,)."""
        counts = self._span[:, 1] - self._span[:, 0]
        self.ragged: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """Offsets of each row's completion tokens in a ragged matrix, shape (n_examples + 1,)."""

    def row(self, index: int) -> Rendered:
        """Return one row's token ids and spans."""
        turn_end = int(self._turn_end[index])
        return Rendered(
            self._ids[self._offsets[index] : self._offsets[index + 1]],
            int(self._span[index, 0]),
            int(self._span[index, 1]),
            turn_end if turn_end >= 0 else None,
            bool(self._has_prompt[index]),
        )

    def ragged_rows(self, index: int) -> NDArray[np.int64]:
        """Return where one row's completion tokens lie in a ragged matrix, shape (n_tokens,)."""
        return np.arange(self.ragged[index], self.ragged[index + 1])
