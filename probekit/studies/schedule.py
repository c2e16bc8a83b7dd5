"""The stages of a study run in turn, or several at once in processes that share the cores."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from probekit.container import disk_errors
from probekit.errors import ProbekitError
from probekit.foreign import child
from probekit.studies.stages import Progress, Stage

PAUSE = 0.2
"""Seconds between two looks at what is running."""
LINES = 3
"""Last lines of a failed stage's log that the error repeats."""


def run_in_turn(
    progress: Progress, *, execute: Callable[[list[str]], None], log: Callable[[str], None]
) -> None:
    """Run what is not done, one stage after the other in this process.

    Parameters
    ----------
    progress
        Record of the study.
    execute
        Runs one command line of probekit.
    log
        Called with a line when a stage begins.
    """
    stages = progress.stages
    for number, stage in enumerate(stages, start=1):
        arguments = stage.arguments()
        words = f"[{number}/{len(stages)}] probekit {shlex.join(arguments)}"
        if progress.is_done(stage, arguments):
            log(f"{words}\n  is done")
            continue
        log(words)
        command, begun = progress.begin(stage, arguments), time.perf_counter()
        try:
            execute(command)
        except BaseException:
            progress.end(stage, "failed", time.perf_counter() - begun)
            raise
        progress.end(stage, "done", time.perf_counter() - begun)


@dataclass(frozen=True)
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    threads: int
    begun: float
    log: Path


class Schedule:
    """Runs what is not done, `jobs` stages at a time, each as soon as what it reads is there.

    A step of a small model leaves a second thread waiting, so two processes of one thread do more than
    one of two. A stage that others wait for goes before those that nothing waits for; a stage that runs
    alone gets all cores.

    Parameters
    ----------
    progress
        Record of the study.
    jobs
        Stages at a time.
    log
        Called with a line when a stage begins and when it ends.
    cores
        Cores to share out, by default all that this process may use.
    """

    def __init__(
        self,
        progress: Progress,
        *,
        jobs: int,
        log: Callable[[str], None],
        cores: int | None = None,
    ) -> None:
        self._progress, self._jobs, self._log = progress, jobs, log
        self._cores = cores or _cores()
        self._folder = progress.path.parent / "logs"
        self._running: list[_Running] = []
        self._done: set[str] = set()
        self._ready: dict[str, Stage] = {}

    def run(self) -> None:
        """Run the stages to the end.

        Raises
        ------
        ProbekitError
            When a stage failed; those beside it are run to their end first.
        """
        waiting, failed = list(self._progress.stages), ""
        try:
            while self._running or ((waiting or self._ready) and not failed):
                if not failed:
                    waiting = self._begin(waiting)
                failed = self._collect() or failed
                if self._running:
                    time.sleep(PAUSE)
        except BaseException as error:
            # A stage saves its step at either.
            self._stop(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
            raise
        if failed:
            raise ProbekitError(failed)

    def _begin(self, waiting: Sequence[Stage]) -> list[Stage]:
        """Begin what can begin; return what still waits for others."""
        left = []
        for stage in waiting:
            if not set(stage.reads) <= self._done:
                left.append(stage)
            elif self._progress.is_done(stage, stage.arguments()):
                self._say(stage, "is done")
                self._done.add(stage.name)
            else:
                self._ready[stage.name] = stage
        ready = list(self._ready.values())
        first = [s for s in ready if any(s.name in other.reads for other in left)] or ready
        for place, stage in enumerate(first):
            free = self._cores - sum(item.threads for item in self._running)
            places = self._jobs - len(self._running)
            if not places or (self._running and free < 1):
                break
            self._start(stage, max(1, free // min(places, len(first) - place)))
            del self._ready[stage.name]
        return left

    def _start(self, stage: Stage, threads: int) -> None:
        arguments = stage.arguments()
        path = self._folder / f"{stage.name.replace('/', '-')}.log"
        self._say(stage, f"probekit {shlex.join(arguments)}\n  log: {path}")
        command = self._progress.begin(stage, arguments)
        words, environment = child("-m", "probekit", *command, OMP_NUM_THREADS=str(threads))
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as handle:
                process = subprocess.Popen(
                    words, env=environment,
                    stdin=subprocess.DEVNULL, stdout=handle, stderr=subprocess.STDOUT,
                    # A session of its own: Ctrl-C reaches it once, through `_stop`, and it saves its step.
                    start_new_session=True,
                )  # fmt: skip
        self._running.append(_Running(stage, process, threads, time.perf_counter(), path))

    def _collect(self) -> str:
        """Take note of what has ended; return what to say of one that failed."""
        failed = ""
        for item in [item for item in self._running if item.process.poll() is not None]:
            self._running.remove(item)
            seconds, code = time.perf_counter() - item.begun, item.process.returncode
            self._progress.end(item.stage, "failed" if code else "done", seconds)
            self._say(item.stage, f"failed (exit {code})" if code else f"took {seconds:.0f} s")
            if code:
                lines = item.log.read_text(encoding="utf-8", errors="replace").splitlines()
                failed = (
                    f"stage {item.stage.name}: failed (exit {code}) with: {' / '.join(lines[-LINES:])} "
                    f"Its log is {item.log}; run the same command again to go on."
                )
            else:
                self._done.add(item.stage.name)
        return failed

    def _stop(self, number: signal.Signals) -> None:
        """Send a signal to what is running, and wait for it."""
        for item in self._running:
            item.process.send_signal(number)
        try:
            for item in self._running:
                item.process.wait()
        finally:
            for item in self._running:
                item.process.kill()
                state = "failed" if item.process.wait() else "done"
                self._progress.end(item.stage, state, time.perf_counter() - item.begun)

    def _say(self, stage: Stage, words: str) -> None:
        number = self._progress.stages.index(stage) + 1
        self._log(f"[{number}/{len(self._progress.stages)}] {stage.name}: {words}")


def _cores() -> int:
    """Return the cores that this process may use, where the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
