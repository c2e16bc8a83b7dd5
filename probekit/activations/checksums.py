"""Checksums of a store: the root attribute `checksums` lists a SHA-256 for every dataset and attribute.

A digest covers dtype, shape and content as they are read back, so that damage anywhere below, in HDF5's own
tables too, is seen. Stores of versions that wrote none are read unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probekit.digests import seal_fits, sealed
from probekit.errors import ProbekitError, StoreError
from probekit.parsing import object_of

CHECKSUMS = "checksums"
AGAIN = "The file is damaged; cache it again."
_ROWS, _BYTES = 4096, 1 << 22


class Digest:
    """The digest of a matrix or column that arrives in blocks of rows.

    Parameters
    ----------
    dtype
        Of what is stored; of text only that it is text counts.
    shape
        Of the whole.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        name = "text" if dtype.kind == "O" else dtype.str
        self._found = hashlib.sha256(f"{name} {tuple(map(int, shape))}\n".encode())

    def update(self, values: NDArray[Any]) -> None:
        """Add the next rows, shape (n, ...); text comes as bytes, in blocks of the same size always."""
        if values.dtype.kind != "O":
            return self._found.update(np.ascontiguousarray(values).data.cast("B"))
        for block in (values[at : at + _ROWS] for at in range(0, len(values), _ROWS)):
            self._found.update(np.array([len(text) for text in block], dtype="<i8").data.cast("B"))
            self._found.update(b"".join(block))

    def hex(self) -> str:
        """Return it in hexadecimal digits."""
        return self._found.hexdigest()


@contextmanager
def hdf5_errors(path: Path, again: str = AGAIN) -> Iterator[None]:
    """Turn whatever HDF5 raises over damaged structure into one `StoreError`."""
    try:
        yield
    except ProbekitError:
        raise
    except Exception as error:  # h5py has no class of its own: damage comes as any of Python's
        if "No space left" in str(error) or "File too large" in str(error):
            raise  # `disk_errors` has words for it
        what = (str(error).splitlines() or [""])[0][:200]
        raise StoreError(
            f"{path}: cannot be read ({type(error).__name__}: {what}). {again}"
        ) from error


class Checksums:
    """What an HDF5 file of probekit says that it holds.

    Parameters
    ----------
    path
        The file, for messages.
    datasets
        Name to digest; None for a file without checksums.
    again
        The remedy, a sentence.
    """

    def __init__(
        self, path: Path, datasets: Mapping[str, str] | None = None, again: str = AGAIN
    ) -> None:
        self.path, self.datasets, self._again = path, datasets, again

    @classmethod
    def read(cls, path: Path, file: h5py.File, again: str = AGAIN) -> Checksums:
        """Read the list of a file and compare attributes and names with it; content comes at `check`.

        Raises
        ------
        StoreError
            When the list is damaged, or something that it lists is missing or other than listed.
        """
        if CHECKSUMS not in file.attrs:
            return cls(path, again=again)
        place = f"{path}: attribute {CHECKSUMS}"
        value = object_of(str(file.attrs[CHECKSUMS]), place, StoreError, again)
        if not seal_fits(value):
            raise StoreError(f"{place}: does not fit its own checksum. {again}")
        for group, listed in value["attributes"].items():
            found = _attributes(file[group]) if group in file else {}
            for name, digest in listed.items():
                if found.get(name) != digest:
                    raise StoreError(
                        f"{path}:{group}: attribute {name} does not fit its checksum. {again}"
                    )
        if missing := sorted(name for name in value["datasets"] if name not in file):
            raise StoreError(f"{path}:/{missing[0]}: is missing. {again}")
        return cls(path, value["datasets"], again)

    def check(self, dataset: h5py.Dataset, values: NDArray[Any] | None = None) -> None:
        """Compare a dataset with its digest; `values` is all of it, shape as stored, where it is read.

        Raises
        ------
        StoreError
            Naming the dataset that is not what was written.
        """
        listed = (self.datasets or {}).get(dataset.name.strip("/"))
        if listed is None:
            return
        found = Digest(dataset.dtype, dataset.shape)
        for block in _blocks(dataset) if values is None else (values,):
            found.update(block)
        if found.hex() != listed:
            raise StoreError(
                f"{self.path}:{dataset.name}: does not fit its checksum. {self._again}"
            )

    def check_all(self, file: h5py.File) -> Iterator[str]:
        """Yield a line for every listed dataset that is not what was written."""
        for name in self.datasets or {}:
            try:
                with hdf5_errors(self.path):
                    self.check(file[name])
            except StoreError as error:
                yield str(error)


def digests_below(group: h5py.Group) -> dict[str, str]:
    """Return name to digest of every dataset below a group, read in blocks."""
    names: list[str] = []
    group.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    found = {}
    for name in names:
        digest = Digest(group[name].dtype, group[name].shape)
        for block in _blocks(group[name]):
            digest.update(block)
        found[group[name].name.strip("/")] = digest.hex()
    return found


def write_checksums(file: h5py.File, datasets: Mapping[str, str]) -> None:
    """Write the list of a file: the attributes it has by now, and datasets with their digests."""
    groups = {name: _attributes(file[name]) for name in ("/", "examples")}
    value = sealed({"attributes": groups, "datasets": dict(datasets)})
    file.attrs[CHECKSUMS] = json.dumps(value)


def _attributes(group: h5py.Group) -> dict[str, str]:
    found = {}
    for name, value in group.attrs.items():
        if name not in (CHECKSUMS, "complete"):
            plain = value.tolist() if hasattr(value, "tolist") else value
            found[name] = hashlib.sha256(json.dumps(plain, default=str).encode()).hexdigest()
    return found


def _blocks(dataset: h5py.Dataset) -> Iterable[NDArray[Any]]:
    """Yield the rows of a dataset in blocks; of text as many a block as `Digest.update` takes."""
    width = int(np.prod(dataset.shape[1:], dtype=np.int64)) * dataset.dtype.itemsize
    step = _ROWS if dataset.dtype.kind == "O" else max(1, _BYTES // max(1, width))
    for at in range(0, dataset.shape[0], step):
        yield dataset[at : at + step]
