"""`ActivationStore`: read a finished HDF5 file of activations (the format is docs/formats.md)."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probekit.activations.arrays import ArrayRows, write_arrays
from probekit.activations.checksums import AGAIN, Checksums, hdf5_errors
from probekit.activations.schema import FORMAT, FORMAT_VERSION, RAGGED, check_schema
from probekit.activations.table import Cell, Examples, TokenTable, read_examples
from probekit.data.rows import Kind
from probekit.errors import StoreError
from probekit.foreign import Shown
from probekit.parsing import object_of

if TYPE_CHECKING:
    import pandas as pd

_ITS_OWN = (
    "Expected a store that holds all of its data. Cache it again, or do not trust where it is from."
)


class ActivationStore(Shown):
    """A finished store of activations. Nothing is read until it is asked for.

    Use `ActivationStore.open(path)`; it is a context manager, and `close()` does the same. It reads like a
    mapping from cells to matrices: `store["resid_post", 12, "mean"]`, `for cell in store`, `store.items()`.

    Examples
    --------
    >>> from probekit.activations.store import ActivationStore
    >>> store = ActivationStore.open("acts.h5")
    >>> cell = next(iter(store))
    >>> cell in store, store[cell].shape == (store.n_examples, store.d_model)
    (True, True)
    >>> store.examples_frame()["label"].nunique()
    2
    """

    def __init__(self, path: Path, file: h5py.File, checksums: Checksums | None = None) -> None:
        self.path = path
        self._file = file
        self._remove: Callable[[], object] = lambda: None
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
        """Close the file; a temporary store is removed."""
        self._file.close()
        self._remove()

    def __getitem__(self, cell: tuple[str, int, str]) -> NDArray[np.float32]:
        """Return the matrix of a site, layer and position; layers below 0 count from the last block."""
        if not isinstance(cell, tuple) or len(cell) != 3:  # noqa: PLR2004
            raise StoreError(f"{self.path}: got {cell!r}, expected store[site, layer, position].")
        return self.read(self._cell(cell))

    def __contains__(self, cell: object) -> bool:
        return isinstance(cell, tuple) and len(cell) == 3 and self._cell(cell) in self.cells()  # noqa: PLR2004

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells())

    def __len__(self) -> int:
        return len(self.cells())

    def keys(self) -> list[Cell]:
        """Return every cell with one row an example."""
        return self.cells()

    def items(self) -> Iterator[tuple[Cell, NDArray[np.float32]]]:
        """Yield every cell with its matrix, shape (n_examples, d_model); one is read at a time."""
        return ((cell, self.read(cell)) for cell in self.cells())

    def _cell(self, cell: tuple[Any, ...]) -> Cell:
        site, layer, position = cell
        below = isinstance(layer, (int, np.integer)) and layer < 0
        return Cell(site, self.n_layers + layer if below else layer, position)

    def examples_frame(self) -> pd.DataFrame:
        """Return the rows as a table: id, group, texts, label (its name) or score or side, `tag:TAG`."""
        import pandas as pd

        found, label = self.examples, self.examples.label
        names = np.array(found.classes or found.several or (), dtype=object)
        columns = {
            "id": found.id, "group": found.group, "prompt": found.prompt, "completion": found.completion,
            "label": None if label is None else names[label], "score": found.score,
            "side": found.side, "n_tokens": found.n_tokens, "surprisal": found.surprisal,
        }  # fmt: skip
        tags = {f"tag:{name}": values for name, values in found.tags.items()}
        return pd.DataFrame({k: v for k, v in {**columns, **tags}.items() if v is not None})

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        if not self._file:
            return {"file": self.path.name, "closed": "yes"}
        cells = self.cells() + self.ragged_cells()
        layers = sorted({cell.layer for cell in cells if cell.site != "resid_pre"})
        return {
            "file": self.path.name, "kind": self.kind, "examples": self.n_examples, "d_model": self.d_model,
            "sites": sorted({cell.site for cell in cells}), "layers": _brief(layers),
            "positions": sorted({cell.position for cell in cells}), "model": self.provenance.get("model"),
        }  # fmt: skip

    @classmethod
    def from_arrays(
        cls,
        arrays: Any,  # noqa: ANN401 - arrays by name, or a file of them
        *,
        out: str | Path | None = None,
        rows: Any = None,  # noqa: ANN401 - any source of rows
        labels: Sequence[Any] | None = None,
        scores: Sequence[float] | None = None,
        groups: Sequence[Any] | None = None,
        position: str = "last",
        mask: Any = None,  # noqa: ANN401 - an array
        model: Any = None,  # noqa: ANN401 - a model, its name, or what identifies it
        n_layers: int | None = None,
    ) -> ActivationStore:
        """Return a store of activations that another tool read.

        Parameters
        ----------
        arrays
            A mapping of names to arrays of NumPy or torch, a TransformerLens `ActivationCache`, or a file:
            .npz, .safetensors or .zarr. A name is `(site, layer, position)`, `(site, layer)`, a layer, or
            text: `resid_post/12/mean`, `layer_12`, `blocks.12.hook_resid_post`; of a TransformerLens
            cache all but residuals is passed over. Shapes are (n, d_model), or (n, n_tokens, d_model), of
            which `position` is taken.
        out
            File to write; None makes a temporary store, which is removed when it is closed or forgotten.
        rows
            What the arrays are of: rows of data in their order (a pair is two: chosen, rejected). Or:
        labels, scores
            A label, or a rating, of each row.
        groups
            What must not straddle a split, with `labels` or `scores`; by default each row for itself.
        position
            Position rule of arrays whose names have none. Of arrays with an axis of tokens `last`, `mean` and
            `token:I` are taken, from the tokens where `mask`, shape (n, n_tokens), is 1; without it from all.
        mask
            See `position`.
        model
            The model that was read, for the store's record: probes of it then refuse another one.
        n_layers
            Blocks of the model; by default as many as there are layers in the arrays.

        Raises
        ------
        StoreError, DataError
            With the name of the array, or the row, that does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from probekit.activations.store import ActivationStore
        >>> acts = {("resid_post", 12): np.random.default_rng(0).normal(size=(30, 8))}
        >>> store = ActivationStore.from_arrays(acts, labels=[0, 1] * 15, position="mean")
        >>> store["resid_post", 12, "mean"].shape, store.kind
        ((30, 8), 'label')
        """
        frame = ArrayRows(rows, labels, scores, groups, position, mask, model, n_layers)
        if out is not None:
            write_arrays(Path(out), arrays, frame)
            return cls.open(out)
        return cls.temporary(lambda path: write_arrays(path, arrays, frame))

    @classmethod
    def temporary(cls, write: Callable[[Path], object]) -> ActivationStore:
        """Return a store that `write` makes at a path of its own, removed when it is closed or forgotten."""
        folder = tempfile.mkdtemp(prefix="probekit-")
        try:
            write(Path(folder) / "acts.h5")
            store = cls.open(Path(folder) / "acts.h5")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        store._remove = weakref.finalize(store, shutil.rmtree, folder, ignore_errors=True)
        return store

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
            return read_examples(self._file["examples"], self._column)

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


def _brief(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    if numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
