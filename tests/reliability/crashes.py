"""Kill every command at each of its file operations, run it again, and count what comes of it.

python -m tests.reliability.crashes

A command runs in a child that kills itself (SIGKILL, nothing is cleaned up) just before its n-th operation
on a file: open for writing, rename, link, remove, make or remove a folder, cut, sync. Then it is run with
`--resume`, where it has that, and else plainly; a whole result may be there already. Prints a table: the same
content by either, by neither (lost), stuck (only `--force` helps), files left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import probekit.studies.knowledge_awareness as declared
from probekit.cli.main import main as command_line
from probekit.studies import Setting, Study
from tests.reliability.flips import of_store

VOLATILE = {
    "created", "argv", "arguments", "seconds", "checksum", "sha256", "size", "versions", "time",
    "output", "run", "inputs", "tokens_per_second", "paths", "logs",
    "seconds_reading", "seconds_writing", "seconds_learning",
}  # fmt: skip
"""Keys that say when, how fast and in which words; digests of files that hold such keys."""
OUTCOMES = ("resumed", "again", "whole", "lost", "stuck", "left")
RECIPE = """
name = "letters"
class_tag = "half"
max_new_tokens = 3
samples = 2
unfinished = "keep"
min_words = 1
[variants.plain]
[variants.odd]
system = "be odd"
[classes.0]
chosen = "plain"
rejected = "odd"
[classes.1]
chosen = "odd"
rejected = "plain"
"""


@dataclass(frozen=True)
class Command:
    """A command line, and whether it goes on with interrupted work."""

    name: str
    arguments: list[str]
    output: str
    """Name of what it writes, in a folder of its own."""
    resumes: bool = False
    prepared: Callable[[Path], object] = lambda folder: None
    """Puts into the folder what is there before."""
    forced: bool = False
    """Whether what is there is to be replaced."""


class Inputs:
    """What the commands read: a tiny model, rows, a store, a fit."""

    def __init__(self, folder: Path) -> None:
        from tests.steering.conftest import labelled
        from tests.tiny import save_tiny

        self.folder, self.model = folder, save_tiny(folder / "model")
        rows = [
            {"id": r.id, "group": r.group, "prompt": f"say {r.id}", "completion": r.completion,
             "label": r.label}
            for r in labelled()
        ]  # fmt: skip
        pairs = [
            {"prompt": "say", "chosen": "ab " * (2 + k % 3), "rejected": "xy " * (2 + k % 3),
             "group": f"g{k}"}
            for k in range(40)
        ]  # fmt: skip
        prompts = [
            {"id": f"p{k}", "prompt": "go" + "o" * k, "group": f"g{k}", "tags": {"half": str(k % 2)}}
            for k in range(8)
        ]  # fmt: skip
        for name, written in (("rows", rows), ("pairs", pairs), ("prompts", prompts)):
            text = "".join(json.dumps(row) + "\n" for row in written)
            (folder / f"{name}.jsonl").write_text(text)
        (folder / "recipe.toml").write_text(RECIPE)
        for name in ("rows", "pairs"):
            store = "acts" if name == "rows" else name
            lines = (
                f"cache --model {self.model} --data {folder}/{name}.jsonl --positions mean "
                f"--out {folder}/{store}.h5",
                f"fit {folder}/{store}.h5 --out {folder}/{'fit' if name == 'rows' else 'pairs-fit'}",
            )
            for line in lines:
                assert execute(shlex.split(line), folder / "log") == 0, (folder / "log").read_text()

        self._study(folder)

    def _study(self, folder: Path) -> None:
        """Put a study of two stages in the place of the shipped one, and run it."""

        def stages(s: Setting) -> None:
            store = s.stage(
                "cache", "cache", "--data", folder / "rows.jsonl", "--positions", "mean", "--limit", "20",
                *s.with_model, output="acts.h5",
            )  # fmt: skip
            s.stage("fit", "fit", store, *s.with_seed)

        template = folder / "small.html.j2"
        template.write_text(
            '{% extends "study.html.j2" %}{% block title %}Two stages{% endblock %}'
        )
        declared.STUDY = Study(
            "knowledge-awareness", stages, declared.FULL, declared.QUICK, template
        )
        line = ["study", "knowledge-awareness", "--model", str(self.model), "--out"]
        assert execute([*line, str(folder / "study")], folder / "log") == 0

    def commands(self) -> dict[str, Command]:
        """Return the commands by name."""
        at = self.folder
        lines = {
            "cache acts.h5": (
                "cache MODEL --data AT/rows.jsonl --positions last,all --limit 12 --batch-tokens 100"
            ),
            "fit fit": "fit AT/acts.h5",
            "sample rows.jsonl": "sample MODEL PROMPTS --samples 2 --max-new-tokens 3 --batch 4",
            "elicit pairs": "elicit MODEL PROMPTS --recipe AT/recipe.toml",
            "score scores.jsonl": "score FIT --data AT/rows.jsonl --limit 6",
            "steer steered": (
                "steer FIT PROMPTS --coeff -1:1:1 --samples 1 --max-new-tokens 3 --limit 4 "
                "--random-controls 1 --shuffled-controls 1 --placebo-controls 0"
            ),
            "rl run": (
                "rl FIT PROMPTS --steps 2 --prompts-per-step 2 --group 2 --max-new-tokens 3 --eval-every 1 "
                "--eval-prompts 2 --eval-samples 2 --rank 2 --placebo-heads 0"
            ),
            "dynamics dynamics": "dynamics --probe AT/pairs-fit --steps 20",
            "study study": "study knowledge-awareness MODEL",
            "split split": "data split FIT --prompts AT/rows.jsonl",
            "report page.html": "report AT/fit",
        }
        words = {
            "MODEL": f"--model {self.model}", "FIT": f"--probe {at}/fit", "AT": str(at),
            "PROMPTS": f"--prompts {at}/prompts.jsonl",
        }  # fmt: skip
        made = []
        for names, line in lines.items():
            name, output = names.split()
            for key, text in words.items():
                line = line.replace(key, text)
            resumes = name in ("cache", "sample", "elicit", "steer", "rl")
            made.append(Command(name, shlex.split(line), output, resumes))
        old: dict[str, tuple[str, Callable[[Path], object]]] = {
            "fit, replaced": ("fit", lambda to: shutil.copytree(at / "fit", to / "fit")),
            "study, replaced": ("study", lambda to: shutil.copytree(at / "study", to / "study")),
            "cache, replaced": ("cache", lambda to: shutil.copy(at / "acts.h5", to / "acts.h5")),
        }
        by_name = {command.name: command for command in made}
        for name, (like, prepared) in old.items():
            of = by_name[like]
            by_name[name] = Command(
                name, of.arguments, of.output, of.resumes, prepared, forced=True
            )
        return by_name


def execute(arguments: list[str], log: Path, root: Path | None = None, at: int = 0) -> int:
    """Run a command line in a child; return its exit status, or minus the signal that ended it.

    Before operation `at` on a file below `root` the child kills itself. How many there were is written to
    `LOG.count`.
    """
    pid = os.fork()
    if pid == 0:
        status, watch = 99, _Watch(str(root), at)
        with contextlib.suppress(RuntimeError):
            torch.set_num_threads(1)  # the first such call after a fork fails, later ones do not
        try:
            with (
                log.open("a") as out,
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
            ):
                if root is not None:
                    watch.start()
                try:
                    command_line(arguments)
                    status = 0
                except SystemExit as error:
                    status = error.code if isinstance(error.code, int) else int(bool(error.code))
        except BaseException as error:  # noqa: BLE001 - a child ends here, whatever it is
            status = 99
            watch.at = 0
            log.with_suffix(".error").write_text(repr(error))
        finally:
            n, watch.at = watch.n, 0
            log.with_suffix(".count").write_text(str(n))
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class _Watch:
    """Counts operations on files below a folder, and kills the process before one of them."""

    NAMES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"})

    def __init__(self, root: str, at: int) -> None:
        self.root, self.at, self.n = root, at, 0

    def start(self) -> None:
        sys.addaudithook(self._audit)
        sync = os.fsync

        def fsync(handle: int) -> None:
            self._one()
            sync(handle)

        os.fsync = fsync

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._on(os.fsdecode(path))
        elif event in self.NAMES and isinstance(arguments[0], (str, bytes, os.PathLike)):
            self._on(os.fsdecode(arguments[0]))

    def _on(self, path: str) -> None:
        # A name without a folder is of a folder that is being removed.
        if path.startswith(self.root) or os.sep not in path:
            self._one()

    def _one(self) -> None:
        self.n += 1
        if self.n == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def content(path: Path) -> str:
    """Return a digest of what an output says, without times and words of the command line."""
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        if file.name == "digests.json" or file.suffix == ".html" and path.is_dir():
            continue
        found.update(b"" if file == path else str(file.relative_to(path)).encode())
        if file.suffix == ".h5":
            found.update(of_store(file).encode())
        elif file.suffix in (".json", ".jsonl"):
            whole = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
            for text in whole:
                found.update(json.dumps(_steady(json.loads(text)), sort_keys=True).encode())
        elif file.suffix != ".html":
            found.update(file.read_bytes())
    return found.hexdigest()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in VOLATILE}
    return [_steady(item) for item in value] if isinstance(value, list) else value


class Trials:
    """Kills one command at its operations.

    Parameters
    ----------
    command
        The command.
    folder
        Where it writes: a new folder for each trial.
    """

    def __init__(self, command: Command, folder: Path) -> None:
        self.command, self.folder = command, folder
        folder.mkdir(exist_ok=True)
        root = self._fresh("whole")
        force = ["--force"] if command.forced else []
        assert self._run(root, *force) == 0, self._said(root)
        self.n = int((folder / "whole.count").read_text())
        self.expected, self.files = content(root / command.output), self._files(root)

    def at(self, number: int) -> tuple[str, str]:
        """Kill before one operation and run again; return the outcome and what was said."""
        root = self._fresh(f"k{number}")
        force = ["--force"] if self.command.forced else []
        code = self._run(root, *force, at=number)
        assert code in (0, -signal.SIGKILL), (code, self._said(root))
        outcome = self._again(root, force)
        said = self._said(root)
        left = sorted(self._files(root) - self.files)
        if outcome in ("resumed", "again", "whole"):
            if content(root / self.command.output) != self.expected:
                outcome = "lost"
            elif left:
                outcome, said = "left", str(left)
        shutil.rmtree(root)
        return outcome, said

    def _again(self, root: Path, force: list[str]) -> str:
        if self.command.resumes and self._run(root, "--resume") == 0:
            return "resumed"
        if self._run(root, *force) == 0:
            return "again"
        words = self._said(root).splitlines()[-1]
        if "already exists" in words or "is whole already" in words:
            return "whole"
        return "stuck"

    def _fresh(self, name: str) -> Path:
        root = self.folder / name
        root.mkdir()
        self.command.prepared(root)
        return root

    def _run(self, root: Path, *more: str, at: int = 0) -> int:
        words = [*self.command.arguments, "--out", str(root / self.command.output), *more]
        return execute(words, self.folder / f"{root.name}.log", root, at)

    def _said(self, root: Path) -> str:
        logs = [self.folder / f"{root.name}.{end}" for end in ("log", "error")]
        return "".join(log.read_text() for log in logs if log.is_file()).strip()

    def _files(self, root: Path) -> set[str]:
        return {file.relative_to(root).as_posix() for file in root.rglob("*")}


def run(
    folder: Path, *, every: int = 1, only: str = "", seconds: float = 1e9,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Counter[str]]:  # fmt: skip
    """Return command to outcomes; `tell` is given a line for each that must not be."""
    torch.set_num_threads(1)
    found: dict[str, Counter[str]] = {}
    for name, command in Inputs(folder).commands().items():
        if only and only not in name:
            continue
        trials, counts = Trials(command, folder / f"trials of {name}"), Counter[str]()
        counts["points"], until = trials.n, time.monotonic() + seconds
        for number in range(1, trials.n + 1, every):
            outcome, said = trials.at(number)
            counts[outcome] += 1
            if outcome in ("lost", "stuck", "left"):
                tell(f"{name}: {outcome} at {number} of {trials.n}: {said[-400:]}")
            if time.monotonic() > until:
                break
        found[name] = counts
        tell(f"| {name} | {' | '.join(str(counts[key]) for key in ('points', *OUTCOMES))} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="Kill at every n-th operation only.")
    parser.add_argument("--seconds", type=float, default=1e9, help="Longest time of a command.")
    parser.add_argument("--only", default="", help="Commands with this in their name.")
    options = parser.parse_args()
    sys.stdout.write(f"| command | {' | '.join(('points', *OUTCOMES))} |\n")
    with tempfile.TemporaryDirectory() as folder:
        run(
            Path(folder), every=options.every, only=options.only, seconds=options.seconds,
            tell=lambda line: (sys.stdout.write(line + "\n"), sys.stdout.flush())[0],
        )  # fmt: skip


if __name__ == "__main__":
    main()
