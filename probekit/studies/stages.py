"""Stages of a study: ordinary commands in order, skipped where their output is there and valid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Arguments = Callable[[], list[str]]


@dataclass(frozen=True)
class Stage:
    """One command of a study."""

    name: str
    arguments: Arguments
    """Its command line, known once the stages before it are done."""
    output: Path
    """Its file or directory, named in the command line after `--out`."""
    marker: str = "run.json"
    """The file of a directory that is written last."""
    resumes: bool = False
    """Whether the command takes `--resume`."""

    def is_whole(self) -> bool:
        """Return whether the output is there to its end."""
        return (self.output if self.output.suffix else self.output / self.marker).exists()


class Progress:
    """`study.json`: which stages are done, by which command lines, in how many seconds.

    Parameters
    ----------
    path
        Of the file.
    about
        What else the file says of the study.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self._known = {item["name"]: item for item in known.get("stages", [])}
        self.stages: list[dict[str, Any]] = []

    def is_done(self, stage: Stage, arguments: Sequence[str]) -> bool:
        """Return whether a stage was done by this command line, and so was every one before it."""
        known = self._known.get(stage.name, {})
        same = known.get("state") == "done" and known.get("argv") == list(arguments)
        return same and stage.is_whole() and not any(item["fresh"] for item in self.stages)

    def continues(self, stage: Stage, arguments: Sequence[str]) -> bool:
        """Return whether a stage was begun by this command line and can go on."""
        known = self._known.get(stage.name, {})
        same = known.get("argv") == list(arguments) and not any(i["fresh"] for i in self.stages)
        return stage.resumes and same and known.get("state") != "done" and not stage.is_whole()

    def note(
        self, stage: Stage, arguments: Sequence[str], state: str, seconds: float, *, fresh: bool
    ) -> None:
        """Write where a stage stands.

        Parameters
        ----------
        stage, arguments
            Which, and its command line.
        state
            `running`, `done` or `failed`.
        seconds
            It took.
        fresh
            Whether it ran in this session: the stages after it then have to run again.
        """
        from probekit.container import write_json

        if fresh is False and stage.name in self._known:
            seconds = self._known[stage.name]["seconds"]
        self.stages = [item for item in self.stages if item["name"] != stage.name]
        self.stages.append(
            {
                "name": stage.name,
                "argv": list(arguments),
                "seconds": seconds,
                "state": state,
                "fresh": fresh,
            }
        )
        names = {item["name"] for item in self.stages}
        # What came after a stage that ran again is of an older run, though its files are still there.
        stale = any(item["fresh"] for item in self.stages)
        rest = [] if stale else [i for name, i in self._known.items() if name not in names]
        shown = [{k: v for k, v in item.items() if k != "fresh"} for item in [*self.stages, *rest]]
        write_json(self.path, {**self.about, "stages": shown})
