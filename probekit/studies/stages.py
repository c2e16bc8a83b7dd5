"""Stages of a study: ordinary commands with inputs and outputs, and the record of which are done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probekit import __version__
from probekit.container import write_json
from probekit.errors import OutputError
from probekit.parsing import read_json
from probekit.results.runs import HEARTS

SPEED = ("--device", "--threads", "--batch-tokens")
"""Options that change how fast a stage runs, and not its result."""
LAST_FILE = {**HEARTS, "rl": "goodhart.json", "data": "held_out.jsonl"}
"""Command to the file of its output directory that it writes last; `run.json` for all others."""
RESUMABLE = frozenset({"elicit", "sample", "cache", "steer", "dpo", "rl"})
"""Commands that take `--resume`."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One command of a study.

    A stage in the command of another is the path of its output there, `stage / "pairs.jsonl"` a path
    inside it, and `stage.after(words)` gives words that only its result tells. So what a stage reads
    follows from its command.

    Examples
    --------
    >>> cache = Stage("cache", ["cache", "--data", "demo:sentiment"], Path("out/acts.h5"))
    >>> fit = Stage("fit", ["fit", cache, "--seed", "0"], Path("out/fit"))
    >>> fit.reads
    ('cache',)
    >>> " ".join(fit.arguments())
    'fit out/acts.h5 --seed 0 --out out/fit'
    """

    name: str
    command: Sequence[Word]
    """Its command line without `--out`; a `Path` is a file from outside of the study."""
    output: Path
    """Its file (a name with a suffix) or directory."""

    def __truediv__(self, name: str) -> Made:
        return Made(self, lambda output: [str(output / name)])

    def after(self, words: Callable[[Path], list[str]]) -> Made:
        """Return words of a later command that are worked out from this stage's output."""
        return Made(self, words)

    def arguments(self) -> list[str]:
        """Return the whole command line; what it reads has to be there."""
        words: list[str] = []
        for word in self.command:
            match word:
                case Stage():
                    words.append(str(word.output))
                case Made():
                    words += word.words(word.stage.output)
                case _:
                    words.append(str(word))
        return [*words, "--out", str(self.output)]

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the stages whose output it reads."""
        makers = (word.stage if isinstance(word, Made) else word for word in self.command)
        return tuple(dict.fromkeys(word.name for word in makers if isinstance(word, Stage)))

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that it reads and no stage wrote."""
        return tuple(word for word in self.command if isinstance(word, Path))

    @property
    def resumes(self) -> bool:
        """Whether its command goes on with interrupted work."""
        return self.command[0] in RESUMABLE

    def is_whole(self) -> bool:
        """Return whether the output is there to its end."""
        marker = LAST_FILE.get(str(self.command[0]), "run.json")
        return (self.output if self.output.suffix else self.output / marker).exists()


@dataclass(frozen=True, eq=False)
class Made:
    """Words of a command that depend on the output of a stage."""

    stage: Stage
    words: Callable[[Path], list[str]]


Word = str | Path | Stage | Made


@dataclass(frozen=True)
class Setting:
    """What the stages of one run of a study share."""

    out: Path
    """Directory of the study."""
    model: str
    """Name, hub id or directory."""
    seed: int
    """Seed of every stage."""
    size: Any
    """How much of everything: the study's own `full` or `quick`."""
    recipe: str = ""
    """Recipe of `probekit elicit`, by name or file."""
    options: tuple[str, ...] = ()
    """Options of every command that runs the model, such as `--device cuda`."""
    data: str | Path = ""
    """Rows of a study that takes some: `demo:` or `hf:` and a name, or a file."""
    models: tuple[str, ...] = ()
    """Further models to compare."""
    scale: str = ""
    """Ends of the ratings' scale, LOW:HIGH."""
    stages: list[Stage] = field(default_factory=list)
    """The stages so far, in order."""

    def stage(self, name: str, *command: Word, output: str = "") -> Stage:
        """Add a stage whose output lies at `output` (at its name by default) in the study's directory."""
        made = Stage(name, command, self.out / (output or name))
        self.stages.append(made)
        return made

    @property
    def with_model(self) -> tuple[str, ...]:
        """Options of a command that runs the model."""
        return ("--model", self.model, *self.options)

    @property
    def with_seed(self) -> tuple[str, ...]:
        """Options of a command that draws."""
        return ("--seed", str(self.seed))


class Progress:
    """`study.json`: which stages are done, by which commands, from which inputs, in how many seconds.

    Every run of a stage has a number, and a stage keeps the numbers of the runs that it read and the
    digests of files from outside. So a stage is run again when its command, an input or the version of
    probekit changed, and only then.

    Parameters
    ----------
    path
        `study.json` in the study's directory.
    about
        What else the file says of the study.
    stages
        The study's stages, in order.
    """

    def __init__(self, path: Path, about: dict[str, Any], stages: Sequence[Stage]) -> None:
        self.path, self.about, self.stages = path, about, list(stages)
        again = "Pass --force to begin the study again, or choose another --out."
        before = read_json(path, OutputError, again) if path.is_file() else {}
        self._items: dict[str, dict[str, Any]] = {i["name"]: i for i in before.get("stages", [])}
        self._save()

    def is_done(self, stage: Stage, arguments: Sequence[str]) -> bool:
        """Return whether a stage was done by this command from inputs that are still the same."""
        done = self._items.get(stage.name, {}).get("state") == "done"
        return done and self._is_same(stage, arguments) and stage.is_whole()

    def continues(self, stage: Stage, arguments: Sequence[str]) -> bool:
        """Return whether a stage was begun by this command from these inputs and can go on."""
        begun = self._items.get(stage.name, {}).get("state", "done") != "done"
        return begun and stage.resumes and self._is_same(stage, arguments) and not stage.is_whole()

    def begin(self, stage: Stage, arguments: Sequence[str]) -> list[str]:
        """Write that a stage runs; return its command with `--resume` where it goes on, else `--force`.

        The seconds of a stage that goes on are added up.
        """
        continues = self.continues(stage, arguments)
        spent = self._items[stage.name]["seconds"] if continues else 0.0
        self._items[stage.name] = {
            "name": stage.name,
            "argv": list(arguments),
            "output": stage.output.relative_to(self.path.parent).as_posix(),
            "state": "running",
            "seconds": spent,
            "run": 1 + max((item.get("run", 0) for item in self._items.values()), default=0),
            "inputs": self._inputs(stage),
            "version": __version__,
        }
        self._save()
        return [*arguments, "--resume" if continues else "--force"]

    def end(self, stage: Stage, state: str, seconds: float) -> None:
        """Write that a stage is `done` or `failed`, after how many seconds more."""
        item = self._items[stage.name]
        item |= {"state": state, "seconds": item["seconds"] + seconds}
        self._save()

    def _is_same(self, stage: Stage, arguments: Sequence[str]) -> bool:
        item = self._items.get(stage.name, {})
        return (
            self._essence(stage, item.get("argv", ())) == self._essence(stage, arguments)
            and item.get("inputs") == self._inputs(stage)
            and item.get("version") == __version__
        )

    def _essence(self, stage: Stage, arguments: Sequence[str]) -> list[str]:
        """Return a command without where the study lies, and without options of speed."""
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

    def _inputs(self, stage: Stage) -> dict[str, int | str]:
        """Return the numbers of the runs that a stage reads, and the digests of files from outside."""
        runs = {name: int(self._items[name]["run"]) for name in stage.reads}
        return {**runs, **{str(path): _digest(path) for path in stage.files}}

    def _save(self) -> None:
        begun = [self._items[s.name] for s in self.stages if s.name in self._items]
        write_json(self.path, {**self.about, "stages": begun})


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, empty where there is none: its command says so."""
    if not path.is_file():
        return ""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
