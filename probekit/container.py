"""Files that are whole or absent: written beside their place, synced, and moved there in one step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from probekit.digests import SEAL, digest_file, files_of, sealed, write_digests
from probekit.errors import OutputError, ProbekitError
from probekit.parsing import read_json

RECORD = ".run.json"
"""What the name of a file's run record ends with, after the name of the file."""
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_OURS = re.compile(r"\.(?P<name>.*)\.probekit-(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-\w*\.(?:tmp|old)")
_EXCHANGE, _CWD = 2, -100


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn any error of the file system, with `path` or below it, into one clear `OutputError`."""
    try:
        yield
    except ProbekitError:
        raise
    except BrokenPipeError:
        raise
    except Exception as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        # h5py and safetensors have errors of their own, which only say it in words.
        if full or "No space left" in str(error) or "File too large" in str(error):
            raise OutputError(
                f"{path}: the disk is full. Free some space or choose another --out."
            ) from error
        if isinstance(error, OSError):
            what = error.strerror or words
            other = error.filename and str(path.parent) not in os.path.abspath(str(error.filename))  # noqa: PTH100
            place = f"{error.filename}: cannot be used" if other else f"{path}: cannot be written"
            raise OutputError(f"{place} ({what}). Choose another --out.") from error
        if type(error).__name__ == "SafetensorError":
            raise OutputError(
                f"{path}: cannot be written ({words}). Choose another --out."
            ) from error
        raise


@contextlib.contextmanager
def atomic_file(
    path: Path, *, replace: bool = True, record: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it onto `path` on success, else remove it.

    Parameters
    ----------
    path
        The file.
    replace
        Whether one that is there by then is replaced; else the new one is kept beside it.
    record
        Written to `PATH.run.json`, with size and digest of the file, when the block ends.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(**named(path, ".tmp"))
        os.close(handle)
    temporary = Path(name)
    try:
        with disk_errors(path):
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            if record is not None:
                size = temporary.stat().st_size
                output = {"size": size, "sha256": digest_file(temporary, size)}
                with atomic_file(path.with_name(path.name + RECORD)) as companion:
                    companion.write_text(_text({**record, "output": output}), encoding="utf-8")
                    _sync(companion)
                    _move(temporary, path, replace=replace)
            else:
                _move(temporary, path, replace=replace)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; move it onto `path` on success, with its digests.

    An existing `path` is replaced only with `force`, and only once the new one is whole.
    """
    if path.exists() and not force:
        raise OutputError(f"{path}: already exists. Pass --force to replace it, or another --out.")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(**named(path, ".tmp")))
        temporary.chmod(0o777 & ~_umask())
    try:
        with disk_errors(path):
            yield temporary
            write_digests(temporary, files_of(temporary))
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(0o666 & ~_umask())
                _sync(file)
            _sync(temporary)
            _move(temporary, path, replace=force)
    except OutputError as error:  # the user knows `path`, not the temporary folder
        raise OutputError(str(error).replace(str(temporary), str(path))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write `value` as indented JSON (NaN becomes null), an object with its seal, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(_text(value), encoding="utf-8")


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    value = jsonable(value)
    value = sealed(value) if isinstance(value, dict) else value
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(
    path: Path,
    rows: Iterable[dict[str, Any]],
    *,
    seal: bool = False,
    **how: Any,  # noqa: ANN401 - of `atomic_file`
) -> None:
    """Write one JSON object a line, whole or not at all; with `seal` one more that seals them."""
    written = [jsonable(row) for row in rows]
    if seal:
        written.append({SEAL: sealed({"rows": written})[SEAL]})
    with atomic_file(path, **how) as temporary:
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


def as_json(value: Any) -> Any:  # noqa: ANN401 - any result
    """Return a result as JSON has it: by its own `to_json`, or a named tuple as an object of fields."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, list):
        return [as_json(item) for item in value]
    fields = value._asdict() if hasattr(value, "_asdict") else value
    return {k: as_json(v) for k, v in fields.items()} if isinstance(fields, Mapping) else fields


def discard(path: Path) -> None:
    """Delete a file or folder, where there is one; a kill leaves none of it under its name."""
    with disk_errors(path):
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        away = Path(tempfile.mkdtemp(**named(path, ".tmp")))
        path.replace(away / "was")
    shutil.rmtree(away, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete temporary files in a folder whose writers, processes of this machine, are dead.

    A directory that a kill caught between its old place and its new content is put back.
    """
    with contextlib.suppress(OSError):
        entries = [(entry, _OURS.fullmatch(entry.name)) for entry in os.scandir(folder)]
        for entry, made in entries:
            if made is None or made["host"] != _HOST or _alive(int(made["pid"])):
                continue
            path = Path(entry.path)
            was, place = path / "was", folder / made["name"]
            if path.suffix == ".old" and was.is_dir() and not place.exists():
                was.replace(place)
            shutil.rmtree(path) if entry.is_dir(follow_symlinks=False) else path.unlink()


def finish_moves(path: Path) -> None:
    """Move the record of a file to its place, where a kill came between the two of them."""
    record = path.with_name(path.name + RECORD)
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            made = _OURS.fullmatch(entry.name)
            if made is None or made["name"] != _short(record.name):
                continue
            with contextlib.suppress(ProbekitError, KeyError, TypeError):
                found = read_json(Path(entry.path), OutputError, "")["output"]
                if path.is_file() and found["sha256"] == digest_file(path):
                    Path(entry.path).replace(record)


def lock_name(path: Path) -> Path:
    """Return the file that a process holds while it writes to `path`."""
    return path.with_name(f".{_short(path.name)}.probekit-lock")


def named(path: Path, suffix: str) -> dict[str, Any]:
    """Return the arguments of `tempfile` for a name that tells what is written, and by whom."""
    prefix = f".{_short(path.name)}.probekit-{_HOST}-{os.getpid()}-"
    return {"prefix": prefix, "suffix": suffix, "dir": path.parent}


def _short(name: str) -> str:
    """Return a name that leaves room for what is put around it."""
    if len(name.encode()) <= 160:
        return name
    return f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _move(new: Path, path: Path, *, replace: bool) -> None:
    """Move a file or directory to its place in one step, and sync the folder."""
    if new.is_dir() and path.is_dir() and replace:
        _swap(new, path)
    elif replace:
        new.replace(path)
    elif new.is_dir():
        _keep(new, path) if path.exists() else new.rename(path)
    else:
        try:
            os.link(new, path)
        except FileExistsError:
            _keep(new, path)
        except OSError:  # no links on this file system
            _keep(new, path) if path.exists() else new.rename(path)
    _sync(path.parent)


def _keep(new: Path, path: Path) -> None:
    """Keep a result whose place was taken while it was made."""
    kept = path.with_name(f"{_short(path.stem)}.unsaved-{os.getpid()}{path.suffix}")
    new.rename(kept)
    raise OutputError(
        f"{path}: appeared while this command ran, and is not replaced without --force. The result is "
        f"{kept}."
    )


def _swap(new: Path, path: Path) -> None:
    """Put a directory in the place of another, which its writer deletes."""
    if _exchange(new, path):
        return
    away = Path(tempfile.mkdtemp(**named(path, ".old")))  # `sweep` puts it back after a kill
    path.replace(away / "was")
    new.replace(path)
    shutil.rmtree(away, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two paths in one step, as Linux can; return whether it was done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(rename(_CWD, os.fsencode(a), _CWD, os.fsencode(b), _EXCHANGE) == 0)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # folders, on some file systems
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
