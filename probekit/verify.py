"""`verify`: compare whatever probekit wrote with the checksums that it wrote along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from probekit.container import RECORD
from probekit.digests import (
    DIGESTS,
    SEAL,
    UNLISTED,
    check_file,
    differences,
    digest_file,
    read_digests,
)
from probekit.errors import DataError, ProbekitError
from probekit.parsing import parse_json, read_json, read_jsonl

AGAIN = "Make it again, or fetch another copy."
UNREAD = (*UNLISTED, ".sum", ".f16", ".f32", ".log", ".new")
"""Endings of files that are not looked into; an unfinished capture is checked as it is resumed."""


class Verified(NamedTuple):
    """What was found in a file or directory."""

    n_files: int
    """Files that were compared with a checksum."""
    problems: list[str]
    """A line for each place that is not as it was written."""
    unsealed: list[Path]
    """Files without a checksum: of an older version, or not probekit's."""


def verify(path: str | Path) -> Verified:
    """Check a store, a fit, a vector, a run with its checkpoints, a study, or any file in one.

    Parameters
    ----------
    path
        File or directory; a directory with all that lies below it.

    Raises
    ------
    DataError
        When there is nothing at `path` that probekit could have written.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or directory. Check the path.")
    found = Verified(0, [], [])
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for folder in [path, *(item for item in files if item.is_dir())] if path.is_dir() else []:
        found = _add(found, _folder(folder))
    folders = {file.parent for file in files} if path.is_dir() else set()
    listed = {name for folder in folders for name in _listed(folder)}
    for file in files:
        if file.is_file() and file.name not in (DIGESTS, "lock") and file.suffix not in UNREAD:
            if file not in listed:  # listed ones are compared already
                found = _add(found, _file(file))
    if not found.n_files and not found.problems and not found.unsealed:
        raise DataError(
            f"{path}: holds nothing that probekit wrote. Expected the output of a command."
        )
    return found


def _add(one: Verified, other: Verified) -> Verified:
    return Verified(
        one.n_files + other.n_files,
        [*one.problems, *other.problems],
        [*one.unsealed, *other.unsealed],
    )


def _listed(folder: Path) -> Iterator[Path]:
    """Yield the files that the digests of a folder, or of the one above it, list."""
    for directory in (folder, folder.parent):
        try:
            for name in read_digests(directory, DataError) or {}:
                yield directory / name
        except DataError:
            continue  # said once, by `_folder`


def _folder(folder: Path) -> Verified:
    try:
        lines = differences(folder, DataError)
        n = len(read_digests(folder, DataError) or ())
    except DataError as error:
        return Verified(1, [str(error)], [])
    return Verified(n, [f"{line}. {AGAIN}" for line in lines or ()], [])


def _file(path: Path) -> Verified:
    """Look into one file: its own checksum, where it has one, and whether it can be read."""
    try:
        is_listed = check_file(path, DataError, AGAIN)
        sealed, recorded = _is_sealed(path), _recorded(path)
    except ProbekitError as error:
        return Verified(1, [str(error)], [])
    if recorded is not None and not is_listed:
        fits = recorded == {"size": path.stat().st_size, "sha256": digest_file(path)}
        line = f"{path}: does not fit the checksum in {path.name}{RECORD}, it was damaged or changed. {AGAIN}"
        return Verified(1, [] if fits else [line], [])
    if is_listed:
        return Verified(1, [], [])
    if sealed is None:
        return Verified(0, [], [path])
    return Verified(1, list(sealed), [])


def _recorded(path: Path) -> object:
    """Return size and digest of a file that its run record holds; None where there is none."""
    record = path.with_name(path.name + RECORD)
    return read_json(record, DataError, AGAIN).get("output") if record.is_file() else None


def _is_sealed(path: Path) -> list[str] | None:
    """Return lines on a file with a checksum of its own, none where it fits; None without one."""
    if path.suffix in (".h5", ".hdf5"):
        return _hdf5(path)
    if path.suffix in (".safetensors", ".gguf"):
        return _vector(path)
    if path.suffix == ".json":
        read_json(path, DataError, AGAIN)
        return [] if SEAL in parse_json(path.read_bytes()) else None
    if path.suffix == ".jsonl":
        read_jsonl(path, DataError, AGAIN)
        last = path.read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
        return [] if last and parse_json(last).keys() == {SEAL} else None
    return None


def _hdf5(path: Path) -> list[str] | None:
    import h5py

    from probekit.activations.checksums import CHECKSUMS, Checksums, hdf5_errors
    from probekit.activations.store import ActivationStore

    with hdf5_errors(path), h5py.File(path, "r") as file:
        known = Checksums.read(path, file)
        lines = list(known.check_all(file))
        has_sums, is_store = CHECKSUMS in file.attrs, "activations" in file
    if is_store and not lines:
        with ActivationStore.open(path) as store:
            assert len(store.examples) == store.n_examples
            assert store.tokens is not None
    return lines if has_sums else None


def _vector(path: Path) -> list[str] | None:
    from probekit.errors import SteeringError
    from probekit.parsing import tensor_errors
    from probekit.steering.vector_file import has_seal, load

    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with tensor_errors(path, SteeringError, AGAIN), safe_open(path, framework="numpy") as file:
            if "probekit" not in (file.metadata() or {}):
                return None
    load(path)
    return [] if has_seal(path) else None
