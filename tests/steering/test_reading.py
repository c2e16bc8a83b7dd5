"""What the unsteered model reads off a text, computed a second way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probekit.activations.positions import PositionRule
from probekit.models.sampling import Completion, SamplingConfig, sample
from probekit.probes import Probe
from probekit.probes.scoring import Scorer
from probekit.steering import steered
from probekit.steering.reading import Reader, distinct


@pytest.fixture(scope="module")
def probes(fitted):
    return Probe.load_layers(fitted)


@pytest.fixture
def written(loaded, rendered, vector):
    with steered(loaded, vector, 1.0):
        done = sample(loaded, rendered, SamplingConfig(max_new_tokens=12, samples=3))
    rows = [c.rendered(rendered[c.prompt], 2) for c in done]
    return rows, [len(c.ids) for c in done]


def logits(loaded, row):
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    with torch.inference_mode():
        return loaded.model(input_ids=ids).logits[0].float().log_softmax(-1)


@pytest.mark.parametrize("batch_tokens", [20, 4096])
def test_scores_likelihood_and_divergence_are_those_of_single_passes(
    loaded, probes, written, vector, batch_tokens
):
    rows, n_new = written
    reader = Reader(loaded, probes, batch_tokens=batch_tokens)
    found = reader.read(rows, n_new, lambda: steered(loaded, vector, 1.0, backend=reader.backend))
    scorer = Scorer(probes[1], loaded)
    for row, n, reading in zip(rows, n_new, found, strict=True):
        if row.start == row.stop:
            assert math.isnan(reading.scores[probes[1].layer])
        else:
            wanted = scorer.score([row])[0]
            assert reading.scores[probes[1].layer] == pytest.approx(wanted, abs=1e-4)
        at = torch.arange(row.start, row.start + n)
        clean = logits(loaded, row)[at - 1]
        with steered(loaded, vector, 1.0):
            moved = logits(loaded, row)[at - 1]
        own = torch.from_numpy(row.ids.astype(np.int64))[at]
        nll = -clean[torch.arange(n), own].mean()
        kl = torch.nn.functional.kl_div(clean, moved, log_target=True, reduction="sum") / n
        assert reading.nll == pytest.approx(float(nll), abs=1e-4)
        assert reading.kl == pytest.approx(float(kl), abs=1e-4)
        assert reading.kl > 0.01


def test_without_steering_nothing_diverges(loaded, probes, written, vector):
    rows, n_new = written
    reader = Reader(loaded, probes)
    assert all(r.kl == 0.0 for r in reader.read(rows, n_new))
    zero = reader.read(rows, n_new, lambda: steered(loaded, vector, 0.0, backend=reader.backend))
    assert all(r.kl == 0.0 for r in zero)


def test_a_text_that_the_rule_cannot_read_has_likelihood_but_no_score(loaded, probes, written):
    rows, n_new = written
    reader = Reader(loaded, probes)
    reader.rule = PositionRule("token:400")
    for row, reading in zip(rows, reader.read(rows, n_new), strict=True):
        assert row.stop >= row.start
        assert math.isfinite(reading.nll)
        assert all(math.isnan(score) for score in reading.scores.values())


def test_an_empty_completion_has_no_score_but_the_likelihood_of_its_end(loaded, probes, rendered):
    empty = Completion(0, 0, np.array([2], dtype=np.int32), np.zeros(1, dtype=np.float32), True)
    row = empty.rendered(rendered[0], 2)
    (reading,) = Reader(loaded, probes).read([row], [1])
    assert all(math.isnan(score) for score in reading.scores.values())
    assert reading.nll == pytest.approx(-float(logits(loaded, row)[-2, 2]), abs=1e-4)


def test_distinct_n():
    assert distinct([1, 2, 3, 1], 1) == 0.75
    assert distinct([1, 2, 1, 2, 1], 2) == 0.5
    assert math.isnan(distinct([1], 2))
