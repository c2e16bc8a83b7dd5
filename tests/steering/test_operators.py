"""The laws of add, ablate and clamp."""

from __future__ import annotations

import pytest
import torch

from probekit.steering.operators import ablate, add, clamp

# Rounding of a float32 sum of 32 terms of size about 10.
CLOSE = {"atol": 1e-4, "rtol": 1e-5}


@pytest.fixture(params=range(5))
def case(request):
    generator = torch.Generator().manual_seed(request.param)
    acts = 10 * torch.randn((3, 4, 32), generator=generator)
    vector = torch.randn(32, generator=generator)
    return acts, vector / vector.norm(), request.param + 0.5


def test_adding_twice_adds_the_sum(case):
    acts, u, a = case
    twice = add(add(acts, a * u), 2.0 * u)
    torch.testing.assert_close(twice, add(acts, (a + 2.0) * u), **CLOSE)


def test_adding_nothing_changes_no_bit(case):
    acts, u, _ = case
    assert torch.equal(add(acts, 0.0 * u), acts)


def test_ablate_leaves_no_component_and_the_rest_untouched(case):
    acts, u, _ = case
    done = ablate(acts, u)
    torch.testing.assert_close(done @ u, torch.zeros(3, 4), **CLOSE)
    # What is orthogonal to u is what the projection I - u u^T keeps.
    torch.testing.assert_close(done, acts @ (torch.eye(32) - torch.outer(u, u)), **CLOSE)


def test_ablate_twice_is_ablate_once(case):
    acts, u, _ = case
    torch.testing.assert_close(ablate(ablate(acts, u), u), ablate(acts, u), **CLOSE)


def test_ablate_forgets_what_was_added(case):
    acts, u, a = case
    torch.testing.assert_close(ablate(add(acts, 3 * a * u), u), ablate(acts, u), **CLOSE)


def test_clamp_sets_exactly_the_value(case):
    acts, u, a = case
    done = clamp(acts, u, a)
    torch.testing.assert_close(done @ u, torch.full((3, 4), a), **CLOSE)
    torch.testing.assert_close(done - ablate(acts, u), (a * u).expand(3, 4, 32), **CLOSE)


def test_the_dtype_stays(case):
    acts, u, a = case
    for done in (add(acts.bfloat16(), u), ablate(acts.bfloat16(), u), clamp(acts.bfloat16(), u, a)):
        assert done.dtype == torch.bfloat16
