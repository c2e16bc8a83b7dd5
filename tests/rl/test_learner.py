"""Learning behind shared prompts and beside the weights is learning, only faster."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probekit.activations.gather import pad
from probekit.errors import ModelError
from probekit.models.load import load_model
from probekit.models.low_rank import low_rank_linear
from probekit.models.new_tokens import NewTokens
from probekit.models.prefix import SharedPrefix, plan_shared
from probekit.models.sampling import SamplingConfig
from probekit.rl import Policy
from probekit.rl.rollout import Writer
from tests.steering.conftest import prompts
from tests.tiny import UNUSUAL, save_tiny

ARCHITECTURES = ["llama", "qwen3", "gpt2", "gemma2", "gemma3_text", "gpt_neox", "phi3"]
# In float32 the gradients of qwen3_next's delta rule behind experts are not known to three digits.
ARCHITECTURES += sorted(UNUSUAL.keys() - {"qwen3_next"})


@pytest.fixture(scope="module", params=ARCHITECTURES)
def written(request, tmp_path_factory):
    """A policy that has moved, and what it wrote."""
    folder = save_tiny(tmp_path_factory.mktemp("models") / request.param, request.param)
    policy = Policy(load_model(str(folder), dtype="float32"), rank=3)
    generator = torch.Generator().manual_seed(0)
    policy.masters.set(
        [0.1 * torch.randn(p.shape, generator=generator) for p in policy.masters.all]
    )
    config = SamplingConfig(max_new_tokens=9, samples=3)
    return policy, Writer(policy, prompts()).write(list(range(6)), config, seed=1)


def gradients(policy):
    found = [p.grad.clone() for p in policy.masters.all]
    for parameter in policy.masters.all:
        parameter.grad = None
    return found


def test_log_probabilities_and_gradients_are_those_of_whole_rows_and_of_peft(written):
    policy, rollout = written
    model = policy.loaded.model
    weight = torch.randn(rollout.n_tokens, generator=torch.Generator().manual_seed(1))

    ids, mask = pad(rollout.rows, policy.loaded.device)
    whole = NewTokens(rollout.rows, rollout.n_new, ids)
    ours = [vars(layer).pop("forward") for layer in policy._layers]  # what is left is peft's own
    wanted = whole.of(whole.distributions(model, model, ids, mask))
    for layer, forward in zip(policy._layers, ours, strict=True):
        layer.forward = forward
    (wanted * weight).sum().backward()
    expected = gradients(policy)

    shared = SharedPrefix(rollout.rows, policy.loaded.model)
    ids, mask = pad(shared.rows, policy.loaded.device)
    short = NewTokens(shared.rows, rollout.n_new, ids)
    found = short.of(short.distributions(model, model, ids, mask, **shared.inputs(mask)))
    (found * weight).sum().backward()
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    for a, b in zip(gradients(policy), expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4 * float(b.abs().max()) + 1e-6, rtol=1e-3)
    base = [layer.get_base_layer().weight for layer in policy._layers]
    assert not any(w.requires_grad or w.grad is not None for w in base)
    drawn = torch.from_numpy(np.concatenate(rollout.logprobs))
    torch.testing.assert_close(found.detach(), drawn, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_layer_are_those_of_finite_differences(bias):
    generator = torch.Generator().manual_seed(2)
    shapes = [(2, 3, 5), (4, 5), (4,), (2, 5), (4, 2)]
    x, weight, c, a, b = (torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)
    learnt = [tensor.requires_grad_() for tensor in (x, a, b)]
    c = c if bias else None
    whole = torch.nn.functional.linear(x, weight + 1.7 * b @ a, c)

    def layer(x, a, b):
        return low_rank_linear(x, torch.cat([weight, b], 1).detach(), c, a, b, 1.7)

    torch.testing.assert_close(layer(*learnt), whole)
    with torch.no_grad():
        torch.testing.assert_close(layer(*learnt), whole)
    assert torch.autograd.gradcheck(layer, learnt)


def small_steps(policy):
    """Move the adapter as a few steps of Adam at 2e-4 do: by less than the last digit of the weights."""
    generator = torch.Generator().manual_seed(3)
    moved = [
        (torch.rand(p.shape, generator=generator) < 0.5) * 1.2e-3 - 6e-4 if "lora_B" in name else p
        for name, p in zip(policy._names, policy.masters.all, strict=True)
    ]
    policy.masters.set([p.detach() for p in moved])


def test_steps_below_the_last_digit_of_the_weights_reach_every_output(tiny_llama):
    """The change of a layer's output, regressed on s B A x in float32."""
    policy = Policy(load_model(str(tiny_llama), dtype="bfloat16"), rank=8)
    small_steps(policy)
    generator, kept = torch.Generator().manual_seed(4), []
    for layer in policy._layers:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        x = torch.randn(4000, a.shape[1], generator=generator).bfloat16()
        a, b = a.detach(), b.detach()
        true = layer.scaling["default"] * x.float() @ a.float().T @ b.float().T
        with torch.no_grad():
            change = layer(x).float() - layer.get_base_layer()(x).float()
        kept.append(float((change * true).sum() / true.pow(2).sum()))
        with policy.merged():  # in float32, so that the sum holds it
            weight = layer.get_base_layer().weight - layer.get_base_layer().weight.bfloat16()
        assert weight.abs().max() > 0
    assert np.mean(kept) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-5), ("bfloat16", 0.5)])
def test_peft_gives_what_was_saved_the_log_probabilities_it_was_written_with(
    tmp_path, architecture, dtype, atol
):
    from peft import PeftModel

    folder = str(save_tiny(tmp_path / "model", architecture))
    policy = Policy(load_model(folder, dtype=dtype), rank=3)
    generator = torch.Generator().manual_seed(5)
    policy.masters.set(
        [0.1 * torch.randn(p.shape, generator=generator) for p in policy.masters.all]
    )
    config = SamplingConfig(max_new_tokens=9, samples=3)
    rollout = Writer(policy, prompts()).write(list(range(6)), config, seed=1)
    policy.save(tmp_path / "adapter")
    plain = load_model(folder, dtype=dtype).model
    off = row_logprobs(plain, rollout)
    adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    drawn = torch.from_numpy(np.concatenate(rollout.logprobs))
    found = row_logprobs(adapted, rollout)
    torch.testing.assert_close(found, drawn, atol=atol, rtol=0)
    moved = found - off
    assert float(moved.abs().mean()) > 0.2
    kept = float((moved * (drawn - off)).sum() / moved.pow(2).sum())
    assert kept == pytest.approx(1.0, abs=0.02)


def row_logprobs(model, rollout):
    """Return the log-probabilities of the new tokens, one whole row at a time."""
    found = []
    for row, n in zip(rollout.rows, rollout.n_new, strict=True):
        ids = torch.tensor(row.ids[: row.start + n][None].astype(np.int64))
        with torch.inference_mode():
            logprobs = model(input_ids=ids).logits[0].float().log_softmax(-1)
        at = torch.arange(row.start - 1, row.start + n - 1)
        found.append(logprobs[at, ids[0, at + 1]])
    return torch.cat(found)


def test_batches_keep_a_prompt_together_and_hold_every_row_once(written):
    policy, rollout = written
    model = policy.loaded.model
    plan = plan_shared(rollout.rows, 40, model)
    assert sorted(np.concatenate(plan)) == list(range(18))
    for batch in plan:
        rows = [rollout.rows[i] for i in batch]
        widest = max(len(row.ids) - row.start + 1 for row in rows)
        assert len(rows) == 1 or widest * len(rows) <= 40
    assert [len(b) for b in plan_shared(rollout.rows, 10**6, model)] == [18]


@pytest.mark.parametrize(
    ("kind", "left", "kept"),
    [
        ("qwen3_moe", {"experts.gate_up_proj", "experts.down_proj"}, {"q_proj", "o_proj"}),
        ("gpt_oss", {"experts.gate_up_proj", "experts.down_proj"}, {"q_proj", "o_proj"}),
        ("deepseek_v3", {"experts.gate_up_proj", "gate_proj"}, {"q_a_proj", "kv_b_proj"}),
        ("gemma3", {"vision_tower"}, {"q_proj", "down_proj"}),
        ("mamba", {"out_proj", "dt_proj"}, {"in_proj", "x_proj"}),
        ("lfm2", set(), {"w1", "in_proj", "out_proj"}),
    ],
)
def test_experts_are_left_out_of_the_adapter_by_name(tmp_path, kind, left, kept):
    policy = Policy(load_model(str(save_tiny(tmp_path, kind)), dtype="float32"), rank=2)
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in policy._names}
    assert left <= set(policy.left_out)
    assert kept <= names
    assert not names & {name.rpartition(".")[2] for name in policy.left_out}


@pytest.mark.parametrize("targets", ["gate_proj,up_proj,down_proj", "q_proj,gate"])
def test_targets_that_name_experts_are_refused_with_some_that_work(tmp_path, targets):
    loaded = load_model(str(save_tiny(tmp_path, "qwen3_moe")), dtype="float32")
    with pytest.raises(ModelError, match="of experts. Expected all-linear, k_proj, o_proj"):
        Policy(loaded, targets=targets)
