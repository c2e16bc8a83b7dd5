"""Files that are whole or absent: atomic writes, the refusal to overwrite, JSON with a header."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from probekit.digests import SEAL, files_of, sealed, write_digests
from probekit.errors import OutputError


def refuse_existing(path: Path, *, force: bool, marker: str | None = None) -> None:
    """Raise `OutputError` when `path` exists and may not be replaced; touch nothing.

    Parameters
    ----------
    path
        The output.
    force
        Whether the user allowed it to be replaced.
    marker
        A file that every output of this kind holds: even with `force`, a directory without it is
        somebody's own and stays. An empty directory may be replaced.
    """
    if path.exists() and not force:
        raise OutputError(f"{path}: already exists. Pass --force to replace it, or another --out.")
    if marker is None or not path.exists():
        return
    if not path.is_dir() or (any(path.iterdir()) and not (path / marker).is_file()):
        raise OutputError(
            f"{path}: holds no {marker}, so it is not an earlier output of this command, and "
            "--force does not replace it. Choose another --out, or remove it yourself."
        )


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable folder below `path` into one clear `OutputError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or "No space left" in str(error) or "File too large" in str(error):
            raise OutputError(
                f"{path}: the disk is full. Free some space or choose another --out."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise OutputError(
                f"{path}: cannot be written ({error.strerror}). Choose another --out."
            ) from error
        raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it onto `path` on success, else remove it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with disk_errors(path):
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; move it onto `path` on success, with its digests.

    An existing `path` is replaced only with `force`, and only once the new one is whole.
    """
    refuse_existing(path, force=force)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
    try:
        with disk_errors(path):
            yield temporary
            write_digests(temporary, files_of(temporary))
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(0o666 & ~_umask())
                    _sync(file)
            _swap(temporary, path)
    except OutputError as error:  # the user knows `path`, not the temporary folder
        raise OutputError(str(error).replace(str(temporary), str(path))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write `value` as indented JSON (NaN becomes null), an object with its seal, whole or not at all."""
    value = jsonable(value)
    value = sealed(value) if isinstance(value, dict) else value
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]], *, seal: bool = False) -> None:
    """Write one JSON object a line, whole or not at all; with `seal` one more that seals them."""
    written = [jsonable(row) for row in rows]
    if seal:
        written.append({SEAL: sealed({"rows": written})[SEAL]})
    with atomic_file(path) as temporary:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in written)
        temporary.write_text("".join(lines), encoding="utf-8")


def jsonable(value: Any) -> Any:  # noqa: ANN401 - any JSON-like value
    """Return `value` with NaN and infinities as None and NumPy scalars as Python numbers."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float) and not (value - value == 0.0):
        return None
    return value


def _swap(new: Path, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
        path.replace(old / "was")
        new.replace(path)
        shutil.rmtree(old)
    else:
        path.unlink(missing_ok=True)
        new.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
