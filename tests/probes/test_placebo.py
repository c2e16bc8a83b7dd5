"""Placebos: unrelated contrasts, fitted as the probe is and brought down to its accuracy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import probekit
from probekit.activations.table import Cell
from probekit.data.rows import Example, Message
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.probes import Probe
from probekit.probes.placebo import FLIPPED, placebos
from probekit.probes.scoring import Scorer
from probekit.probes.splits import split_by_group
from tests.tiny import D_MODEL

ROWS = Path(probekit.__file__).parent / "data" / "demo" / "placebos.jsonl"


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


def probe(data_kind, kind, *, position="mean", target=None):
    name = {"pair": "pair_accuracy", "label": "auroc", "rating": "pearson"}[data_kind]
    return Probe(
        kind=kind, head=None, cell=Cell("resid_post", 1, position), coef=np.ones(D_MODEL), bias=0.0,
        l2=None, data_kind=data_kind, classes=("bad", "good") if data_kind == "label" else None,
        metrics={} if target is None else {name: {"value": target, "low": None, "high": None}},
    )  # fmt: skip


def test_the_contrasts_are_minimal_pairs_in_ten_wordings():
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    contrasts = {row["tags"]["contrast"] for row in rows}
    assert len(contrasts) == 6 and len(rows) == 240
    assert len({(row["chosen"], row["rejected"]) for row in rows}) == 240
    for contrast in contrasts:
        own = [row for row in rows if row["tags"]["contrast"] == contrast]
        assert len({row["group"] for row in own}) == 10
        gaps = [len(row["chosen"].split()) - len(row["rejected"].split()) for row in own]
        assert abs(np.mean(gaps)) < 1.5  # words: neither side is told by its length


@pytest.mark.parametrize(
    ("data_kind", "kind"),
    [
        ("pair", "bradley-terry"), ("label", "logistic"), ("label", "mean-difference"),
        ("rating", "ridge"),
    ],
)  # fmt: skip
def test_a_placebo_scores_its_own_contrast_as_it_says(loaded, data_kind, kind):
    """The held-out measure is that of the model's own readings of the sentences, one by one."""
    found = placebos(probe(data_kind, kind), loaded, [0, 1], most=1)
    assert [placebo.name for placebo in found] == ["cooking/astronomy"]
    fitted = found[0].probes[1]
    assert fitted.cell == Cell("resid_post", 1, "mean") and fitted.kind == kind
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()][:40]
    scorer = Scorer(fitted, loaded)
    scores = scorer.score(
        [
            render(Example("", "", (Message("user", row["prompt"]),), row[side]), loaded.tokenizer)
            for row in rows
            for side in ("chosen", "rejected")
        ]
    )
    first = np.tile([1, 0], len(rows))
    group = np.repeat([row["group"] for row in rows], 2)
    pairs = data_kind == "pair"
    part = slice(None, None, 2) if pairs else slice(None)
    splits = split_by_group(group[part], strata=first if data_kind == "label" else None)
    held = np.concatenate([splits.choose, splits.report])
    margin = scores[::2] - scores[1::2]
    expected = {
        "pair": lambda: np.mean(margin[held] > 0),
        "label": lambda: roc_auc_score(first[held], scores[held]),
        "rating": lambda: np.corrcoef(first[held], scores[held])[0, 1],
    }[data_kind]()
    assert found[0].held_out[1] == pytest.approx(expected, abs=1e-3)


def test_a_placebo_is_brought_down_to_the_probe(loaded):
    """With a measure to match, the nearest of the candidates is taken; without one, nothing is turned."""
    free = placebos(probe("label", "mean-difference"), loaded)
    assert all(placebo.flipped == [0.0] for placebo in free)
    target = 0.7
    matched = placebos(probe("label", "mean-difference", target=target), loaded)
    for before, after in zip(free, matched, strict=True):
        assert abs(after.held_out[0] - target) <= abs(before.held_out[0] - target) + 1e-12
        assert after.flipped[0] in FLIPPED
    assert sum(placebo.flipped[0] > 0 for placebo in matched) >= 1
    again = placebos(probe("label", "mean-difference", target=target), loaded)
    assert [p.held_out for p in again] == [p.held_out for p in matched]


def test_a_probe_of_the_prompts_end_reads_the_sentence_as_the_prompt(loaded):
    found = placebos(probe("label", "mean-difference", position="prompt_end"), loaded, most=2)
    assert all(np.isfinite(placebo.held_out[0]) for placebo in found)
    assert any(np.abs(placebo.probes[0].coef).max() > 0 for placebo in found)


def test_a_position_past_the_sentences_has_no_placebo(loaded):
    assert placebos(probe("label", "logistic", position="token:500"), loaded) == []


def test_a_layer_that_does_not_tell_a_contrast_apart_has_no_placebo(loaded):
    """The embedding of the token that ends a turn is the same in every row."""
    like = dataclasses.replace(
        probe("label", "mean-difference", position="turn_end"),
        cell=Cell("resid_pre", 0, "turn_end"),
    )
    assert placebos(like, loaded) == []


def test_several_layers_are_read_as_one_would_be(loaded):
    like = probe("label", "mean-difference")
    both = placebos(like, loaded, [0, 1], most=1)[0]
    alone = placebos(dataclasses.replace(like, cell=Cell("resid_post", 0, "mean")), loaded, most=1)
    np.testing.assert_allclose(both.probes[0].coef, alone[0].probes[0].coef, rtol=1e-5, atol=1e-6)
