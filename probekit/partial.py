"""An unfinished piece of work on disk: who holds it, with what settings it was begun."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from probekit.container import disk_errors, write_json
from probekit.errors import OutputError, ProbekitError
from probekit.parsing import read_json
from probekit.provenance import agrees

LOCK = "lock"
"""File of a folder that a process holds."""


@contextmanager
def hold(folder: Path, error: type[ProbekitError] = OutputError) -> Iterator[None]:
    """Make a folder, and keep other processes out of it while the block lasts.

    Raises
    ------
    ProbekitError
        As the class `error`, when another process holds it.
    """
    lock = FileLock(folder / LOCK, blocking=False, thread_local=False)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as cause:
            raise error(
                f"{folder}: another process is working in it. Wait for it or stop it."
            ) from cause
    try:
        yield
    finally:
        lock.release()


class PartialFolder:
    """The folder `OUT.partial` of work in progress; one process at a time may hold it."""

    WORK = "run"
    """What is interrupted, in words."""
    ERROR: type[ProbekitError] = OutputError

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = ExitStack()

    @classmethod
    def path_beside(cls, out: Path) -> Path:
        """Return where the unfinished work of the output `out` lies."""
        return out.with_name(out.name + ".partial")

    def open(self, settings: dict[str, Any], *, resume: bool, force: bool) -> bool:
        """Take the folder for this process; return True when earlier work in it is continued.

        Raises
        ------
        ProbekitError
            When another process holds it, or it holds unfinished work and neither `resume` nor
            `force` was given, or that work was started with other settings.
        """
        known = self.settings() if resume or not force else None
        if known is not None and not resume and not force:
            raise self.ERROR(
                f"{self.path}: an interrupted {self.WORK} is here. Pass --resume to continue it or "
                "--force to start again."
            )
        # `resume` on a folder killed before its settings were written starts anew.
        continued = resume and known is not None
        if continued and known is not None:
            self._same(known, json.loads(json.dumps(settings)))
        self._held.enter_context(hold(self.path, self.ERROR))
        try:
            if not continued:
                self._empty()
                with disk_errors(self.path):
                    write_json(self.path / "settings.json", settings)
        except BaseException:
            self.close()
            raise
        return continued

    def close(self) -> None:
        """Let another process take the folder."""
        self._held.close()

    def remove(self) -> None:
        """Delete the folder; its work is whole."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def settings(self) -> dict[str, Any] | None:
        """Return what the work in the folder was begun with, None where there is none."""
        file = self.path / "settings.json"
        if self.path.exists() and not self.path.is_dir():
            raise self.ERROR(f"{self.path}: is not a folder. Remove it and run again.")
        if not file.is_file():
            return None
        return read_json(file, self.ERROR, f"Pass --force to start the {self.WORK} again.")

    def _same(self, known: dict[str, Any], wanted: dict[str, Any]) -> None:
        for key in sorted(known.keys() | wanted.keys()):
            then, now = ({key: d[key]} if key in d else {} for d in (known, wanted))
            if not agrees(then, now):
                raise self.ERROR(
                    f"{self.path}: was started with {key} {known.get(key)!r}, now "
                    f"{wanted.get(key)!r}. Resume with the same settings, or pass --force."
                )

    def _empty(self) -> None:
        # settings.json first: without it the folder counts as empty.
        (self.path / "settings.json").unlink(missing_ok=True)
        for file in self.path.iterdir():
            if file.name != LOCK:
                file.unlink()
