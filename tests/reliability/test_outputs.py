"""Outputs: what is there stays, what cannot be written is found before the work, one process writes."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import pytest

from probekit.activations.store import ActivationStore
from probekit.container import atomic_directory, atomic_file, lock_name, sweep
from probekit.errors import OutputError
from probekit.foreign import child
from probekit.outputs import claim
from probekit.probes import Probe
from tests.cli.test_cli import rows, run
from tests.reliability.crashes import RECIPE
from tests.taken import taken

ROOT = Path(__file__).parents[2]
FORCED = (
    "sample",
    "cache",
    "fit",
    "score",
    "evaluate",
    "steer",
    "rl",
    "dpo",
    "elicit",
    "data pairs",
    "data split",
    "report",
    "dynamics",
)


@pytest.fixture(scope="module")
def inputs(tiny_llama, tmp_path_factory):
    """A folder with rows, pairs, prompts, a recipe, stores and fits."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "recipe.toml").write_text(RECIPE)
    prompts = [
        {"id": f"p{k}", "prompt": "go" * (k + 1), "group": f"g{k}", "tags": {"half": str(k % 2)}}
        for k in range(8)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    rated = [{"prompt": f"q{k % 3}", "completion": f"a{k}", "score": k} for k in range(9)]
    (folder / "rating.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))
    for kind in ("label", "pair"):
        data = rows(folder / f"{kind}.jsonl", kind)
        store = folder / f"{kind}.h5"
        assert (
            run(
                "cache",
                "--model",
                tiny_llama,
                "--data",
                data,
                "--positions",
                "mean",
                "--out",
                store,
            )
            == 0
        )
        assert run("fit", store, "--out", folder / kind) == 0
    return folder


def commands(inputs, model):
    """Return each command without --out, and what it reads."""
    prompts = ["--prompts", inputs / "prompts.jsonl"]
    probe, data = ["--probe", inputs / "label"], ["--data", inputs / "label.jsonl"]
    small = ["--samples", "1", "--max-new-tokens", "3"]
    made = {
        "sample": (["sample", "--model", model, *prompts, *small], ["prompts.jsonl"]),
        "cache": (["cache", "--model", model, *data, "--positions", "mean"], ["label.jsonl"]),
        "fit": (["fit", inputs / "label.h5"], ["label.h5"]),
        "score": (["score", *probe, *data], ["label.jsonl", "label"]),
        "evaluate": (["evaluate", *probe, *data], ["label.jsonl", "label"]),
        "steer": (["steer", *probe, *prompts, *small, "--coeff", "-1:1:1", "--random-controls", "1",
                   "--shuffled-controls", "0", "--placebo-controls", "0"], ["prompts.jsonl", "label"]),
        "rl": (["rl", *probe, *prompts, "--steps", "1", "--prompts-per-step", "2", "--group", "2",
                "--max-new-tokens", "3", "--eval-prompts", "2", "--rank", "2", "--placebo-heads", "0"],
               ["prompts.jsonl", "label"]),
        "dpo": (["dpo", "--model", model, "--data", inputs / "pair.jsonl", "--steps", "1", "--rank", "2"],
                ["pair.jsonl"]),
        "elicit": (["elicit", "--model", model, *prompts, "--recipe", inputs / "recipe.toml"],
                   ["prompts.jsonl", "recipe.toml"]),
        "data pairs": (["data", "pairs", "--data", inputs / "rating.jsonl"], ["rating.jsonl"]),
        "data split": (["data", "split", *probe, "--prompts", inputs / "label.jsonl"],
                       ["label.jsonl", "label"]),
        "report": (["report", inputs / "label"], ["label"]),
        "dynamics": (["dynamics", "--probe", inputs / "pair", "--steps", "20"], ["pair"]),
    }  # fmt: skip
    return made


FOLDERS = {"fit", "evaluate", "steer", "rl", "dpo", "elicit", "data split", "dynamics"}


def said(capsys):
    err = capsys.readouterr().err.strip()
    assert "Traceback" not in err
    return err.splitlines()[-1]


def digest(path):
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    return [(str(f), f.read_bytes()) for f in files]


@pytest.fixture
def no_work(monkeypatch):
    """Loading a model, or opening a store, is work that must not begin."""

    # Modules that are first imported while the model cannot be loaded would keep it so.
    for module in (
        "behaviours.sampled",
        "activations.cache",
        "steering",
        "rl.run",
        "rl.dpo",
        "studies",
        "probes.sweep",
    ):
        importlib.import_module(f"probekit.{module}")

    def work(*args, **more):
        raise AssertionError("work began")

    monkeypatch.setattr("probekit.models.load.load_model", work)
    monkeypatch.setattr("probekit.activations.store.ActivationStore.open", work)
    monkeypatch.setattr("probekit.studies.held_out.groups_of", work)


@pytest.mark.parametrize("name", FORCED)
@pytest.mark.usefixtures("no_work")
def test_no_input_is_replaced_with_force(inputs, tiny_llama, capsys, name):
    line, read = commands(inputs, tiny_llama)[name]
    before = digest(inputs)
    for source in read:
        (inputs / "link").unlink(missing_ok=True)
        (inputs / "link").symlink_to(inputs / source)
        for out in (inputs / source, inputs / "link", inputs / "." / source):
            assert run(*line, "--out", out, "--force") == 1
            words = said(capsys)
            assert "which this command reads" in words or "is a" in words, words
        (inputs / "link").unlink()
    assert digest(inputs) == before


@pytest.mark.parametrize("name", FORCED)
@pytest.mark.usefixtures("no_work")
def test_what_another_made_is_not_replaced_with_force(inputs, tiny_llama, tmp_path, capsys, name):
    line, _ = commands(inputs, tiny_llama)[name]
    mine = tmp_path / "mine"
    if name in FOLDERS:
        mine.mkdir()
        (mine / "notes.txt").write_text("mine")
        (mine / "run.json").write_text('{"command": "another"}')
    else:
        mine.write_text('{"id": "a", "text": "mine"}\n')
    before = digest(mine)
    assert run(*line, "--out", mine, "--force") == 1
    assert "not an earlier output" in said(capsys)
    assert digest(mine) == before and sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


@pytest.mark.parametrize("name", sorted(set(FORCED) - {"steer", "rl"}))
def test_an_output_is_replaced_by_its_own_command_and_only_with_force(
    inputs, tiny_llama, tmp_path, capsys, name
):
    line, _ = commands(inputs, tiny_llama)[name]
    out = tmp_path / "out"
    assert run(*line, "--out", out) == 0
    before = digest(out)
    assert run(*line, "--out", out) == 1
    assert "already exists. Pass --force to replace it" in said(capsys) and digest(out) == before
    assert run(*line, "--out", out, "--force") == 0
    if name in FOLDERS:
        (out / "notes.txt").write_text("mine")
        assert run(*line, "--out", out, "--force") == 1
        assert "holds notes.txt, which probekit" in said(capsys)
        assert (out / "notes.txt").read_text() == "mine"
    left = {path.name for path in tmp_path.iterdir()} - {"out", "out.run.json"}
    assert not left


@pytest.mark.parametrize("name", FORCED)
@pytest.mark.usefixtures("no_work")
def test_what_cannot_be_an_output_is_refused_before_work(
    inputs, tiny_llama, tmp_path, capsys, name
):
    line, _ = commands(inputs, tiny_llama)[name]
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    other = tmp_path / "file" if name in FOLDERS else tmp_path
    bad = {
        str(other): "is a file, expected a dir"
        if name in FOLDERS
        else "is a directory, expected a file",
        "/dev/null": "is a device, pipe or socket",
        str(tmp_path / "fifo"): "is a device, pipe or socket",
        str(tmp_path / "socket"): "is a device, pipe or socket",
        str(tmp_path / "file" / "below"): "cannot be written",
        str(tmp_path / ("n" * 300)): "File name too long",
        str(tmp_path / ("n" * 250)): "File name too long",
        "": "is empty",
        "/": "Choose another --out",
        "/proc/probekit/out": "cannot be written",
    }
    for out, message in bad.items():
        assert run(*line, "--out", out, "--force") == 1, out
        words = said(capsys)
        assert message in words and "--out" in words or "Choose another" in words, (out, words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "file", "socket"]


@pytest.mark.parametrize("name", FORCED)
@pytest.mark.usefixtures("no_work")
def test_the_second_writer_is_told_of_the_first(inputs, tiny_llama, tmp_path, capsys, name):
    line, _ = commands(inputs, tiny_llama)[name]
    with taken(tmp_path / "out"):
        for how in ([], ["--force"]):
            assert run(*line, "--out", tmp_path / "out", *how) == 1
            words = said(capsys)
            assert "another process is writing it (probekit other, pid 7 on there" in words
            assert "interrupted" not in words
    assert [p.name for p in tmp_path.iterdir()] == [lock_name(tmp_path / "out").name]


@pytest.mark.parametrize("name", ["sample", "fit"])
def test_of_two_processes_one_writes(inputs, tiny_llama, tmp_path, name):
    line, _ = commands(inputs, tiny_llama)[name]
    words, environment = child("-m", "probekit", *map(str, line), "--out", str(tmp_path / "out"))
    both = [
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    ends = [process.communicate() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    (loser,) = [err for process, (_, err) in zip(both, ends, strict=True) if process.returncode]
    writer = next(process for process in both if not process.returncode)
    last = loser.strip().splitlines()[-1]
    assert f"(probekit {name}, pid {writer.pid} on " in last or "already exists" in last
    assert run("verify", tmp_path / "out") == 0


def test_what_appears_meanwhile_is_not_replaced_and_the_result_is_kept(tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(
        OutputError, match=r"appeared while this command ran.*out.unsaved-\d+.jsonl"
    ):
        with atomic_file(out, replace=False) as temporary:
            temporary.write_text("result")
            out.write_text("another's")
    (kept,) = tmp_path.glob("out.unsaved-*.jsonl")
    assert out.read_text() == "another's" and kept.read_text() == "result"
    folder = tmp_path / "folder"
    with pytest.raises(OutputError, match="appeared while"), atomic_directory(folder) as temporary:
        (temporary / "a.json").write_text("{}")
        folder.mkdir()
    assert (
        not list(folder.iterdir())
        and (next(tmp_path.glob("folder.unsaved-*")) / "a.json").is_file()
    )


def test_an_output_through_a_link_lies_where_the_link_leads(inputs, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "sweep")
    line = ["fit", inputs / "label.h5", "--out", tmp_path / "link"]
    for how in ([], ["--force"]):
        assert run(*line, *how) == 0
        assert (tmp_path / "link").is_symlink() and (
            tmp_path / "there" / "sweep" / "sweep.json"
        ).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def test_temporary_files_of_the_dead_are_swept_and_others_stay(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from probekit.container import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as t: t.write_text('half'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "dead.json")], check=True)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".dead.json.probekit-")
    with atomic_file(tmp_path / "alive.json") as temporary:
        (tmp_path / ".mine.tmp").touch()
        sweep(tmp_path)
        assert not left.exists() and temporary.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "alive.json"]


def test_a_name_with_a_null_byte_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="is no name of a file"), claim(f"{tmp_path}/a\0b", "fit"):
        pass


def test_a_claim_in_a_claim_is_one_and_in_another_thread_two(tmp_path):
    errors = []

    def other():
        try:
            with claim(tmp_path / "out", "sample"):
                pass
        except OutputError as error:
            errors.append(str(error))

    with claim(tmp_path / "out", "sample"), claim(tmp_path / "out", "sample"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another process is writing it" in errors[0] and f"pid {os.getpid()}" in errors[0]
    with claim(tmp_path / "out", "sample"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_reader_beside_a_writer_reads_one_whole_fit(inputs, tmp_path):
    line = ["fit", inputs / "label.h5", "--out", tmp_path / "fit"]
    assert run(*line) == 0
    expected, done, read = Probe.load(tmp_path / "fit").coef, threading.Event(), 0

    def write():
        for _ in range(2):
            with atomic_directory(tmp_path / "fit", force=True) as folder:
                for path in (inputs / "label").iterdir():
                    (folder / path.name).write_bytes(path.read_bytes())
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert (Probe.load(tmp_path / "fit").coef == expected).all()
        read += 1
    thread.join()
    assert read


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = int(sys.argv[1])
from probekit.cli.main import main
import torch, h5py, safetensors, transformers
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cache", 6000),
        ("fit", 1500),
        ("sample", 200),
        ("steer", 2000),
    ],
)
def test_no_room_is_one_line_and_work_goes_on_once_there_is(
    inputs, tiny_llama, tmp_path, name, size
):
    """The kernel refuses bytes beyond a size in any file: h5py and safetensors are refused too."""
    line, _ = commands(inputs, tiny_llama)[name]
    out = tmp_path / "out"
    words, environment = child("-c", LIMITED, str(size), *map(str, line), "--out", str(out))
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "the disk is full. Free some space" in done.stderr.strip().splitlines()[-1]
    assert not out.exists()
    resumes = (
        name in ("cache", "sample", "elicit", "steer") and out.with_name("out.partial").exists()
    )
    assert run(*line, "--out", out, *(["--resume"] if resumes else [])) == 0
    assert {p.name for p in tmp_path.iterdir()} <= {"out", "out.run.json"}


def test_sampling_that_is_ended_keeps_what_it_has_written(inputs, tiny_llama, tmp_path):
    line, _ = commands(inputs, tiny_llama)["sample"]
    line = [*map(str, line), "--batch", "1", "--max-new-tokens", "100", "--temperature", "0"]
    assert run(*line, "--out", tmp_path / "whole.jsonl") == 0
    out = tmp_path / "out.jsonl"
    words, environment = child("-m", "probekit", *line, "--out", str(out))
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE) as process:
        partial = tmp_path / "out.jsonl.partial"
        while len(list(partial.glob("0*.jsonl"))) < 2:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM and not out.exists()
    assert not lock_name(out).exists()
    assert len(list(partial.glob("0*.jsonl"))) >= 2
    assert run(*line, "--out", out) == 1
    assert run(*line, "--out", out, "--resume", "--seed", "4") == 1
    assert run(*line, "--out", out, "--resume") == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and not partial.exists()


def test_a_changed_byte_of_a_single_file_is_found_by_its_record(
    inputs, tmp_path, tiny_llama, capsys
):
    line, _ = commands(inputs, tiny_llama)["score"]
    out = tmp_path / "scores.jsonl"
    assert run(*line, "--out", out) == 0 and run("verify", out) == 0
    assert "1 file" in capsys.readouterr().out
    first = json.loads(out.read_text().splitlines()[0])["score"]
    out.write_text(out.read_text().replace(str(first), str(first + 1)))
    assert run("verify", out) == 1
    assert "does not fit the checksum in scores.jsonl.run.json" in "".join(capsys.readouterr())


def test_somebodys_folder_of_the_partial_name_stays(inputs, tiny_llama, tmp_path, capsys):
    line, _ = commands(inputs, tiny_llama)["cache"]
    mine = tmp_path / "a.h5.partial"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    for how in ([], ["--force"], ["--resume"]):
        assert run(*line, "--out", tmp_path / "a.h5", *how) == 1
        assert "holds thesis.txt, which is no interrupted capture" in said(capsys)
    assert (mine / "thesis.txt").read_text() == "mine"


def test_an_interrupted_replacement_goes_on_and_the_old_store_stays_until_then(
    inputs, tiny_llama, tmp_path, monkeypatch
):
    line, _ = commands(inputs, tiny_llama)["cache"]
    out = tmp_path / "a.h5"
    assert run(*line, "--limit", "8", "--out", out) == 0

    def stop(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("probekit.activations.cache._Capture.finish", stop)
    assert run(*line, "--out", out, "--force") == 130
    monkeypatch.undo()
    with ActivationStore.open(out) as store:
        assert store.n_examples == 8
    assert run(*line, "--out", out, "--resume") == 0
    with ActivationStore.open(out) as store:
        assert store.n_examples == 60
    assert h5py.is_hdf5(out) and not out.with_name("a.h5.partial").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_command_killed_at_any_operation_is_run_again_to_the_same_end():
    """Every command is killed before some of its operations on files (all of them: `crashes.py`)."""
    words, environment = child("-m", "tests.reliability.crashes", "--seconds", "1", "--every", "61")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = [
        line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")
    ]
    names, *found = [[row[0], *row[1:]] for row in table]
    assert names[1:] == ["points", "resumed", "again", "whole", "lost", "stuck", "left"]
    assert len(found) == 14, done.stdout
    for name, points, *outcomes in found:
        resumed, again, whole, lost, stuck, left = map(int, outcomes)
        assert lost == stuck == left == 0, (name, done.stdout)
        assert int(points) > 4 and resumed + again + whole > 0
