"""A probe steers in residual norms with one call, in whatever holds the model."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from probekit.activations.cache import cache_activations
from probekit.data.prompts import open_prompts
from probekit.errors import SteeringError
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.probes import Probe, fit_sweep
from probekit.steering import SteeringVector, residual_norms, steered
from tests.models.test_memory import adapted, bridge, traced

IDS = torch.arange(9)[None] + 5


@pytest.fixture
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)


@pytest.fixture(scope="module")
def probe(tiny_llama):
    rows = [{"text": f"{w} {i}", "label": w} for i, w in enumerate(["good", "bad"] * 20)]
    loaded = load_model(str(tiny_llama), dtype="float32")
    with cache_activations(loaded, rows, layers=[1], positions="mean") as store:
        return fit_sweep(store, n_boot=9).probe


@contextlib.contextmanager
def by_hand(model, probe, size):
    """Add a vector of a size at the output of the probe's block."""
    delta = torch.tensor(size * probe.coef / np.linalg.norm(probe.coef), dtype=torch.float32)
    block = model.model.layers[probe.layer]
    handle = block.register_forward_hook(lambda module, args, out: out + delta)
    try:
        yield
    finally:
        handle.remove()


def test_a_coefficient_counts_the_norms_that_the_store_recorded(model, probe):
    norm = probe.provenance["residual_norms"]["resid_post"]["1"]
    with by_hand(model, probe, 0.3 * norm):
        expected = model(IDS).logits
    before = model(IDS).logits
    with steered(model, probe, 0.3):
        torch.testing.assert_close(model(IDS).logits, expected)
    assert torch.equal(model(IDS).logits, before) and not torch.allclose(before, expected, atol=0.1)
    vector = SteeringVector.from_probes([probe]).in_norms({1: norm})
    with steered(model, vector, 0.3):
        torch.testing.assert_close(model(IDS).logits, expected)


@pytest.mark.parametrize("wrap", [bridge, traced, adapted])
def test_the_same_in_every_wrapper(wrap, model, probe, tiny_llama):
    tokenizer = load_model(str(tiny_llama)).tokenizer
    norm = probe.provenance["residual_norms"]["resid_post"]["1"]
    plain = (
        adapted(copy.deepcopy(model)).get_base_model() if wrap is adapted else copy.deepcopy(model)
    )
    with by_hand(plain, probe, 0.3 * norm), torch.no_grad():
        expected = plain(IDS).logits
    wrapped = wrap(model) if wrap is adapted else wrap(model, tokenizer)
    with torch.no_grad(), steered(wrapped, probe, 0.3):
        if wrap is traced:
            with wrapped.trace(IDS):
                found = wrapped.output.logits.save()
        else:
            found = wrapped(IDS)
    found = getattr(found, "logits", found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_a_record_the_norm_is_measured(model, probe, tiny_llama):
    loaded = load_model(model, tokenizer=load_model(str(tiny_llama)).tokenizer)
    bare = dataclasses.replace(probe, provenance={}, reference=None)
    prompts = open_prompts("demo:sentiment_prompts", limit=16)
    rows = [render(prompt, loaded.tokenizer) for prompt in prompts]
    norm = residual_norms(loaded, rows, [1])[1]
    with by_hand(model, probe, 0.2 * norm):
        expected = model(IDS).logits
    with steered(loaded, bare, 0.2):
        torch.testing.assert_close(model(IDS).logits, expected)
    with (
        pytest.raises(SteeringError, match="^probe: its record has no residual norm"),
        steered(model, bare, 0.2),
    ):
        pass
    kept = dataclasses.replace(probe, provenance={})
    norms = []
    for row in probe.reference["rows"]:
        states = model(torch.tensor([row["ids"]]), output_hidden_states=True).hidden_states[2]
        norms += states[0, 1:].norm(dim=-1).tolist()
    with by_hand(model, probe, 0.2 * float(np.mean(norms))):
        expected = model(IDS).logits
    with steered(model, kept, 0.2):
        torch.testing.assert_close(model(IDS).logits, expected)


def test_what_is_no_vector_is_refused_in_one_line(model, probe):
    with (
        pytest.raises(
            SteeringError, match="^vector: got a str, expected a SteeringVector or Probe"
        ),
        steered(model, "sweep"),
    ):
        pass
    wide = Probe(
        "logistic", None, probe.cell, np.ones(5), 0.0, None, "label", provenance=probe.provenance
    )
    with (
        pytest.raises(SteeringError, match="is 5 wide, the model's residual stream 16"),
        steered(model, wide, 0.1),
    ):
        pass
