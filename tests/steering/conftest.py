"""Tiny models with prompts of unequal lengths, and a fit to steer with."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.store import ActivationStore
from probekit.container import write_json
from probekit.data.rows import Example, Message
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.probes import SweepConfig, fit_sweep
from probekit.probes.scoring import reference_rows
from probekit.steering import SteeringVector
from tests.activations.memory import MemoryRows
from tests.tiny import D_MODEL, save_tiny

QUESTIONS = ["hi", "hello there, you", "a", "what is it?", "go on", "tell me more now"]


def prompts(questions=QUESTIONS):
    return [
        Example(f"p{i}", f"p{i}", (Message("user", text),), tags={"half": str(i % 2)})
        for i, text in enumerate(questions)
    ]


def labelled():
    """Return rows of two classes that differ in their words."""
    rng = np.random.default_rng(0)
    return [
        Example(
            f"r{i}", f"g{i}", (Message("user", "say"),), word * int(rng.integers(2, 6)), label=k
        )
        for i, (word, k) in enumerate([("ab ", "ab"), ("xy ", "xy")] * 30)
    ]


@pytest.fixture(scope="session")
def loaded(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


@pytest.fixture(scope="session")
def rendered(loaded):
    return [render(prompt, loaded.tokenizer) for prompt in prompts()]


@pytest.fixture
def vector():
    rng = np.random.default_rng(5)
    return SteeringVector({1: 2.0 * rng.standard_normal(D_MODEL)})


@pytest.fixture(scope="session", params=["gpt2", "gemma2", "gemma3_text", "qwen3", "gpt_neox"])
def other_loaded(request, tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("models") / request.param, request.param)
    return load_model(str(folder), dtype="float32")


@pytest.fixture(scope="session")
def fitted(loaded, tmp_path_factory):
    """The directory of a fit of labels on the tiny model, all layers, position mean."""
    folder = tmp_path_factory.mktemp("fit")
    config = CacheConfig(positions="mean")
    data = MemoryRows(labelled(), kind="label", classes=("ab", "xy"))
    cache_activations(loaded, data, folder / "acts.h5", config=config).close()
    with ActivationStore.open(folder / "acts.h5") as store:
        result = fit_sweep(store, SweepConfig())
        result = result.with_reference(reference_rows(store, result.probe))
        result.save(folder)
    write_json(folder / "run.json", {**result.fit, "arguments": {"store": str(folder / "acts.h5")}})
    return folder
