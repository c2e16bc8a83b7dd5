"""Attention for learning is the model's own attention, gradients included."""

from __future__ import annotations

import pytest
import torch

from probekit.models.grouped_attention import MOST_SCORES, grouped_attention
from probekit.models.load import load_model
from tests.tiny import ARCHITECTURES, save_tiny


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def loaded(request, tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("model") / request.param, request.param)
    return load_model(str(folder), dtype="float32")


def gradients(loaded, mask):
    """Return logits and the gradient of the first block's weights, of left-padded rows."""
    ids = torch.arange(1, 1 + mask.numel()).reshape(mask.shape) % 200 + 3
    weights = [p.requires_grad_() for p in loaded.model.parameters() if p.ndim > 1][:6]
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    out = loaded.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    seen = out[mask.bool()]
    seen.log_softmax(-1).square().mean().backward()
    found = [p.grad.clone() for p in weights if p.grad is not None]
    loaded.model.zero_grad()
    return seen.detach(), found


def test_logits_and_gradients_are_those_of_the_fused_kernel(loaded):
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[0, :4] = mask[2, :2] = 0
    before = loaded.model.config._attn_implementation
    logits, plain = gradients(loaded, mask)
    with grouped_attention(loaded):
        own, found = gradients(loaded, mask)
    assert loaded.model.config._attn_implementation == before
    torch.testing.assert_close(own, logits, rtol=1e-4, atol=1e-5)
    assert len(found) == len(plain) > 0
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_it_is_used_and_taken_back_after_an_error(tiny_llama, monkeypatch):
    loaded, calls = load_model(str(tiny_llama), dtype="float32"), []
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *a, **k: calls.append(1) or kernel(*a, **k),
    )
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[0, :2] = 0
    with pytest.raises(RuntimeError), grouped_attention(loaded):
        gradients(loaded, mask)
        assert not calls
        raise RuntimeError
    gradients(loaded, mask)
    assert len(calls) == 3  # one a layer: the fused kernel again


def test_scores_that_would_be_too_many_are_left_to_the_fused_kernel(tiny_llama, monkeypatch):
    monkeypatch.setattr("probekit.models.grouped_attention.MOST_SCORES", 10)
    loaded = load_model(str(tiny_llama), dtype="float32")
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[0, :2] = 0
    plain, _ = gradients(loaded, mask)
    with grouped_attention(loaded):
        own, _ = gradients(loaded, mask)
    assert torch.equal(own, plain) and MOST_SCORES > 10
