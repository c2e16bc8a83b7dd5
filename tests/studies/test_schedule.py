"""Stages at once: as many as asked for, none before what it reads, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from probekit.errors import ProbekitError
from probekit.outputs import endings
from probekit.studies.schedule import Schedule
from probekit.studies.stages import Progress, Stage

SCRIPT = """
import json, os, sys, time
folder, name, seconds, code = sys.argv[1:5]
with open(folder + "/order", "a") as order:
    print("+", name, os.environ["OMP_NUM_THREADS"], sys.argv[-1], file=order)
try:
    time.sleep(float(seconds))
except KeyboardInterrupt:
    sys.exit(130)
if code != "0":
    sys.exit("line one\\nit broke")
open(folder + "/" + name + ".txt", "w").close()
with open(folder + "/order", "a") as order:
    print("-", name, file=order)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function that makes a study's schedule of commands that sleep."""
    script = tmp_path / "stage.py"
    script.write_text(SCRIPT)
    started = subprocess.Popen

    def popen(words, **options):
        assert words[:4] == [sys.executable, "-P", "-m", "probekit"]
        return started([sys.executable, str(script), *words[4:]], **options)

    monkeypatch.setattr("probekit.studies.schedule.subprocess.Popen", popen)

    def make(*stages, jobs=2, cores=4, said=None):
        made: dict[str, Stage] = {}
        for name, reads, seconds, code in stages:
            words = [
                str(tmp_path),
                name,
                str(seconds),
                str(code),
                *(made[other] for other in reads),
            ]
            made[name] = Stage(name, words, tmp_path / f"{name}.txt")
        progress = Progress(tmp_path / "study.json", {}, list(made.values()))
        log = said.append if said is not None else lambda line: None
        return Schedule(progress, jobs=jobs, log=log, cores=cores)

    return make


def order(folder):
    return [line.split() for line in (folder / "order").read_text().splitlines()]


def test_stages_wait_for_what_they_read_and_share_the_cores(study, tmp_path):
    stages = [
        ("leaf", (), 0, 0), ("a", (), 0.3, 0), ("b", ("a",), 0.8, 0), ("c", ("a",), 0.8, 0),
        ("d", ("b", "c"), 0, 0), ("e", ("b",), 0, 0),
    ]  # fmt: skip
    study(*stages).run()
    seen = order(tmp_path)
    at = {(row[0], row[1]): i for i, row in enumerate(seen)}
    threads = {row[1]: int(row[2]) for row in seen if row[0] == "+"}
    assert threads["a"] == 4, "alone, and others wait for it: all cores"
    assert at["+", "leaf"] > at["-", "a"], "what nothing waits for comes after it"
    assert threads["b"] == threads["c"] == 2
    assert at["+", "c"] < at["-", "b"] and at["+", "b"] < at["-", "c"], "at once"
    for name, reads, *_ in stages:
        assert all(at["+", name] > at["-", other] for other in reads)
    running = most = 0
    for row in seen:
        running += 1 if row[0] == "+" else -1
        most = max(most, running)
    assert most == 2
    states = json.loads((tmp_path / "study.json").read_text())["stages"]
    assert {s["name"]: s["state"] for s in states} == dict.fromkeys(
        ("leaf", "a", "b", "c", "d", "e"), "done"
    )
    assert next(s for s in states if s["name"] == "b")["seconds"] > 0.7


def test_what_is_done_is_not_run_again(study, tmp_path):
    stages = [("a", (), 0, 0), ("b", ("a",), 0, 0)]
    study(*stages).run()
    before, said = order(tmp_path), []
    study(*stages, said=said).run()
    assert order(tmp_path) == before and said == ["[1/2] a: is done", "[2/2] b: is done"]
    (tmp_path / "b.txt").unlink()
    study(*stages).run()
    assert [row[1] for row in order(tmp_path)[len(before) :]] == ["b", "b"]


def test_a_failed_stage_is_one_error_and_those_beside_it_end_first(study, tmp_path):
    stages = [("a", (), 0, 3), ("b", (), 0.6, 0), ("c", ("a", "b"), 0, 0)]
    with pytest.raises(ProbekitError) as error:
        study(*stages).run()
    words = str(error.value)
    assert "stage a: failed (exit 1)" in words and "line one / it broke" in words
    assert str(tmp_path / "logs" / "a.log") in words and "run the same command again" in words
    states = json.loads((tmp_path / "study.json").read_text())["stages"]
    assert [(s["name"], s["state"]) for s in states] == [("a", "failed"), ("b", "done")]


@pytest.fixture
def ctrl_c():
    # A shell starts what runs in its background with Ctrl-C ignored, and so are the tests then.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, SystemExit),
        (signal.SIGHUP, SystemExit),
    ],
)
@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_reaches_every_stage_and_waits_for_them(study, tmp_path, number, error):
    schedule = study(("a", (), 30, 0), ("b", (), 30, 0))

    def interrupt():
        while not (tmp_path / "order").exists() or len(order(tmp_path)) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    thread, started = threading.Thread(target=interrupt), time.perf_counter()
    thread.start()
    with pytest.raises(error), endings():
        schedule.run()
    thread.join()
    assert time.perf_counter() - started < 20 and signal.getsignal(signal.SIGTERM) is before
    states = json.loads((tmp_path / "study.json").read_text())["stages"]
    assert [s["state"] for s in states] == ["failed", "failed"]
    assert not list(tmp_path.glob("*.txt"))
