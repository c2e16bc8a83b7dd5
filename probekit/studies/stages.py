"""Stages of a study: ordinary commands in order, skipped where their output is there and valid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPEED = ("--device", "--threads", "--batch-tokens")
"""Options that say how fast a stage runs, and not what it does."""
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
    reads: tuple[str, ...] = ()
    """Names of the stages whose output it reads, all of them before it."""

    def is_whole(self) -> bool:
        """Return whether the output is there to its end."""
        return (self.output if self.output.suffix else self.output / self.marker).exists()


class Progress:
    """`study.json`: which stages are done, by which command lines, from which inputs, in how many seconds.

    Every run of a stage has a number, and every stage keeps the numbers of the runs that it read. So a
    stage is run again when something that it reads ran again, and only then.

    Parameters
    ----------
    path
        Of the file.
    about
        What else the file says of the study.
    stages
        Of the study, in order.
    """

    def __init__(self, path: Path, about: dict[str, Any], stages: Sequence[Stage]) -> None:
        self.path, self.about, self.stages = path, about, list(stages)
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self._items: dict[str, dict[str, Any]] = {i["name"]: i for i in known.get("stages", [])}
        self._save()

    def is_done(self, stage: Stage, arguments: Sequence[str]) -> bool:
        """Return whether a stage was done by this command line from inputs that are still the same."""
        known = self._items.get(stage.name, {})
        return known.get("state") == "done" and self._is_of(stage, arguments) and stage.is_whole()

    def continues(self, stage: Stage, arguments: Sequence[str]) -> bool:
        """Return whether a stage was begun by this command line from these inputs and can go on."""
        known = self._items.get(stage.name, {})
        begun = known.get("state", "done") != "done" and self._is_of(stage, arguments)
        return stage.resumes and begun and not stage.is_whole()

    def how(self, stage: Stage, arguments: Sequence[str]) -> str:
        """Return the option that a stage is run with: it goes on where it can, else it begins anew."""
        return "--resume" if self.continues(stage, arguments) else "--force"

    def begin(self, stage: Stage, arguments: Sequence[str]) -> None:
        """Write that a stage is running; the seconds of one that goes on are added up."""
        known = self._items.get(stage.name, {})
        spent = known.get("seconds", 0.0) if self.continues(stage, arguments) else 0.0
        number = 1 + max((item.get("run", 0) for item in self._items.values()), default=0)
        self._items[stage.name] = {
            "name": stage.name, "argv": list(arguments), "state": "running", "seconds": spent,
            "run": number, "inputs": self._inputs(stage),
        }  # fmt: skip
        self._save()

    def end(self, stage: Stage, state: str, seconds: float) -> None:
        """Write that a stage is `done` or `failed`, after how many seconds more."""
        item = self._items[stage.name]
        item |= {"state": state, "seconds": item["seconds"] + seconds}
        self._save()

    def _is_of(self, stage: Stage, arguments: Sequence[str]) -> bool:
        known = self._items.get(stage.name, {})
        same = self._what(stage, known.get("argv", ())) == self._what(stage, arguments)
        return same and known.get("inputs") == self._inputs(stage)

    def _what(self, stage: Stage, arguments: Sequence[str]) -> list[str]:
        """Return a command line without where the study lies, and without options of speed."""
        words = list(arguments)
        place = stage.output.relative_to(self.path.parent).as_posix()
        out = words[words.index("--out") + 1] if "--out" in words else ""
        if out.endswith(place):
            root = out.removesuffix(place)
            words = [word.replace(root, "", 1) if word.startswith(root) else word for word in words]
        for option in SPEED:
            if option in words:
                at = words.index(option)
                del words[at : at + 2]
        return words

    def _inputs(self, stage: Stage) -> dict[str, int]:
        """Return the numbers of the runs that made what a stage reads."""
        return {name: int(self._items[name]["run"]) for name in stage.reads}

    def _save(self) -> None:
        from probekit.container import write_json

        shown = [self._items[s.name] for s in self.stages if s.name in self._items]
        write_json(self.path, {**self.about, "stages": shown})
