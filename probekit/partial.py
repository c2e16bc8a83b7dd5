"""An unfinished piece of work on disk, and with what settings it was begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from probekit.container import discard, disk_errors, sweep, write_json
from probekit.errors import OutputError, ProbekitError
from probekit.outputs import PARTIAL
from probekit.parsing import read_json
from probekit.provenance import agrees


class PartialFolder:
    """The folder `OUT.partial` of work in progress; whoever holds the claim on `OUT` may use it."""

    WORK = "run"
    """What is interrupted, in words."""
    ERROR: type[ProbekitError] = OutputError

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, out: Path) -> Self:
        """Return the unfinished work that belongs to the output `out`."""
        return cls(out.with_name(out.name + PARTIAL))

    @property
    def replaces(self) -> bool:
        """Whether the work was begun to replace an output that was there."""
        return (self.path / "replaces").exists()

    def refuse_whole(self, out: Path) -> None:
        """Refuse to resume what is whole; what a kill left of the work is removed."""
        if out.exists() and not self.replaces:
            self.remove()
            raise self.ERROR(f"{out}: is whole already. Leave out --resume, or pass --force.")

    def open(
        self, settings: dict[str, Any], *, resume: bool, force: bool, replaces: bool = False
    ) -> bool:
        """Take the folder; return True when earlier work in it is continued.

        Parameters
        ----------
        settings
            What must be the same for work to be continued.
        resume, force
            Continue earlier work; begin anew.
        replaces
            Whether the output is there and may be replaced, by whoever continues too.

        Raises
        ------
        ProbekitError
            When it holds unfinished work and neither `resume` nor `force` was given, that work was
            started with other settings, or somebody else's files are in it.
        """
        known = self.settings() if resume or not force else None
        if known is not None and not resume and not force:
            raise self.ERROR(
                f"{self.path}: an interrupted {self.WORK} is here. Pass --resume to continue it or "
                "--force to start again."
            )
        # `resume` on a folder killed before its settings were written starts anew.
        if resume and known is not None:
            self._same(known, json.loads(json.dumps(settings)))
            with disk_errors(self.path):
                sweep(self.path)
            return True
        self._check_own()
        discard(self.path)
        with disk_errors(self.path):
            self.path.mkdir(parents=True)
            if replaces:
                (self.path / "replaces").touch()
            write_json(self.path / "settings.json", settings)
        return False

    def remove(self) -> None:
        """Delete the folder; its work is whole."""
        discard(self.path)

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

    def _check_own(self) -> None:
        """Refuse a folder of somebody's own: without settings ours is empty."""
        if not self.path.is_dir() or (self.path / "settings.json").is_file():
            return
        sweep(self.path)
        others = sorted({entry.name for entry in self.path.iterdir()} - {"lock", "replaces"})
        if others and not all(name.startswith(".settings.json.") for name in others):
            raise self.ERROR(
                f"{self.path}: holds {others[0]}, which is no interrupted {self.WORK}. Move it away, or "
                "choose another --out."
            )
