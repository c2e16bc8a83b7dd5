"""`check` counts what is there and warns of what would spoil a probe."""

from __future__ import annotations

import itertools
import json
import statistics

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probekit.cli.main import main
from probekit.data import check, open_dataset


def report(tmp_path, rows, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return check(open_dataset(path, **options))


def run(*argv):
    try:
        main([str(arg) for arg in argv])
    except SystemExit as done:
        return done.code or 0
    return 0


def test_counts_and_statistics_by_hand(tmp_path):
    rows = [
        {"prompt": f"q{i}", "completion": "x" * (i + 1), "label": i % 2, "tags": {"t": "ab"[i % 2]}}
        for i in range(40)
    ]
    found = report(tmp_path, rows)
    assert (found.kind, found.rows, found.groups) == ("label", 40, 40)
    assert found.classes == {"0": 20, "1": 20}
    assert found.tags == {"t": {"a": 20, "b": 20}}
    assert found.length["all"] == {"mean": 20.5, "median": 20.5, "p95": 38.0, "max": 40.0}
    assert found.words["class 1"] == {"mean": 1.0, "median": 1.0, "p95": 1.0, "max": 1.0}
    # Class 1 has lengths 2, 4 .. 40 and class 0 1, 3 .. 39: 210 of 400 pairs are longer.
    assert found.length_auc == 210 / 400
    # Means one apart; both classes have the variance of 1, 3 .. 39.
    assert found.length_difference == round(1 / statistics.stdev(range(1, 40, 2)), 3)
    assert found.length_correlation is None
    assert (found.duplicates, found.conflicts, found.leaking_prompts, found.leaking_texts) == (
        0,
    ) * 4
    assert found.warnings == []


def test_words_are_counted_beside_characters(tmp_path):
    rows = [{"text": text, "score": i} for i, text in enumerate(["a bb ccc", "d\n e", " f"])]
    found = report(tmp_path, rows)
    assert found.words["all"] == {"mean": 2.0, "median": 2.0, "p95": 2.9, "max": 3.0}
    assert found.length["all"] == {"mean": 4.7, "median": 4.0, "p95": 7.6, "max": 8.0}
    assert found.length_correlation == round(float(np.corrcoef([0, 1, 2], [8, 4, 2])[0, 1]), 3)
    prompts = [{"prompt": [{"role": "system", "content": "be kind"}] * 3
                + [{"role": "user", "content": "who is it"}], "label": i} for i in range(2)]  # fmt: skip
    assert report(tmp_path, prompts).words["all"]["max"] == 3.0  # the last turn only


def test_length_auc_and_difference_against_another_computation(tmp_path):
    rng = np.random.default_rng()
    labels = np.repeat([0, 1], 30)
    lengths = rng.integers(1, 12, size=60)
    rows = [
        {"text": f"{'x' * n}", "label": int(y), "group": f"g{i}"}
        for i, (n, y) in enumerate(zip(lengths, labels, strict=True))
    ]
    found = report(tmp_path, rows)
    assert found.length_auc == pytest.approx(roc_auc_score(labels, lengths), abs=6e-4)
    low, high = lengths[:30], lengths[30:]
    pooled = np.sqrt((low.var(ddof=1) + high.var(ddof=1)) / 2)
    assert found.length_difference == pytest.approx((high.mean() - low.mean()) / pooled, abs=6e-4)
    pairs = [
        {"prompt": f"q{i}", "chosen": "x" * int(a), "rejected": "y" * int(b)}
        for i, (a, b) in enumerate(zip(high, low, strict=True))
    ]
    found = report(tmp_path, pairs)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(high, low, strict=True)]
    assert found.length_auc == pytest.approx(np.mean(wins), abs=6e-4)
    assert found.length_difference == pytest.approx((high.mean() - low.mean()) / pooled, abs=6e-4)
    assert set(found.length) == {"all", "chosen", "rejected"}


def test_a_class_may_be_called_all(tmp_path):
    found = report(tmp_path, [{"text": "a", "label": "all"}, {"text": "bbb", "label": "b"}])
    assert {name: row["max"] for name, row in found.length.items()} == {
        "all": 3.0,
        "class all": 1.0,
        "class b": 3.0,
    }


def test_every_lint(tmp_path):
    def warned(rows):
        return " | ".join(report(tmp_path, rows).warnings)

    pairs = [{"prompt": f"q{i}", "chosen": "long " * 9, "rejected": "a"} for i in range(30)]
    assert "the chosen side with AUC 1.00" in warned(pairs)
    assert "1 pairs have the same text" in warned(
        [*pairs, {"prompt": "z", "chosen": "a", "rejected": "a"}]
    )
    assert "duplicates: 1 rows repeat an earlier one |" in warned([*pairs, pairs[0]])
    labels = [{"text": f"t{i}", "label": "a"} for i in range(30)]
    assert "every label is 'a'" in warned(labels)
    same = [{"text": "same", "label": i % 2, "group": f"g{i}"} for i in range(30)]
    assert "leaking groups: 0 prompts and 1 texts" in warned(same)
    assert "29 rows repeat an earlier one, 15 of them with another target" in warned(same)
    assert "class '1' with AUC" not in warned(same)
    ratings = [{"text": f"t{i}", "score": 3} for i in range(5)]
    assert "every score is 3" in warned(ratings) and "few groups: 5" in warned(ratings)
    longer = [{"text": "x" * (i + 1), "score": i} for i in range(30)]
    assert "length and score correlate with r = +1.00" in warned(longer)


def test_what_leaks_and_what_does_not(tmp_path):
    def leaks(*rows):
        found = report(tmp_path, [{"label": i % 2, **row} for i, row in enumerate(rows)])
        return found.leaking_prompts, found.leaking_texts

    one, two = {"prompt": "q", "group": "1"}, {"prompt": "q", "group": "2"}
    assert leaks({**one, "completion": "a"}, {**one, "completion": "b"}) == (0, 0)
    assert leaks({**one, "completion": "a"}, {**two, "completion": "b"}) == (1, 0)
    # A short answer recurs under many prompts; a sentence does not by chance.
    other = {"prompt": "z", "group": "2"}
    assert leaks({**one, "completion": "Yes."}, {**other, "completion": "Yes."}) == (0, 0)
    sentence = "It is one of the moons."
    assert leaks({**one, "completion": sentence}, {**other, "completion": sentence}) == (0, 1)
    assert leaks({"text": "a", "group": "1"}, {"text": "a", "group": "2"}) == (0, 1)
    assert leaks({"text": "a"}, {"text": "a"}) == (0, 0)  # the group is the text's hash
    # The same user turn under another system prompt is another prompt.
    turn = {"role": "user", "content": "q"}
    chats = [[{"role": "system", "content": s}, turn] for s in "ab"]
    assert leaks({"prompt": chats[0], "group": "1"}, {"prompt": chats[1], "group": "2"}) == (0, 0)


def test_an_opening_that_tells_the_class(tmp_path):
    def warned(rows):
        return [line for line in report(tmp_path, rows).warnings if "opening" in line]

    words = [" ".join(pair) for pair in itertools.product("abcdefgh", repeat=2)]
    plain = [{"text": f"{w} {i}", "label": i % 2} for i, w in enumerate(words)]
    assert warned(plain) == []
    hedged = [
        {**row, "text": "I am not " + row["text"]} if row["label"] and i % 4 == 1 else row
        for i, row in enumerate(plain)
    ]
    assert warned(hedged) == [
        "telling opening: 50% of class '1' and 0% of class '0' begin with 'i am not'"
    ]
    both = [{**row, "text": "I am not " + row["text"]} for row in plain]
    assert warned(both) == []
    pairs = [{"prompt": w, "chosen": f"{w} sure", "rejected": f"Well, {w}"} for w in words]
    assert warned(pairs) == [
        "telling opening: 0% of chosen and 100% of rejected begin with 'well,'"
    ]


def test_outlying_scores(tmp_path):
    def warned(scores):
        rows = [{"text": f"{i:03d}", "score": score} for i, score in enumerate(scores)]
        return [line for line in report(tmp_path, rows).warnings if "outlying" in line]

    scale = [float(i % 10 + 1) for i in range(60)]
    assert warned(scale) == []
    assert warned([*scale, 999.0]) == [
        "outlying scores: 1 lie more than 8 standard deviations from the median 6, as 999"
    ]
    assert warned([5.0] * 50 + [4.0, 6.0]) == []  # more than half the same is no fault


def test_the_command_prints_what_the_report_holds(tmp_path, capsys):
    def transcript(answer):
        return f"\n\nHuman: hi there\n\nAssistant: {answer}"

    path = tmp_path / "hh.jsonl"
    rows = [{"chosen": transcript("good one"), "rejected": transcript("bad")}] * 2
    rows.append({"chosen": transcript(""), "rejected": transcript("bad")})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("data", "check", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 2 pair rows in 1 groups, layout hh-rlhf"
    assert "left out    empty response: 1" in lines
    assert "duplicates  1" in lines
    assert "chosen             2       2       2       2         8       8       8       8" in lines
    assert any(line.startswith("warning: few groups: 1") for line in lines)
    assert run("data", "check", path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(check(open_dataset(path)).to_json()))
    assert found["dropped"] == {"empty response": 1}


def test_the_command_takes_options_and_names_a_bad_row(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    row = {"prompt": "q", "response": "r s", "helpfulness": 3, "verbosity": 1, "model": "m"}
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "verbosity": 2}) + "\n")
    layout = ["--layout", "helpsteer:verbosity", "--tag", "model"]
    assert run("data", "check", path, *layout, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["score_range"], found["tags"]["model"]) == ([1.0, 2.0], {"m": 2})
    path.write_text(json.dumps(row) + "\n" + json.dumps({"prompt": "q"}) + "\n")
    assert run("data", "check", path, "--json") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {path}:2: does not have the columns")
    assert err.count("\n") == 1
