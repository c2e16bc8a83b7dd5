"""Log-probabilities of tokens and their gradient against log_softmax and finite differences."""

from __future__ import annotations

import pytest
import torch

from probekit.models.token_logprobs import (
    ROWS,
    token_logprobs,
    token_logprobs_and_entropies,
)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_log_softmax(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn((2 * ROWS + 3, 50), generator=generator)
    ids = torch.randint(50, (len(logits),), generator=generator)
    weight = torch.randn(len(logits), generator=generator)
    found = []
    for rule in (
        lambda x: token_logprobs(x, ids, temperature),
        lambda x: (x / temperature).log_softmax(-1).gather(1, ids[:, None])[:, 0],
    ):
        own = logits.clone().requires_grad_()
        values = rule(own)
        (values * weight).sum().backward()
        found.append((values.detach(), own.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_and_their_gradients_are_those_of_log_softmax(temperature):
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn((2 * ROWS + 3, 50), generator=generator)
    ids = torch.randint(50, (len(logits),), generator=generator)
    weight = torch.randn((2, len(logits)), generator=generator)

    def plain(x):
        every = (x / temperature).log_softmax(-1)
        return every.gather(1, ids[:, None])[:, 0], -(every.exp() * every).sum(-1)

    found = []
    for rule in (lambda x: token_logprobs_and_entropies(x, ids, temperature), plain):
        own = logits.clone().requires_grad_()
        logprob, entropy = rule(own)
        (weight[0] * logprob + weight[1] * entropy).sum().backward()
        found.append((logprob.detach(), entropy.detach(), own.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((4, 6), generator=generator, requires_grad=True)
    ids = torch.tensor([0, 5, 2, 2])
    step = 1e-2
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (token_logprobs(logits, ids, 0.8) * weight).sum().backward()
    for i in range(4):
        for j in range(6):
            moved = []
            for sign in (1, -1):
                other = logits.detach().clone()
                other[i, j] += sign * step
                moved.append(float((token_logprobs(other, ids, 0.8) * weight).sum()))
            slope = (moved[0] - moved[1]) / (2 * step)
            assert float(logits.grad[i, j]) == pytest.approx(slope, abs=2e-3)


def test_bfloat16_logits_are_summed_in_float32():
    logits = torch.randn((5, 4000), generator=torch.Generator().manual_seed(2)).bfloat16()
    ids = torch.arange(5)
    wanted = logits.float().log_softmax(-1)[torch.arange(5), ids]
    torch.testing.assert_close(token_logprobs(logits, ids), wanted)
    assert token_logprobs(logits[:0], ids[:0]).shape == (0,)
