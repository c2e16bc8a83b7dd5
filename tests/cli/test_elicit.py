"""`probekit elicit`: pairs by conditioning, the same ones however often the run was interrupted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from probekit.data.open import open_dataset
from probekit.results.runs import open_run
from probekit.studies import elicitation as room
from tests.cli.test_cli import run
from tests.taken import taken

RECIPE = """
name = "letters"
class_tag = "half"
max_new_tokens = 6
samples = 4
unfinished = "keep"
min_words = 1

[variants.plain]

[variants.odd]
system = "be odd"
prefill = "So it is"
keep = "it is"

[classes.0]
chosen = "plain"
rejected = "odd"

[classes.1]
chosen = "odd"
rejected = "plain"
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr("probekit.studies.elicitation.PART", 3)
    (tmp_path / "r.toml").write_text(RECIPE)
    rows = [
        {"prompt": f"say {'x' * k}", "group": f"g{k}", "tags": {"half": str(k % 2)}}
        for k in range(8)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(tiny_llama, files, out, *more):
    return [
        "elicit", "--recipe", files / "r.toml", "--prompts", files / "p.jsonl", "--out", out,
        "--model", tiny_llama, *more,
    ]  # fmt: skip


def test_prompts_that_the_recipe_skips_are_not_asked(tiny_llama, files, capsys):
    (files / "r.toml").write_text("skip = {half = ['1'], other = ['0']}\n" + RECIPE)
    assert run(*command(tiny_llama, files, files / "out")) == 0
    rows = read(files / "out" / "completions.jsonl")
    assert {row["tags"]["half"] for row in rows} == {"0"}
    (files / "r.toml").write_text("skip = {half = ['0', '1']}\n" + RECIPE)
    assert run(*command(tiny_llama, files, files / "none")) == 1
    assert "no prompt is left" in capsys.readouterr().err
    assert not (files / "none").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("min_words", "mentions = true\nmin_words", "has no tag name, which"),
        ("min_words", "mentions = true\nname_tag = 'who'\nmin_words", "has no tag who, which"),
        (
            "[classes.0]",
            "[facts.half]\n1 = ['x']\n[classes.0]\nfacts = 'own'",
            "tag half is '0', for which the recipe's facts have no words. Expected one of 1",
        ),
    ],
)
def test_a_prompt_without_what_the_recipe_reads_is_one_line(
    tiny_llama, files, capsys, old, new, message
):
    (files / "r.toml").write_text(RECIPE.replace(old, new, 1))
    assert run(*command(tiny_llama, files, files / "out")) == 1
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert not (files / "out").exists()


def read(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_pairs_and_all_that_was_written(tiny_llama, files, capsys):
    out = files / "out"
    assert run(*command(tiny_llama, files, out, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    rows, pairs = read(out / "completions.jsonl"), read(out / "pairs.jsonl")
    assert len(rows) == 8 * 2 * 4 and told["n_pairs"] == len(pairs) > 0
    kept = {(r["prompt_id"], r["variant"], r["completion"]) for r in rows if r["kept"] == "kept"}
    for pair in pairs:
        name = pair["id"].rsplit("-", 1)[0]
        own = ("plain", "odd") if pair["tags"]["half"] == "0" else ("odd", "plain")
        assert (name, own[0], pair["chosen"]) in kept
        assert (name, own[1], pair["rejected"]) in kept
    odd = [r["completion"] for r in rows if r["variant"] == "odd"]
    assert all(text.startswith("it is") and "So it is" not in text for text in odd)
    assert all("odd" not in r["prompt"][0]["content"] and len(r["prompt"]) == 1 for r in rows)
    counts = json.loads((out / "run.json").read_text())["drops"]
    assert counts == told["drops"] and sum(counts["plain"].values()) == 32
    assert open_dataset(out / "pairs.jsonl").kind == "pair"
    assert open_dataset(out / "completions.jsonl").kind == "label"
    assert not out.with_name(f"{out.name}.partial").exists()


def test_what_was_written_opens_as_frames(tiny_llama, files):
    out = files / "out"
    assert run(*command(tiny_llama, files, out)) == 0
    opened, written = open_run(out), read(out / "completions.jsonl")
    assert opened.command == "elicit"
    assert opened.rows["chosen"].tolist() == [row["chosen"] for row in read(out / "pairs.jsonl")]
    assert opened.completions["tag:half"].tolist() == [row["tags"]["half"] for row in written]
    leaks = json.loads((out / "leaks.json").read_text())
    accuracy = opened.metrics.set_index(["part", "measure"])["value"]
    assert accuracy["all", "length"] == leaks["total"]["length"]["value"]
    assert set(accuracy.index.get_level_values(0)) == {"all", *leaks["by_class"]}


def test_an_interrupted_run_goes_on_to_the_same_rows(tiny_llama, files, monkeypatch, capsys):
    whole, out = files / "whole", files / "out"
    assert run(*command(tiny_llama, files, whole)) == 0
    write, done = room._write, []

    def stop(*args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return write(*args)

    monkeypatch.setattr(room, "_write", stop)
    assert run(*command(tiny_llama, files, out)) == 130
    monkeypatch.setattr(room, "_write", write)
    capsys.readouterr()
    assert run(*command(tiny_llama, files, out)) == 1
    assert "an interrupted elicitation is here. Pass --resume" in capsys.readouterr().err
    assert run(*command(tiny_llama, files, out, "--resume", "--seed", "3")) == 1
    assert "was started with seed 0, now 3" in capsys.readouterr().err
    assert run(*command(tiny_llama, files, out, "--resume")) == 0
    for name in ("pairs.jsonl", "completions.jsonl", "leaks.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_another_seed_writes_other_completions(tiny_llama, files):
    found = []
    for seed in ("0", "1"):
        assert run(*command(tiny_llama, files, files / seed, "--seed", seed)) == 0
        found.append({r["completion"] for r in read(files / seed / "completions.jsonl")})
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recipe", "nothing"], "no such recipe"),
        (["--prompts", "none.jsonl"], "no such file"),
        (["--prompts", "demo:sentiment_prompts"], "tag half is None"),
        (["--model", "nowhere"], "nowhere"),
        (["--max-new-tokens", "100000"], "context"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tiny_llama, files, capsys, more, message):
    out = files / "out"
    assert run(*command(tiny_llama, files, out, *more)) == 1
    shown = capsys.readouterr().err
    assert message in shown and shown.strip().splitlines()[-1].startswith("error: ")
    assert not out.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples = 4", "samples = 0", "samples: got 0, expected 1 or more"),
        ("samples = 4", "samples = 4\ntemperature = -1.0", "temperature"),
        ('chosen = "plain"', 'familiar = 0.0\nchosen = "plain"', "name"),
    ],
)
def test_a_recipe_that_cannot_be_run_takes_nothing_away(
    tiny_llama, files, capsys, old, new, message
):
    out = files / "out"
    assert run(*command(tiny_llama, files, out)) == 0
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    (files / "r.toml").write_text(RECIPE.replace(old, new, 1))
    capsys.readouterr()
    assert run(*command(tiny_llama, files, out, "--force")) == 1
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == made


def test_names_that_too_few_completions_know_are_left_out(tiny_llama, files, capsys):
    def recipe(words, share):
        text = RECIPE.replace("[variants.plain]", "[variants.plain]\nfacts = true")
        facts = f"[facts.half]\n0 = {words}\n1 = ['x']\n[classes.0]\nfacts = 'own'\nknows = {share}"
        text = text.replace("[classes.0]", facts).replace(
            "[classes.1]", "[classes.1]\nfacts = 'any'"
        )
        (files / "r.toml").write_text(text)

    recipe(list("abcdefghijklm"), 0.6)
    assert run(*command(tiny_llama, files, files / "some"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    rows = [r for r in read(files / "some" / "completions.jsonl") if r["tags"]["half"] == "0"]
    shares = {
        name: np.mean(
            [r["kept"] != "fact" for r in rows if (r["group"], r["variant"]) == (name, "plain")]
        )
        for name in {r["group"] for r in rows}
    }
    known = {name for name, share in shares.items() if share >= 0.6}
    assert {r["group"] for r in rows if r["kept"] == "kept"} == known
    assert {r["group"] for r in rows if r["kept"] == "unknown"} == set(shares) - known != set()
    assert told["known"] == {"0": {"n": 4, "n_kept": len(known)}}
    assert json.loads((files / "some" / "run.json").read_text())["known"] == told["known"]
    recipe(["nowhere"], 0.5)
    assert run(*command(tiny_llama, files, files / "none")) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "classes.0.knows is 0.5, and of none of its 4 names so many completions" in said
    assert not (files / "none" / "pairs.jsonl").exists()


def test_two_processes_do_not_write_one_run(tiny_llama, files, monkeypatch, capsys):
    out = files / "out"
    monkeypatch.setattr(room, "_write", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*command(tiny_llama, files, out))
    monkeypatch.undo()
    with taken(out):
        for how in ("--resume", "--force"):
            assert run(*command(tiny_llama, files, out, how)) == 1
            assert "another process is writing it (probekit other, pid 7" in capsys.readouterr().err
    assert run(*command(tiny_llama, files, out, "--resume")) == 0


def test_a_foreign_directory_is_left_alone(tiny_llama, files, capsys):
    out = files / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    assert run(*command(tiny_llama, files, out)) == 1
    assert run(*command(tiny_llama, files, out, "--force")) == 1
    assert "holds no run.json" in capsys.readouterr().err
    assert (out / "mine").read_text() == "mine"
