"""The digest of weights: every value counts, once, the same wherever and in whatever pieces it is read."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from probekit.activations.table import Cell
from probekit.errors import ModelError, ProbeError, SteeringError
from probekit.models import identity
from probekit.models.load import load_model
from probekit.probes import Probe
from probekit.probes.scoring import Scorer
from probekit.provenance import agrees
from probekit.steering import SteeringVector
from probekit.steering.intervention import check_same_model
from tests.tiny import D_MODEL, save_tiny, tiny_model

KINDS = ["llama", "gpt2", "gemma2", "deepseek_v3", "qwen3_moe", "mamba"]


def by_hand(weight, block):
    """The sums of a weight's blocks of words in Python's own integers."""
    raw = weight.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    words = np.frombuffer(raw, dtype="<i4" if len(raw) % 4 == 0 else "<i2").tolist()
    odd = [n % (1 << 64) for n in identity._odd_numbers()[:block].tolist()]
    blocks = range(0, len(words) // block * block + 1, block)
    sums = (
        sum(w * odd[i] for i, w in enumerate(words[at : at + block])) % (1 << 64) for at in blocks
    )
    return [s - (1 << 64) if s >> 63 else s for s in sums]


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (7,), (2, 4, 3), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_those_of_plain_arithmetic(monkeypatch, shape, dtype):
    monkeypatch.setattr(identity, "BLOCK", 5)
    identity._odd_numbers.cache_clear()
    weight, odd = torch.randn(shape).to(dtype), torch.from_numpy(identity._odd_numbers())
    if weight.ndim == 2:
        weight = weight.T  # not in order in memory
    assert identity._sums(weight, odd).tolist() == by_hand(weight, 5)
    identity._odd_numbers.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_any_changed_bit_of_any_weight_changes_the_digest(kind):
    model, seed = tiny_model(kind), random.randrange(1 << 32)
    rng, before = random.Random(seed), identity.weights_digest(model)
    assert identity.weights_digest(copy.deepcopy(model)) == before
    for name, weight in model.state_dict().items():
        raw = weight.view(-1).view(torch.uint8)  # the weight's own memory
        at, bit = rng.randrange(len(raw)), 1 << rng.randrange(8)
        raw[at] ^= bit
        assert identity.weights_digest(model) != before, (name, at, bit, seed)
        raw[at] ^= bit
    assert identity.weights_digest(model) == before


def test_many_signs_and_two_values_that_change_places_change_the_digest():
    model = tiny_model()
    before, weight = identity.weights_digest(model), model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight[:, 1::2] *= -1  # the highest bits of an even number of words
        assert identity.weights_digest(model) != before
        weight[:, 1::2] *= -1
        one, two = weight[0, 3].item(), weight[5, 2].item()
        weight[0, 3], weight[5, 2] = two, one
    assert identity.weights_digest(model) != before


def test_packed_bytes_and_saved_buffers_count_and_what_is_not_loaded_has_a_shape():
    model = tiny_model()
    model.packed = torch.nn.Parameter(torch.arange(7, dtype=torch.uint8), requires_grad=False)
    model.register_buffer("scale", torch.ones(3))
    model.register_buffer("scratch", torch.ones(3), persistent=False)
    seen = {identity.weights_digest(model)}
    for change in (model.packed, model.scale):
        change.data[-1] += 1
        seen.add(identity.weights_digest(model))
    assert len(seen) == 3
    model.scratch += 1
    assert identity.weights_digest(model) in seen
    empty = model.to("meta")
    assert identity.weights_digest(empty) not in seen


def test_tied_weights_count_once(monkeypatch):
    read = []
    sums = identity._sums
    monkeypatch.setattr(identity, "_sums", lambda part, odd: read.append(part) or sums(part, odd))
    model = tiny_model("gemma2")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    identity.weights_digest(model)
    assert len(read) == len(list(model.parameters()))


def test_a_flipped_bit_between_the_sampled_values_is_refused(tmp_path):
    folder = save_tiny(tmp_path / "model")
    whole = load_model(str(folder), dtype="float32")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][1, 1].view(torch.int32).bitwise_xor_(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    damaged = load_model(str(folder), dtype="float32")
    assert damaged.fingerprint == whole.fingerprint
    assert damaged.weights_digest != whole.weights_digest
    cell = Cell("resid_post", 1, "last")
    probe = Probe(
        "ridge", None, cell, np.ones(D_MODEL), 0.0, None, "rating", provenance=whole.describe()
    )
    Scorer(probe, whole)
    with pytest.raises(ProbeError, match="weights_digest is float32-.*Give the same model"):
        Scorer(probe, damaged)
    vector = SteeringVector({1: np.ones(D_MODEL)}, model=whole.describe())
    vector.save(tmp_path / "v.safetensors")
    vector.save(tmp_path / "v.gguf")
    check_same_model(vector, whole)
    with pytest.raises(SteeringError, match=r"weights_digest is float32-.*Use a vector of this"):
        check_same_model(SteeringVector.load(tmp_path / "v.safetensors"), damaged)
    # Another dtype has other digits of the same weights: then the fingerprint alone counts.
    Scorer(probe, load_model(str(folder), dtype="bfloat16"))


def test_digests_are_held_against_each_other_in_one_dtype_only():
    def of(digest):
        return {"model": {"weights_fingerprint": "a", "weights_digest": digest}}

    assert agrees(of("float32-1"), of("float32-1"))
    assert not agrees(of("float32-1"), of("float32-2"))
    assert agrees(of("float32-1"), of("bfloat16-2"))
    assert agrees({"model": {"weights_fingerprint": "a"}}, of("float32-1"))
    assert agrees(of("float32-1"), {"model": {"weights_fingerprint": "a"}})


def test_weights_that_are_in_no_file_are_refused(tmp_path):
    folder = save_tiny(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"layers.1.mlp.up_proj", b"layers.1.mlp.up_prok"))
    with pytest.raises(ModelError, match=r"1 of its weights .*layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(folder))
