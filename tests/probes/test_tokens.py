"""Texts without labels: scored in files of every kind, a score a token, and what is made of those."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from scipy.special import softmax

from probekit.activations.table import Cell
from probekit.data.texts import open_unlabelled
from probekit.errors import DataError, ProbeError
from probekit.models.load import load_model
from probekit.probes import Probe
from probekit.probes.aggregate import Aggregate
from probekit.probes.probe import save_probes
from probekit.probes.scoring import Scorer, score_tokens
from tests.cli.test_cli import run
from tests.tiny import D_MODEL

LAYER = 1
RULES = ("mean", "max", "last", "rolling:3", "ema:0.3", "softmax:2")


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory):
    """A probe with random weights, where `probekit fit` would leave one."""
    made = tmp_path_factory.mktemp("probe") / "sweep"
    made.mkdir()
    rng = np.random.default_rng()
    probe = Probe(
        kind="logistic", head=None, cell=Cell("resid_post", LAYER, "mean"), coef=rng.normal(size=D_MODEL),
        bias=0.3, l2=1.0, data_kind="label", classes=("bad", "good"), provenance=loaded.describe(),
    )  # fmt: skip
    save_probes(made, [probe], 0)
    return made


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text(
        "".join(f"a line of text, number {i}{' and more' * (i % 4)}\n" for i in range(12))
    )
    return path


def by_hand(probe, loaded, ids):
    """Return the head on Hugging Face's own hidden states of every token."""
    with torch.inference_mode():
        states = loaded.model(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
    return states[LAYER + 1][0].double().numpy() @ probe.coef + probe.bias


def test_every_token_has_the_score_of_its_hidden_state(folder, loaded, texts, tmp_path):
    out = tmp_path / "tokens.jsonl"
    assert run("score", "--probe", folder, "--data", texts, "--per-token", "--out", out) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"row-{i:06d}" for i in range(1, 13)]
    written = texts.read_text().splitlines()
    probe = Probe.load(folder)
    for line, text in zip(lines, written, strict=True):
        assert "".join(line["tokens"]) == text
        whole = loaded.tokenizer(text)["input_ids"]
        start = len(whole) - len(line["token_ids"])
        assert line["token_ids"] == whole[start:]
        expected = by_hand(probe, loaded, whole)[start:]
        np.testing.assert_allclose(line["scores"], expected, rtol=1e-3, atol=1e-3)


def test_tokens_of_an_answer_and_of_a_prompt_alone(folder, loaded):
    probe = Probe.load(folder)
    talk = {
        "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "Yes."}]
    }
    rows = [talk, {"prompt": "Q?"}, {"prompt": "Q?", "chosen": "Yes.", "rejected": "No"}]
    scorer = Scorer(probe, loaded)
    texts = [open_unlabelled([row]) for row in rows]
    assert [text.n_examples for text in texts] == [1, 1, 2]
    found = [list(score_tokens(scorer, text.examples(), source="x")) for text in texts]
    answer, prompt, (chosen, rejected) = found[0][0], found[1][0], found[2]
    assert "".join(answer["tokens"]) == "Yes." and answer["scores"] == pytest.approx(
        chosen["scores"]
    )
    assert (chosen["side"], rejected["side"]) == ("chosen", "rejected")
    assert "".join(rejected["tokens"]) == "No" and "Q?" in "".join(prompt["tokens"])
    template = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q?"}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
    )["input_ids"]
    assert prompt["token_ids"] == list(template)
    np.testing.assert_allclose(
        prompt["scores"], by_hand(probe, loaded, template), rtol=1e-3, atol=1e-3
    )


def plainly(rule, scores):
    """Return an aggregate by the words of its definition."""
    name, _, number = rule.partition(":")
    if name == "rolling":
        k = int(number)
        return max(np.mean(scores[i : i + k]) for i in range(max(1, len(scores) - k + 1)))
    if name == "ema":
        smooth = [scores[0]]
        for score in scores[1:]:
            smooth.append(float(number) * score + (1 - float(number)) * smooth[-1])
        return max(smooth)
    if name == "softmax":
        return float(np.sum(softmax(np.array(scores) / float(number)) * scores))
    return {"mean": np.mean, "max": np.max, "last": lambda values: values[-1]}[name](scores)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_aggregates_are_what_they_say(rule, n, rng):
    scores = rng.normal(size=n) * 3
    assert Aggregate.parse(rule)(scores) == pytest.approx(plainly(rule, scores.tolist()))


def test_aggregates_have_defaults_and_limits():
    scores = np.array([1.0, 3.0, -2.0])
    for short, long in (("ema", "ema:0.5"), ("softmax", "softmax:1")):
        assert Aggregate.parse(short)(scores) == Aggregate.parse(long)(scores)
    assert Aggregate.parse("softmax:0.001")(scores) == pytest.approx(3.0)
    assert Aggregate.parse("softmax:100000")(scores) == pytest.approx(scores.mean(), abs=1e-3)
    for bad in (
        "",
        "median",
        "rolling",
        "rolling:0",
        "ema:0",
        "ema:1.5",
        "softmax:0",
        "max:2",
        "ema:",
    ):
        with pytest.raises(ProbeError, match="Expected mean, max, last, rolling:K"):
            Aggregate.parse(bad)


@pytest.mark.parametrize("rule", RULES)
def test_texts_are_scored_by_their_tokens(folder, texts, tmp_path, rule, capsys):
    out = tmp_path / "tokens.jsonl"
    assert run("score", "--probe", folder, "--data", texts, "--per-token", "--out", out) == 0
    tokens = [json.loads(line) for line in out.read_text().splitlines()]
    capsys.readouterr()
    assert run("score", "--probe", folder, "--data", texts, "--aggregate", rule) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # The tokenizer puts nothing before a text: its own first token, which stands apart, is left out.
    expected = [plainly(rule, np.array(line["scores"][1:])) for line in tokens]
    assert [line["score"] for line in found] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert all(
        set(line) == {"id", "score"} for line in found
    )  # no probability: on no scale of the fit


def test_the_mean_over_tokens_is_the_score_of_a_head_on_the_mean(folder, texts, capsys):
    found = []
    for more in ([], ["--aggregate", "mean"]):
        assert run("score", "--probe", folder, "--data", texts, *more) == 0
        found.append([json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()])
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("more", [[], ["--per-token"]])
def test_parquet_holds_the_rows_of_jsonl(folder, texts, tmp_path, more):
    paths = [tmp_path / "s.jsonl", tmp_path / "s.parquet"]
    for path in paths:
        assert run("score", "--probe", folder, "--data", texts, *more, "--out", path) == 0
    lines = [json.loads(line) for line in paths[0].read_text().splitlines()]
    table = [
        {k: v for k, v in row.items() if v is not None}
        for row in parquet.read_table(paths[1]).to_pylist()
    ]
    for line, row in zip(lines, table, strict=True):
        assert line.keys() == row.keys()
        assert all(line[k] == row[k] for k in line if k not in ("score", "scores", "probability"))
        for k in line.keys() & {"score", "scores", "probability"}:
            np.testing.assert_allclose(row[k], line[k], rtol=1e-5, atol=1e-5)


def test_labels_are_not_needed_and_not_looked_at(folder, tmp_path, capsys):
    rows = [{"sentence": f"text {i}", "label": name} for i, name in enumerate("abcd")]
    plain = [row["sentence"] for row in rows]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "plain.txt").write_text("\n".join(plain))
    found = []
    for name in ("labels.jsonl", "plain.txt"):
        assert run("score", "--probe", folder, "--data", tmp_path / name) == 0
        told = capsys.readouterr()
        found.append([json.loads(line)["score"] for line in told.out.splitlines()])
        assert "4 rows" in told.err
    assert found[0] == found[1] and len(found[0]) == 4


def test_a_row_without_a_text_is_named_before_anything_is_scored(folder, tmp_path, capsys):
    path, out = tmp_path / "t.jsonl", tmp_path / "s.parquet"
    path.write_text('{"text": "a"}\n{"blurb": "b"}\n')
    assert run("score", "--probe", folder, "--data", path, "--out", out) == 1
    told = capsys.readouterr()
    assert "t.jsonl:2: has no text, prompt or completion" in told.err and "--text-field" in told.err
    assert not told.out and sorted(p.name for p in tmp_path.iterdir()) == ["t.jsonl"]
    assert run("score", "--probe", folder, "--data", path, "--per-token", "--aggregate", "max") == 2
    with pytest.raises(DataError, match="has no rows"):
        open_unlabelled([])


def test_memory_does_not_grow_with_the_rows(tmp_path):
    path, peaks = tmp_path / "t.txt", []
    for n in (2_000, 40_000):
        path.write_text("".join(f"line {i}\n" for i in range(n)))
        open_unlabelled(path, limit=10)  # what is made once
        tracemalloc.start()
        assert sum(1 for _ in open_unlabelled(path).examples()) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000
