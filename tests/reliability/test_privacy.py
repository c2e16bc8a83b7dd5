"""What is written down names no folder, user or key unless asked, and what is shown is fit for a terminal."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from probekit import foreign, provenance
from probekit.cli import options
from probekit.cli.main import cli, main
from probekit.errors import DataError, ProbekitError

HOME = "/home/ann smith"


@pytest.fixture(autouse=True)
def not_asked(monkeypatch):
    monkeypatch.delenv(foreign.PATHS, raising=False)
    monkeypatch.setenv("HOME", HOME)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/ann smith/runs/acts.h5", "acts.h5"),
        ("/home/ann/acts.h5", "acts.h5"),
        ("/home/ann/runs/", "runs"),
        ("~/runs/acts.h5", "acts.h5"),
        (r"C:\Users\ann\acts.h5", "acts.h5"),
        ("file:///home/ann/acts.h5", "acts.h5"),
        ("--out=/home/ann/o", "--out=o"),
        ("read /home/ann/a.jsonl, then /srv/b.jsonl.", "read a.jsonl, then b.jsonl."),
        ("['/home/ann/a.h5', '/home/ann/b.h5']", "['a.h5', 'b.h5']"),
        ("acts.h5", "acts.h5"),
        ("../runs/acts.h5", "../runs/acts.h5"),
        ("runs/acts.h5", "runs/acts.h5"),
        ("org/model", "org/model"),
        ("logistic/resid_post/012/last", "logistic/resid_post/012/last"),
        ("demo:sentiment_prompts", "demo:sentiment_prompts"),
        ("https://host:8000/v1/chat", "https://host:8000/v1/chat"),
        ("https://u:pw@host/v1?key=k#f", "https://host/v1"),
        ("and/or, 1 / 2, ~5 tokens", "and/or, 1 / 2, ~5 tokens"),
        ("class=real:hedges", "class=real:hedges"),
        (HOME, "~"),
    ],
)
def test_what_is_kept_of_a_text(text, kept):
    assert foreign.recorded(text) == kept
    assert foreign.recorded({"a": [text], text: 1}) == {"a": [kept], kept: 1}


def test_whole_paths_are_kept_when_asked_and_keys_never(monkeypatch):
    monkeypatch.setenv(foreign.PATHS, "1")
    assert foreign.recorded(["/home/ann/x", "https://u:pw@h/?k=v"]) == ["/home/ann/x", "https://h/"]


def test_a_run_record_tells_no_place_and_no_key(monkeypatch):
    words = [
        "steer",
        "--probe",
        f"{HOME}/sweep",
        "--judge-url",
        "https://u:s3cret@judge/v1?key=s3cret",
    ]
    monkeypatch.setattr("sys.argv", ["probekit", *words])
    record = provenance.run_record("steer", {"probe": words[2], "judge_url": words[4], "seed": 0})
    text = json.dumps(record)
    assert not re.search(r"ann|smith|/home|s3cret", text)
    assert record["argv"] == ["steer", "--probe", "sweep", "--judge-url", "https://judge/v1"]
    assert record["arguments"] == {"probe": "sweep", "judge_url": "https://judge/v1", "seed": 0}


def test_the_option_is_the_variable(monkeypatch):
    monkeypatch.setenv(foreign.PATHS, "0")  # so that what the option sets is taken back
    assert foreign.recorded("/home/ann/x") == "x"
    assert CliRunner().invoke(cli, ["--record-paths", "models"]).exit_code == 0
    assert os.environ[foreign.PATHS] == "1"
    assert foreign.recorded("/home/ann/x") == "/home/ann/x"


def test_a_store_is_named_by_the_way_to_it_or_by_its_name(tmp_path, monkeypatch):
    own, other = tmp_path / "ann" / "runs", tmp_path / "bob"
    own.mkdir(parents=True)
    monkeypatch.chdir(own.parent)
    cases = {
        (own / "acts.h5", own / "sweep"): "../acts.h5",
        (own / "a" / "acts.h5", own / "sweep"): "../a/acts.h5",
        ("acts.h5", "runs/deep/sweep"): "../../../acts.h5",
        (other / "acts.h5", own / "sweep"): "acts.h5",
        (own / "acts.h5", other / "sweep"): "acts.h5",
        (other / "acts.h5", other / "sweep"): "../acts.h5",
    }
    for (path, folder), name in cases.items():
        assert foreign.beside(path, folder) == name
        if name.startswith(".."):  # and it leads there
            assert (Path(folder).absolute() / name).resolve() == Path(path).absolute().resolve()
    monkeypatch.setenv(foreign.PATHS, "1")
    assert foreign.beside("acts.h5", "sweep") == str(own.parent / "acts.h5")


UGLY = "a\x1b[31mb\x1b]0;owned\x07c\x9b2Jd\x7fe\u202ef\u2066g\ud800h\r"


def test_errors_and_output_move_no_cursor(capsys, monkeypatch):
    assert str(DataError(f"{UGLY}\nsecond line")) == "a[31mb]0;ownedc2Jdefgh second line"
    options.log(UGLY)
    options.echo(f"{UGLY}\tx\n")
    options.echo_json({UGLY: UGLY})
    out, err = capsys.readouterr()
    assert err == "a[31mb]0;ownedc2Jdefgh\n"
    first, _, last = out.splitlines()
    assert first == "a[31mb]0;ownedc2Jdefgh\tx"
    assert json.loads(last) == {UGLY: UGLY}  # data stay data
    assert last.isascii()
    monkeypatch.setattr("sys.argv", ["probekit", "data", "check", f"{UGLY}.jsonl"])
    with pytest.raises(SystemExit):
        main()
    assert re.fullmatch(r"error: [^\x00-\x1f\x7f-\x9f\u202e\u2066]+\n", capsys.readouterr().err)


def test_all_output_goes_that_way():
    folder = Path(options.__file__).parent
    for path in folder.glob("*.py"):
        for line in path.read_text().splitlines():
            if "click.echo(" in line:
                allowed = ("options.py", "main.py", "settings.py")
                assert path.name in allowed or "escaped(" in line, f"{path.name}: {line}"


def test_errors_of_every_room_do():
    def below(kind):
        return [kind, *(deep for sub in kind.__subclasses__() for deep in below(sub))]

    for kind in below(ProbekitError):
        assert str(kind("a\x1b[2Jb\nc")) == "a[2Jb c"


SECRET = f"{HOME}/private/models/llama"


def with_places(value, key=""):
    """Return a record with an absolute path in every value that names one."""
    named = {"path", "model", "source", "store", "out", "probe", "data", "prompts"}
    if isinstance(value, dict):
        more = {"model": SECRET} if key == "store" else {}
        return {name: with_places(item, name) for name, item in value.items()} | more
    if isinstance(value, list):
        return [
            *map(with_places, value),
            *([f"--out={SECRET}"] if key in ("argv", "probes") else []),
        ]
    return SECRET if isinstance(value, str) and key in named else value


@pytest.mark.parametrize("name", ["fit", "steer", "rl", "dynamics", "study"])
def test_a_page_shows_no_path_that_was_recorded(tmp_path, name, monkeypatch):
    from tests.reliability.test_reports import write
    from tests.reports import test_pages as pages

    makers = {
        "fit": pages.GOLDEN["sweep-label"], "steer": pages.GOLDEN["steer"],
        "rl": lambda at: pages.rl(at, **pages.RL), "dynamics": lambda at: pages.dynamics(at, "sgd"),
        "study": pages.GOLDEN["knowledge_awareness"],
    }  # fmt: skip
    folder, changed = makers[name](tmp_path).parent, 0
    for file in folder.rglob("digests.json"):
        file.unlink()
    for file in folder.rglob("*.json"):
        value = json.loads(file.read_text(encoding="utf-8"))
        value.pop("checksum", None)  # a foreign file, or one changed on purpose
        new = with_places(value)
        changed += new != value
        file.write_text(json.dumps(new), encoding="utf-8")
    assert changed
    html = write(folder, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "llama" in html  # the last name is there
    assert not re.search(r"ann smith|/home/|private", html.split("<body>")[1].split("</main>")[0])
    monkeypatch.setenv(foreign.PATHS, "1")
    assert SECRET in write(folder, tmp_path / "asked.html").read_text(encoding="utf-8")
