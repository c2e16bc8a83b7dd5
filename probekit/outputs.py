"""An output is claimed before work begins: it can be written, is no input, and nobody else writes it."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from probekit.container import RECORD, disk_errors, finish_moves, lock_name, sweep
from probekit.digests import DIGESTS, read_digests
from probekit.errors import OutputError
from probekit.parsing import read_json

PARTIAL = ".partial"
"""What the name of the folder ends with in which unfinished work on an output lies."""
ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a process: asked to, or its terminal was closed."""
_HELD: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@contextlib.contextmanager
def claim(
    out: str | Path,
    command: str,
    *,
    force: bool = False,
    resume: bool = False,
    marker: str | None = None,
    keeps: bool = False,
    own: Callable[[Path], bool] = lambda path: False,
    inputs: Iterable[object] = (),
) -> Iterator[Path]:
    """Take an output for this process while the block lasts; give its path, which is no link.

    A claim within one of the same output, in the same thread, is part of that one. What processes that
    were killed left of it is removed.

    Parameters
    ----------
    out
        File or directory to write.
    command
        Command that writes it, as its run record says.
    force
        Whether an earlier output of the same command may be replaced.
    resume
        Whether one may be continued, so that it may be there.
    marker
        A file that every directory of the command holds; None for a single file.
    keeps
        Whether the command leaves what others put into its directory.
    own
        Tells whether a single file without a run record is an output of the command.
    inputs
        What the command reads; only those that are paths count.

    Raises
    ------
    OutputError
        When another process writes it, it is there and may not be replaced, is an input or something
        else than a file or directory, or cannot be written.
    """
    if not str(out):
        raise OutputError("--out: is empty. Expected the name of a file or directory.")
    key = _without_links(Path(out))
    if not key.name:
        raise OutputError(f"{out}: is no place for an output. Choose another --out.")
    linked = os.path.islink(out) or Path(out).name in ("", "..")  # noqa: PTH114 - never raises
    path = key if linked else Path(out)
    if key in _HELD.get():
        yield path
        return
    _check_kind(path, directory=marker is not None)
    _check_inputs(key, inputs)
    with _locked(path, command):
        finish_moves(path)
        sweep(path.parent)
        if path.is_dir():
            sweep(path)
        if path.exists() and not resume:
            _check_replaced(path, command, force=force, marker=marker, keeps=keeps, own=own)
        token = _HELD.set(_HELD.get() | {key})
        try:
            with endings():
                yield path
        finally:
            _HELD.reset(token)


@contextlib.contextmanager
def endings() -> Iterator[None]:
    """Let a signal that ends the process raise `SystemExit`, so that work is put down in order."""
    main = threading.current_thread() is threading.main_thread()
    own = [number for number in ENDS if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in own:
        signal.signal(number, _ended)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, signal.SIG_DFL)


def _ended(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _without_links(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:  # a NUL in the name
        raise OutputError(
            f"{str(path)!r}: is no name of a file ({error}). Choose another."
        ) from error


def _check_kind(path: Path, *, directory: bool) -> None:
    """Refuse an output that is, or whose companions are, something that cannot be replaced by it."""
    companions = (PARTIAL,) if directory else (PARTIAL, RECORD)
    for place in (path, *(path.with_name(path.name + end) for end in companions)):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise OutputError(f"{place}: {error.strerror}. Choose another --out.") from error
        folder = place.name.endswith(PARTIAL) or (directory and place == path)
        if folder and not stat.S_ISDIR(mode):
            what = "a file" if stat.S_ISREG(mode) else "a device, pipe or socket"
            raise OutputError(f"{place}: is {what}, expected a directory. Choose another --out.")
        if not folder and not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
            raise OutputError(f"{place}: is {what}, expected a file. Choose another --out.")


def _check_inputs(path: Path, inputs: Iterable[object]) -> None:
    for name in inputs:
        if not isinstance(name, (str, Path)) or not str(name):
            continue
        try:
            source = Path(os.path.realpath(name))
            there = source.exists()
        except (OSError, ValueError):  # the name of a data set on a hub, a text
            continue
        if there and (source == path or path in source.parents):
            within = "is" if source == path else "holds"
            raise OutputError(
                f"{path}: {within} {name}, which this command reads. It is never replaced; choose "
                "another --out."
            )


@contextlib.contextmanager
def _locked(path: Path, command: str) -> Iterator[None]:
    """Keep other processes from an output; who holds it stands in the lock."""
    made, file = _missing(path.parent), lock_name(path)
    lock = FileLock(file, blocking=False, thread_local=False)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as cause:
            holder = _read(file)
            raise OutputError(
                f"{path}: another process is writing it{holder and f' ({holder})'}. Wait for it, stop it, "
                "or choose another --out."
            ) from cause
    try:
        with disk_errors(path):
            where, now = f"pid {os.getpid()} on {platform.node()}", time.strftime("%Y-%m-%d %H:%M")
            with file.open("w", encoding="utf-8") as handle:
                handle.write(f"probekit {command}, {where}, since {now}")
                handle.flush()
                os.fsync(handle.fileno())  # a disk that is full is found now
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()  # while it is held: whoever waits looks again
        lock.release()
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing was written to it


def _missing(folder: Path) -> list[Path]:
    """Return the folders that have to be made, the innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace")[:200]
    return ""


def _check_replaced(
    path: Path,
    command: str,
    *,
    force: bool,
    marker: str | None,
    keeps: bool,
    own: Callable[[Path], bool],
) -> None:
    """Refuse to replace what is at `path`, unless it may be and the same command wrote it."""
    if not force:
        raise OutputError(f"{path}: already exists. Pass --force to replace it, or another --out.")
    if marker is None:
        if own(path) or _recorded(path.with_name(path.name + RECORD)) == command:
            return
        raise OutputError(
            f"{path}: is not an earlier output of probekit {command} (no run record of it lies beside), "
            "and --force replaces nothing else. Choose another --out, or remove it yourself."
        )
    if not any(path.iterdir()):
        return
    if _recorded(path / "run.json") not in (command, None) or not (path / marker).is_file():
        raise OutputError(
            f"{path}: holds no {marker} of probekit {command}, so it is not an earlier output of this "
            "command, and --force does not replace it. Choose another --out, or remove it yourself."
        )
    if not keeps and (others := _others(path)):
        raise OutputError(
            f"{path}: holds {others[0]}, which probekit {command} did not write. Move it away, or choose "
            "another --out."
        )


def _recorded(file: Path) -> str | None:
    """Return the command that a run record names; None where there is none, or it is damaged."""
    if not file.is_file():
        return None
    try:
        return str(read_json(file, OutputError, "")["command"])
    except (OutputError, KeyError):
        return None


def _others(folder: Path) -> list[str]:
    """Return files of a directory that its digests do not list; none where it has no digests."""
    try:
        listed = read_digests(folder, OutputError)
    except OutputError:  # damaged, which is why it is to be replaced
        return []
    if listed is None:
        return []
    known = {*listed, DIGESTS, "report.html"}
    found = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if name not in known)
