"""`probekit dynamics` as a user meets it."""

from __future__ import annotations

import json

import pytest

from probekit.container import write_json
from tests.cli.test_cli import rows, run
from tests.reports.golden import page_text


@pytest.fixture(scope="module")
def folder(tiny_llama, tmp_path_factory):
    """A tiny fit of pairs and one of labels."""
    folder = tmp_path_factory.mktemp("dynamics")
    for kind in ("pair", "label"):
        data = rows(folder / f"{kind}.jsonl", kind)
        store = folder / f"{kind}.h5"
        cache = ["cache", "--model", tiny_llama, "--data", data, "--out", store]
        assert run(*cache, "--dtype", "float32") == 0
        assert run("fit", store, "--out", folder / kind) == 0
    return folder


SMALL = ["--steps", "20", "--learning-rates", "1e-3:1:1", "--optimizers", "sgd,adamw"]


def test_dynamics_leaves_its_files_and_the_report_is_drawn_again(folder, capsys):
    out = folder / "dynamics"
    assert run("dynamics", "--probe", folder / "pair", "--out", out, *SMALL, "--json") == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["paths"]["report"] == str(out / "report.html")
    assert list(found["findings"]) == ["sgd", "adamw"] and found["conclusion"]["points"]
    names = {path.name for path in out.iterdir()}
    assert names == {"dynamics.json", "runs.jsonl", "run.json", "report.html", "digests.json"}
    stored = json.loads((out / "dynamics.json").read_text())
    assert stored["format"] == "probekit.dynamics" and stored["complete"] is True
    assert stored["provenance"]["run"]["command"] == "dynamics"
    # No pair of the report split: the fit's own counts.
    sweep = json.loads((folder / "pair" / "sweep.json").read_text())
    assert (stored["n"]["fit"], stored["n"]["choose"]) == (sweep["n"]["fit"], sweep["n"]["choose"])
    lines = (out / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 4 * 5 * 3
    assert stored["conclusion"].items() < found["conclusion"].items()
    assert set(found["conclusion"]) - set(stored["conclusion"]) == {"headline", "points"}
    page = (out / "report.html").read_text()
    shown = page_text(page)
    for words in (found["conclusion"]["headline"], *found["conclusion"]["points"]):
        assert f"{words}\n" in shown

    assert run("report", out, "--out", folder / "again.html") == 0
    assert (folder / "again.html").read_text() == page
    command = ["dynamics", "--probe", folder / "pair", "--out", out, *SMALL[:4]]
    capsys.readouterr()
    assert run(*command) == 1
    assert "already exists. Pass --force" in capsys.readouterr().err
    assert run(*command, "--optimizers", "adamw", "--force") == 0
    assert "report   " in capsys.readouterr().out


def test_bad_input_is_one_line_and_leaves_nothing(folder, tmp_path, capsys):
    moved = tmp_path / "gone"
    moved.mkdir()
    for name in ("probes.json", "probes.safetensors", "sweep.json", "run.json"):
        (moved / name).write_bytes((folder / "pair" / name).read_bytes())
    record = json.loads((moved / "run.json").read_text())
    record["arguments"]["store"] = str(tmp_path / "nowhere.h5")
    write_json(moved / "run.json", record)
    out = tmp_path / "out"

    def command(probe, *more):
        return ["dynamics", "--probe", probe, "--out", out, *SMALL, *more]

    cases = [
        (command(folder / "label"), "expected bradley-terry"),
        (command(tmp_path), "is not a probe"),
        (command(moved), "is not there. Name it with --store"),
        (command(folder / "pair", "--store", folder / "label.h5"), "is not the store"),
        (command(folder / "pair", "--learning-rates", "1:0"), "below the high one"),
        (command(folder / "pair", "--optimizers", "adam"), "expected adamw or sgd"),
        (command(folder / "pair", "--optimizers", ","), "expected at least 1"),
    ]
    for argv, match in cases:
        assert run(*argv) == 1, match
        shown = capsys.readouterr()
        assert shown.out == "" and match in shown.err, shown.err
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
        assert not out.exists()
    named = command(moved, "--store", folder / "pair.h5")
    assert run(*named) == 0


def test_a_damaged_analysis_gives_one_line(folder, tmp_path, capsys):
    out = tmp_path / "cut"
    assert run("dynamics", "--probe", folder / "pair", "--out", out, *SMALL) == 0
    whole = (out / "runs.jsonl").read_text()
    (out / "runs.jsonl").write_text(whole[:-40])
    assert run("report", out, "--force") == 1
    assert "runs.jsonl:120" in capsys.readouterr().err
    (out / "runs.jsonl").write_text("\n".join(whole.splitlines()[:50]) + "\n")
    assert run("report", out, "--force") == 1
    assert f"bytes, {len(whole.encode())} were written" in capsys.readouterr().err
    (out / "digests.json").unlink()  # as of an older version
    assert run("report", out, "--force") == 1
    assert "under sgd, expected 12" in capsys.readouterr().err
