"""The study of ratings: its stages by what the rows allow, its page from small runs, its claims."""

from __future__ import annotations

import json

import numpy as np
import pytest

from probekit.errors import DataError
from probekit.results.findings import ABOVE, BELOW, INCLUDES
from probekit.results.ratings_study import RatingsStudy, model_name
from probekit.results.study import StudyRun
from probekit.studies.study import find_study
from tests.cli.test_cli import run
from tests.reports.golden import page_text


def _rows(path, *, prompts=True, several=True, n=90, kind="score"):
    """Write rated rows; a prompt has two completions, or one."""
    rows = []
    for i in range(n):
        score = i % 5 + 1
        told = score if kind == "score" else score % 2
        row = {"completion": " ".join("abcdef"[score] * 2 for _ in range(1 + i % 4)), kind: told}
        if prompts:
            row["prompt"] = f"say {i // 2 if several else i}"
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _plan(tmp_path, source, **more):
    return find_study("ratings").plan(
        tmp_path / "out", model="tiny", data=source, quick=True, **more
    )


def test_stages_are_those_that_the_rows_allow(tmp_path):
    names = lambda source: {s.name for s in _plan(tmp_path, source)}  # noqa: E731
    whole = names(_rows(tmp_path / "whole.jsonl"))
    assert {
        "steer",
        "dpo",
        "compare",
        "amplify/2",
        "positions/prompt_end",
        "tokens",
        "stack",
    } <= whole
    one = names(_rows(tmp_path / "one.jsonl", several=False))
    assert "steer" in one
    assert not {"dpo", "pairs", "compare", "amplify/0"} & one
    bare = names(_rows(tmp_path / "bare.jsonl", prompts=False))
    assert not {"steer", "dpo", "positions/prompt_end"} & bare
    assert "tokens" in bare


def test_every_command_of_the_study_is_one(tmp_path):
    """The words of every stage are understood: no option is misspelled."""
    import click

    from probekit.cli.main import cli

    source = _rows(tmp_path / "whole.jsonl")
    for stage in _plan(tmp_path, source, models=("other",), options=("--threads", "1")):
        words = ["WORD" if not isinstance(word, str) else word for word in stage.command] + [
            "--out",
            "OUT",
        ]
        command: click.Command = cli
        context = click.Context(command)
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        command.make_parser(context).parse_args(words)


def test_other_rows_and_foreign_options_are_refused(tmp_path):
    source = _rows(tmp_path / "labels.jsonl", kind="label")
    with pytest.raises(DataError, match="has label rows, expected ratings"):
        _plan(tmp_path, source)
    ratings = _rows(tmp_path / "ratings.jsonl")  # 1 to 5
    with pytest.raises(
        DataError, match="ratings.jsonl:5: row row-000005: rating 5 is outside of the scale 1:4"
    ):
        _plan(tmp_path, ratings, scale="1:4")
    with pytest.raises(DataError, match="scale '5:1': expected LOW:HIGH"):
        _plan(tmp_path, ratings, scale="5:1")
    (tmp_path / "alike.jsonl").write_text('{"prompt": "a", "completion": "b", "score": 3}\n' * 9)
    with pytest.raises(DataError, match="alike.jsonl: every rating is 3"):
        _plan(tmp_path, str(tmp_path / "alike.jsonl"))
    with pytest.raises(DataError, match="got --data rows.jsonl, expected none"):
        find_study("knowledge-awareness").plan(tmp_path, model="tiny", data="rows.jsonl")
    with pytest.raises(DataError, match="got --models a,b, expected none"):
        find_study("knowledge-awareness").plan(tmp_path, model="tiny", models=("a", "b"))


def test_names_of_models_are_names_of_files():
    assert model_name("org/Model-1.5B") == "Model-1.5B"
    assert model_name("/some/where/a b.gguf") == "a-b.gguf"
    assert model_name("../") == "model"


def _amplified(folder, ratings, texts):
    """Write completions of 30 prompts at k = 0, 1, 2 ... with these mean ratings and texts."""
    rng = np.random.default_rng(0)
    place = folder / "amplify"
    place.mkdir(parents=True)
    noise = rng.normal(size=30)
    for k, (mean, text) in enumerate(zip(ratings, texts, strict=True)):
        rows, scores = [], []
        for i in range(30):
            rows.append({"id": f"p{i}", "group": f"g{i}", "completion": text})
            rating = mean + noise[i] + 0.1 * rng.normal()
            scores.append({"id": f"p{i}", "score": rating / 5, "rating": rating})
        for name, what in ((f"{k}.jsonl", rows), (f"{k}.scores.jsonl", scores)):
            (place / name).write_text("".join(json.dumps(row) + "\n" for row in what))
    record = {
        "command": "study",
        "study": "ratings",
        "model": "tiny",
        "seed": 0,
        "quick": True,
        "stages": [],
    }
    (folder / "study.json").write_text(json.dumps(record))
    return RatingsStudy(StudyRun.open(folder))


FRESH, AGAIN = "one two three four five six", "one two one two one two one two"


def test_a_rise_counts_until_texts_repeat_themselves(tmp_path):
    found = _amplified(tmp_path / "a", [4.0, 5.0, 6.0, 9.0], [FRESH, FRESH, FRESH, AGAIN])
    claims = {claim.id: claim for claim in found.claims}
    assert found.damaged_from == 3
    assert claims["rises"].key == claims["beyond"].key == ABOVE
    assert claims["rises"].value.value == pytest.approx(1.0, abs=0.1)
    # What the probe gives to repetition is not counted.
    assert claims["beyond"].value.value == pytest.approx(1.0, abs=0.1)
    assert claims["beyond"].more["to"] == 2

    found = _amplified(tmp_path / "b", [4.0, 5.0, 4.0, 4.5], [FRESH] * 4)
    claims = {claim.id: claim for claim in found.claims}
    assert found.damaged_from is None
    assert claims["beyond"].key == BELOW
    found = _amplified(tmp_path / "c", [4.0, 4.0, 4.0], [FRESH] * 3)
    assert {c.id: c.key for c in found.claims}["rises"] == INCLUDES


@pytest.mark.real_model
def test_the_study_runs_and_its_page_says_what_was_found(real_model, tmp_path, capsys):
    out = tmp_path / "out"
    source = _rows(tmp_path / "rows.jsonl", n=120)
    command = ["study", "ratings", "--quick", "--model", real_model, "--data", source, "--out", out]
    assert run(*command) == 0
    said = page_text((out / "report.html").read_text())
    sweep = json.loads((out / "positions/last/sweep.json").read_text())
    r = sweep["report"]["pearson"]
    assert f"r {r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" in said.replace("−", "-")
    for heading in (
        "How early is the rating known?",
        "Tuned on preferences",
        "Amplifying what tuning changed",
    ):
        assert heading in said
    assert "absent" not in said
    assert run(*command) == 0
    assert "is done" in capsys.readouterr().err
