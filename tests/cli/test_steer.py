"""`probekit steer` and `probekit behaviours` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from probekit.foreign import shown as shown_text
from probekit.steering import SteeringVector
from tests.behaviours.test_judge import Endpoint, says
from tests.cli.test_cli import rows, run
from tests.tiny import save_tiny


@pytest.fixture(scope="module", params=["label", "rating", "pair"])
def fitted(request, tiny_llama, tmp_path_factory):
    """A fit of each kind, through the command line."""
    folder = tmp_path_factory.mktemp(request.param)
    data = rows(folder / "rows.jsonl", request.param)
    store = folder / "acts.h5"
    cache = ["cache", "--model", tiny_llama, "--data", data, "--out", store, "--dtype", "float32"]
    assert run(*cache, "--positions", "mean,turn_end") == 0
    assert run("fit", store, "--out", folder / "sweep") == 0
    return folder


@pytest.fixture(scope="module")
def rating(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rating")
    data = rows(folder / "rows.jsonl", "rating")
    cache = ["cache", "--model", tiny_llama, "--data", data, "--out", folder / "a.h5"]
    assert run(*cache, "--positions", "mean", "--dtype", "float32") == 0
    assert run("fit", folder / "a.h5", "--out", folder / "sweep") == 0
    return folder


def steer(folder, out, *more):
    return [
        "steer", "--probe", folder / "sweep", "--prompts", folder / "rows.jsonl", "--out", out,
        "--coeff", "-8:8:4", "--limit", "4", "--max-new-tokens", "6", "--random-controls", "2",
        "--shuffled-controls", "1", "--placebo-controls", "1", *more,
    ]  # fmt: skip


def test_the_command_of_the_contract(fitted, tmp_path, capsys):
    out = tmp_path / "steered"
    assert run(*steer(fitted, out, "--rerank", "--rerank-prompts", "2", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"]["prompts"] == 4
    assert found["n"]["completions"] == 4 * 2 * (1 + 5 * 5)
    for dose in found["doses"].values():
        assert {"value", "low", "high"} == set(dose["slope"])
        assert [len(dose[kind]) for kind in ("random", "shuffled", "placebo")] == [2, 1, 1]
    assert {row["layer"] for row in found["rerank"]["rows"]} == {0, 1, 2}
    record = json.loads((out / "run.json").read_text())
    assert record["command"] == "steer"
    assert record["arguments"]["coeffs"] == "-8:8:4"
    for path in found["paths"].values():
        assert (tmp_path / path).exists()
    assert "<script" in (out / "report.html").read_text()
    assert run("report", out, "--out", tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").stat().st_size > 10_000


def test_it_prints_slopes_controls_and_the_report(rating, tmp_path, capsys):
    assert run(*steer(rating, tmp_path / "out", "--behaviours", "sentiment")) == 0
    text = capsys.readouterr().out
    assert "4 prompts x 2 samples, 2 random controls, 1 of shuffled labels, 1 placebos" in text
    assert "usable   " in text
    assert "at least 0.333" in text
    assert "damage   unsteered, then at coeff" in text
    assert "fewer than 5 prompts make no interval" in text
    assert "rate:positive" in text
    assert (
        "verdict  Whether the score follows the dose is not known: its slope has no interval"
        in text
    )
    assert "p = " in text
    assert text.splitlines()[-1] == f"report   {tmp_path / 'out' / 'report.html'}"
    # One prompt at each strength, as it stands in the completions.
    written = (tmp_path / "out/completions.jsonl").read_bytes().split(b"\n")
    rows = [json.loads(line) for line in written if line]
    shown = [line for line in text.splitlines() if line.startswith(("  coeff ", "  unsteered "))]
    first = [
        row for row in rows
        if row["prompt_id"] == rows[0]["prompt_id"] and row["sample"] == 0
        and row["direction"] in ("none", "probe") and row["mode"] != "ablate"
    ]  # fmt: skip
    assert f"prompt   {rows[0]['prompt']}" in text and len(shown) == len(first) > 2
    for row in first:
        name = "unsteered" if row["direction"] == "none" else f"coeff {row['coeff']:+g}"
        (line,) = [line for line in shown if line.split("  ")[1].strip() == name]
        assert line[14:].rstrip("…") in shown_text(" ".join(row["text"].split()))


def test_prompts_on_the_command_line(rating, tmp_path, capsys):
    command = steer(rating, tmp_path / "out", "--prompt", "go on", "--prompt", "say more", "--json")
    at = command.index("--prompts")
    assert run(*command[:at], *command[at + 2 :]) == 0
    assert json.loads(capsys.readouterr().out)["n"]["prompts"] == 2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["arguments"]["prompts"] == ["go on", "say more"]
    assert run(*command) == 2
    assert "Give either --prompts" in capsys.readouterr().err


def test_the_vector_it_leaves_steers_the_same(rating, tmp_path, capsys):
    assert run(*steer(rating, tmp_path / "a")) == 0
    vector = tmp_path / "a" / "vector.safetensors"
    assert run(*steer(rating, tmp_path / "b", "--vector", vector)) == 0
    a, b = ((tmp_path / x / "completions.jsonl").read_text().splitlines() for x in "ab")
    texts = [[json.loads(line)["text"] for line in lines] for lines in (a, b)]
    assert texts[0] == texts[1]


def test_a_judge_that_answers_and_one_that_is_down(rating, tmp_path, capsys):
    with Endpoint(lambda body, n: (200, says("positive"))) as endpoint:
        argv = steer(rating, tmp_path / "a", "--behaviours", "sentiment", "--json")
        assert run(*argv, "--judge-url", endpoint.url) == 0
    judge = json.loads(capsys.readouterr().out)["judge"]
    assert (judge["answered"], judge["failed"]) == (judge["asked"], 0)
    argv = steer(rating, tmp_path / "b", "--behaviours", "sentiment")
    assert run(*argv, "--judge-url", "http://127.0.0.1:9/v1", "--judge-timeout", "1") == 0
    assert "completions got no answer" in capsys.readouterr().out
    report = (tmp_path / "b" / "report.html").read_text()
    assert "http://127.0.0.1:9/v1" in report
    assert "http://127.0.0.1:9/v1" not in (tmp_path / "a" / "report.html").read_text()
    assert run(*steer(rating, tmp_path / "c", "--judge-url", "http://x/v1")) == 1
    assert "Pass --behaviours" in capsys.readouterr().err


def bad_inputs(rating, folder, tiny):
    """Name -> (arguments, what the one line must say)."""
    out = folder / "new"
    (folder / "raw.jsonl").write_text('{"text": "raw", "label": 1}\n')
    (folder / "system.jsonl").write_text(
        json.dumps({"prompt": [{"role": "system", "content": "s"}]}) + "\n"
    )
    (folder / "bad.toml").write_text("[categories.a]\npatterns = [\n '(',\n]\n")
    (folder / "there").mkdir()
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work")
    SteeringVector({1: np.ones(5)}).save(folder / "narrow.safetensors")
    SteeringVector({9: np.ones(16)}).save(folder / "deep.safetensors")
    other, wide = folder / "other", folder / "wide"
    save_tiny(other, "llama", seed=3)
    save_tiny(wide, "gpt2")

    def ok(*more):
        return steer(rating, out, *more)

    return {
        "no probe": (ok("--probe", folder / "there"), "is not a probe"),
        "another model": (ok("--model", other), "weights_fingerprint is"),
        "another width": (ok("--model", wide), "error: model"),
        "layer out of range": (ok("--layers", "12"), "layer 12: the model has 3 layers"),
        "malformed grid": (ok("--coeff", "-8:8"), "has no step"),
        "empty grid": (ok("--coeff", ""), "is empty"),
        "grid of 0": (ok("--coeff", "0"), "no strength but 0"),
        "backwards grid": (ok("--coeff", "8:-8:2"), "low first"),
        "unknown place": (ok("--where", "middle"), "where 'middle'"),
        "place at the end": (ok("--where", "turn_end"), "not known while"),
        "no such prompts": (ok("--prompts", folder / "none.jsonl"), "no such file"),
        "raw text": (ok("--prompts", folder / "raw.jsonl"), "raw.jsonl:1: has no prompt"),
        "no user turn": (ok("--prompts", folder / "system.jsonl"), "system.jsonl:1: the prompt has no user"),
        "no behaviours": (ok("--behaviours", "none"), "behaviours 'none': no such file"),
        "bad pattern": (ok("--behaviours", folder / "bad.toml"), "bad.toml:3: categories.a.patterns"),
        "no vector": (ok("--vector", folder / "v.gguf"), "no such file"),
        "narrow vector": (ok("--vector", folder / "narrow.safetensors"), "5 wide"),
        "deep vector": (ok("--vector", folder / "deep.safetensors"), "layer 9: out of range"),
        "no address": (ok("--behaviours", "sentiment", "--judge-url", "x"), "is not an address"),
        "too long": (ok("--max-new-tokens", "600"), "the model's context is 512"),
        "existing output": (steer(rating, folder / "there"), "already exists. Pass --force"),
        "somebody's folder": (steer(rating, folder / "mine", "--force"), "is not an earlier output"),
        "the probe itself": (steer(rating, rating / "sweep", "--force"), "which this command reads"),
        "negative limit": (ok("--limit", "-1"), "limit -1"),
        "negative seed": (ok("--seed", "-1"), "seed: got -1"),
        "no temperature": (ok("--temperature", "-2"), "temperature: got -2.0"),
    }  # fmt: skip


def test_every_bad_input_is_one_line_and_leaves_nothing(rating, tiny_llama, tmp_path, capsys):
    cases = bad_inputs(rating, tmp_path, str(tiny_llama))
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    capsys.readouterr()
    for name, (argv, match) in cases.items():
        assert run(*argv) == 1, name
        shown = capsys.readouterr()
        assert shown.out == "", name
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1, (name, shown.err)
        assert match in shown.err, (name, shown.err)
        after = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
        assert after == before, name


def test_force_and_resume_together_are_a_usage_error(rating, tmp_path, capsys):
    assert run(*steer(rating, tmp_path / "x", "--force", "--resume")) == 2
    assert "give one of them" in capsys.readouterr().err
    assert run(*steer(rating, tmp_path / "x", "--rerank-coeff", "0.1")) == 2
    assert "pass that too" in capsys.readouterr().err


def test_an_interrupt_keeps_what_is_finished_and_resume_continues(rating, tmp_path):
    """A real SIGINT to a real process in the middle of its sweep."""
    out = tmp_path / "out"
    argv = [str(word) for word in steer(rating, out)]
    code = (
        "import os, signal\n"
        # A suite started in the background hands down that interrupts are ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from probekit.steering.writer import Journal\n"
        "real, calls = Journal.write, []\n"
        "def write(*args):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 6: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(*args)\n"
        "Journal.write = write\n"
        "from probekit.cli.main import main\n"
        f"main({argv!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("interrupted\n")
    assert "finished conditions are kept in" in done.stderr
    assert not out.exists()
    assert len(list((tmp_path / "out.partial").glob("*.jsonl"))) >= 5
    assert run(*argv, "--resume") == 0
    whole = tmp_path / "whole"
    assert run(*[str(whole) if word == str(out) else word for word in argv]) == 0
    a, b = (path / "completions.jsonl" for path in (out, whole))
    assert a.read_bytes() == b.read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_behaviours_shows_and_measures(tmp_path, capsys):
    assert run("behaviours", "knowledge-awareness") == 0
    assert "hedges" in capsys.readouterr().out
    labelled = tmp_path / "rows.jsonl"
    labelled.write_text(
        json.dumps({"prompt": "q", "completion": "lovely", "label": "positive"}) + "\n"
        + json.dumps({"prompt": "q", "completion": "a table", "label": "negative"}) + "\n"
    )  # fmt: skip
    assert run("behaviours", "sentiment", "--labelled", labelled, "--json") == 0
    found = json.loads(capsys.readouterr().out)["quality"]
    assert found["accuracy"]["value"] == 0.5
    assert found["categories"]["positive"]["precision"]["value"] == 1.0
    assert found["categories"]["negative"]["recall"]["value"] == 0.0
    assert run("behaviours", "nothing") == 1
    assert "no such file" in capsys.readouterr().err
