"""A run on disk: its logs, its checkpoint, whole or not at all, and interrupts that wait for one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from probekit.container import atomic_directory, disk_errors, sweep, write_json
from probekit.digests import DIGESTS, check_directory, write_digests
from probekit.errors import OutputError
from probekit.outputs import ENDS
from probekit.parsing import object_of, read_json, read_jsonl, read_tensors
from probekit.results.rl_files import BEST_OF, EVALUATIONS, SAMPLES, STEPS
from probekit.results.table import Table
from probekit.rl.learner import Learner
from probekit.rl.policy import AGAIN, AnyPolicy
from probekit.rl.refit import Refitter

LOGS = tuple(table.file for table in (STEPS, EVALUATIONS, SAMPLES))


class Logs:
    """The files that a run appends rows to: metrics of steps, evaluations and their samples.

    Parameters
    ----------
    folder
        The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, table: Table) -> list[dict[str, Any]]:
        """Return the rows of a file; none where it is not there yet."""
        path = self.folder / table.file
        return read_jsonl(path, OutputError, AGAIN) if path.exists() else []

    def append(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows at the end of a file, NaN as null."""
        path = self.folder / table.file
        with disk_errors(path), path.open("a", encoding="utf-8") as handle:
            handle.write(table.lines(rows))

    def seal(self, sizes: Mapping[str, int] | None = None) -> None:
        """Write the digests of what the files hold by now, or of their first bytes; they may grow on."""
        with disk_errors(self.folder):
            names = [name for name in (*LOGS, BEST_OF.file) if (self.folder / name).is_file()]
            write_digests(self.folder, names, growing=LOGS, sizes=sizes or {})

    def sync(self) -> None:
        """Let what the files hold be on the disk: a checkpoint says how long they are."""
        for path in filter(Path.is_file, (self.folder / name for name in LOGS)):
            with disk_errors(path), path.open("rb+") as handle:
                os.fsync(handle.fileno())

    def first_step(self) -> dict[str, Any] | None:
        """Return the row of the run's first step; None before it is written."""
        path = self.folder / STEPS.file
        if not _size(path):
            return None
        with path.open("rb") as handle:
            return object_of(handle.readline(), f"{path}:1", OutputError, AGAIN)

    def last_evaluation(self) -> int:
        """Return the step of the last evaluation, -1 without one; samples of a later one are dropped."""
        last = max((int(row["step"]) for row in self.read(EVALUATIONS)), default=-1)
        samples = self.read(SAMPLES)
        kept = [row for row in samples if int(row["step"]) <= last]
        if len(kept) < len(samples):
            lines = (self.folder / SAMPLES.file).read_bytes().split(b"\n")[: len(kept)]
            size = sum(len(line) + 1 for line in lines)
            self.seal({SAMPLES.file: size})
            _cut(self.folder / SAMPLES.file, size)
        return last


class Checkpoint:
    """The last checkpoint of a run, in `FOLDER/checkpoint`.

    All randomness of a run is a function of seed and step, so no random state has to be kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "checkpoint"

    def save(
        self, policy: AnyPolicy, learner: Learner, step: int, refitter: Refitter | None = None
    ) -> None:
        """Replace the checkpoint; the old one stays until the new one is whole."""
        from safetensors.torch import save_file

        Logs(self.folder).sync()
        with atomic_directory(self.path, force=True) as target:
            policy.save(target / "adapter")
            state, numbers = _flat(learner.optimizer.state_dict())
            save_file(state, target / "optimizer.safetensors")
            outputs = None
            if refitter is not None:
                tensors, outputs = refitter.state()
                save_file(tensors, target / "heads.safetensors")
            sizes = {name: _size(self.folder / name) for name in LOGS}
            header = {
                "step": step,
                "optimizer": numbers,
                "entropy": learner.entropy_weight.state(),
                "logs": sizes,
                "outputs": outputs,
            }
            write_json(target / "checkpoint.json", header)
        # Later than the checkpoint: what is resumed from it is at least as long as what is listed.
        Logs(self.folder).seal()

    def save_best(self, policy: AnyPolicy, step: int) -> None:
        """Keep the policy as the best one so far."""
        with atomic_directory(self.folder / "best", force=True) as target:
            policy.save(target / "adapter")
            write_json(target / "best.json", {"step": step})

    def load(self, policy: AnyPolicy, learner: Learner, refitter: Refitter | None = None) -> int:
        """Put policy and optimiser where they were, cut the logs there; return the steps done.

        Returns 0, with nothing changed, when there is no checkpoint.
        """
        sweep(self.folder)
        if not (self.path / "checkpoint.json").is_file():
            for name in (DIGESTS, *LOGS):
                (self.folder / name).unlink(missing_ok=True)
            return 0
        check_directory(self.path, OutputError, AGAIN)
        check_directory(self.folder, OutputError, AGAIN)
        header = read_json(self.path / "checkpoint.json", OutputError, AGAIN)
        policy.load(self.path / "adapter")
        tensors = read_tensors(self.path / "optimizer.safetensors", OutputError, AGAIN)
        learner.optimizer.load_state_dict(_nested(tensors, header["optimizer"]))
        if "entropy" in header:  # checkpoints older than it had one weight throughout
            learner.entropy_weight.load_state(header["entropy"])
        if refitter is not None:
            heads = read_tensors(self.path / "heads.safetensors", OutputError, AGAIN)
            refitter.load_state(heads, header["outputs"])
        cut_logs(self.folder, header["logs"])
        return int(header["step"])


def cut_logs(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut a run's logs to the bytes that they had at a checkpoint; no other file that it may name.

    Raises
    ------
    OutputError
        When one is shorter.
    """
    own = {name: int(sizes[name]) for name in LOGS if name in sizes}
    for name, size in own.items():
        if _size(folder / name) < size:
            raise OutputError(
                f"{folder / name}: has {_size(folder / name)} bytes, {size} were written before the "
                f"checkpoint. Put a whole copy of it back. {AGAIN}"
            )
    # Before they are shorter: a run that is killed in between finds what the digests promise.
    Logs(folder).seal(own)
    for name, size in own.items():
        _cut(folder / name, size)


def _cut(path: Path, size: int) -> None:
    with disk_errors(path), path.open("ab") as handle:
        handle.truncate(size)
        os.fsync(handle.fileno())


def _flat(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of an optimiser's state by name, and the rest of it."""
    tensors = {
        f"{index}/{key}": value.contiguous()
        for index, values in state["state"].items()
        for key, value in values.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def _nested(tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": rest["param_groups"]}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Interrupts:
    """Holds what ends a process back while the block lasts, until `check` is called.

    In another thread than the main one signals cannot be caught, and nothing is held back; nor where
    the process was told to ignore a signal (nohup).

    Parameters
    ----------
    notify
        Called when an interrupt is held back.
    """

    def __init__(self, notify: Callable[[], None] = lambda: None) -> None:
        self._notify, self._waiting = notify, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *ENDS):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._hold)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Let a signal that has been held back do what it would have done: `KeyboardInterrupt`, an exit."""
        if self._waiting:
            signal.signal(self._waiting, self._before[self._waiting])
            signal.raise_signal(self._waiting)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            self.check()
        self._waiting = number
        self._notify()
