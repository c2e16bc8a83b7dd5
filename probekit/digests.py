"""Checksums: a seal in every JSON object, and `digests.json` for the files of a directory.

What is read back is compared with what was written, so that a flipped bit is an error with a place and
never another number. Artefacts of versions that wrote no checksums are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from probekit.errors import ProbekitError

SEAL = "checksum"
"""Key of a JSON object: the digest of all the others."""
DIGESTS = "digests.json"
"""File of a directory: name to size and digest of the files in it."""
UNLISTED = (".html", ".lock", ".probekit-lock", ".tmp")
"""Endings of files that probekit never reads back; a page may be written again at any time."""
_BLOCK = 1 << 20
_IS_DIGEST = re.compile(r"[0-9a-f]{64}").fullmatch


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of its content as the last key."""
    return {**value, SEAL: _digest_of(value)}


def seal_fits(value: dict[str, Any]) -> bool | None:
    """Return whether an object is as it was sealed; None where it has no seal."""
    if SEAL not in value:
        # A digest in the place of the seal under another name: the name itself was damaged.
        last = next(reversed(value.values()), None)
        return False if isinstance(last, str) and _IS_DIGEST(last) else None
    return bool(value[SEAL] == _digest_of(value))


def digest_file(path: Path, size: int | None = None) -> str:
    """Return the SHA-256 of a file, of its first `size` bytes where that is given; read in blocks."""
    found, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as handle:
        while left and (block := handle.read(min(_BLOCK, left))):
            found.update(block)
            left -= len(block)
    return found.hexdigest()


def write_digests(
    directory: Path,
    names: Iterable[str],
    *,
    growing: Collection[str] = (),
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> Path:
    """Write `digests.json` for files of a directory.

    Of `growing` ones only what is there now counts, or their first bytes where `sizes` says how many.
    """
    files: dict[str, dict[str, Any]] = {}
    for name in sorted(names):
        size = sizes.get(name, (directory / name).stat().st_size)
        files[name] = {"size": size, "sha256": digest_file(directory / name, size)}
        if name in growing:
            files[name]["grows"] = True
    value = sealed({"format": "probekit.digests", "format_version": 1, "files": files})
    path, draft = directory / DIGESTS, directory / f"{DIGESTS}.new"
    with draft.open("w", encoding="utf-8") as handle:
        handle.write(json.dumps(value, indent=1) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(path)
    return path


def files_of(directory: Path) -> list[str]:
    """Return the names, relative to a directory, of the files that its digests are to list."""
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != DIGESTS)
    return [path.relative_to(directory).as_posix() for path in found if path.suffix not in UNLISTED]


def read_digests(directory: Path, error: type[ProbekitError]) -> dict[str, dict[str, Any]] | None:
    """Return name to entry of a directory's digests; None where it has none.

    Raises
    ------
    ProbekitError
        As the class `error`, when the file is damaged.
    """
    path = directory / DIGESTS
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
        whole = isinstance(value, dict) and seal_fits(value) and isinstance(value["files"], dict)
    except (ValueError, RecursionError, KeyError):
        whole = False
    if not whole:
        raise error(
            f"{path}: is damaged, so nothing beside it can be checked. Make the directory again, or "
            "remove this file to read the rest unchecked."
        )
    return dict(value["files"])


def check_file(path: Path, error: type[ProbekitError], again: str) -> bool:
    """Compare a file with the digests of its directory or the one above; return whether any lists it.

    Parameters
    ----------
    path
        The file; one that is absent is left to its reader.
    error
        Class of what is raised.
    again
        The remedy, a sentence.

    Raises
    ------
    ProbekitError
        When the file is not what was written.
    """
    for directory in (path.parent, path.parent.parent):
        name = path.relative_to(directory).as_posix()
        entry = (read_digests(directory, error) or {}).get(name)
        if entry is not None:
            if what := _difference(path, entry):
                raise error(f"{path}: {what}, it was damaged or changed. {again}")
            return True
    return False


def check_directory(directory: Path, error: type[ProbekitError], again: str) -> bool:
    """Compare every listed file of a directory with its digest; return whether there are digests.

    Raises
    ------
    ProbekitError
        Naming the first file that is absent or not what was written.
    """
    found = differences(directory, error)
    if found:
        raise error(f"{found[0]}, it was damaged or changed. {again}")
    return found is not None


def differences(directory: Path, error: type[ProbekitError]) -> list[str] | None:
    """Return a line for each listed file that is not what was written; None without digests."""
    files = read_digests(directory, error)
    if files is None:
        return None
    found = (
        (directory / name, _difference(directory / name, entry)) for name, entry in files.items()
    )
    return [f"{path}: {what}" for path, what in found if what]


def _difference(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "is missing"
    size, expected = path.stat().st_size, entry["size"]
    if size < expected or (size > expected and not entry.get("grows")):
        return f"has {size} bytes, {expected} were written"
    if digest_file(path, expected) != entry["sha256"]:
        return "does not fit its checksum"
    return None


def _digest_of(value: dict[str, Any]) -> str:
    content = {key: item for key, item in value.items() if key != SEAL}
    # The shortest form of every number and key in one order: layout alone changes nothing.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
