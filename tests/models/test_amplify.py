"""base + k (tuned - base): the logits of two models of transformers, mixed by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from probekit.errors import ModelError
from probekit.models.amplify import adapter_off
from probekit.models.chat import render
from probekit.models.load import add_adapter, load_model
from probekit.models.sampling import SamplingConfig, sample
from tests.steering.conftest import QUESTIONS
from tests.steering.conftest import prompts as prompts_of
from tests.tiny import save_tiny

LORA = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear")
OTHERS = {
    "falcon_h1": LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"]),
    "gpt2": LoraConfig(r=4, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True),
}
SAMPLED = SamplingConfig(max_new_tokens=8, samples=3, seed=5)
GREEDY = SamplingConfig(max_new_tokens=8, temperature=0.0)


def written(folder, kind="llama", *, size=0.05, config=LORA):
    """Save a tiny model and an adapter of random numbers, as peft does."""
    save_tiny(folder / "base", kind)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = get_peft_model(base, copy.deepcopy(config), autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder / "adapter")
    return folder


def opened(folder, dtype="float32"):
    return load_model(str(folder / "base"), dtype=dtype)


def two_models(folder):
    """Return transformers' base, and peft's tuned model with weights of its own."""
    one, other = (
        AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
        for _ in range(2)
    )
    return one, PeftModel.from_pretrained(other, folder / "adapter").eval()


@pytest.fixture
def rows(tiny_llama):
    loaded = load_model(str(tiny_llama), dtype="float32")
    return [render(prompt, loaded.tokenizer) for prompt in prompts_of(QUESTIONS[:4])]


def ids_of(completions):
    return [done.ids.tolist() for done in completions]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "qwen3_5_text", "falcon_h1"])
def test_the_distribution_is_that_of_two_models_mixed(tmp_path, kind):
    """Every token's log-probability, of recurrent models and sliding windows too."""
    k, folder = 2.5, written(tmp_path, kind, config=OTHERS.get(kind, LORA))
    base, tuned = two_models(folder)
    loaded = add_adapter(opened(folder), folder / "adapter")
    rows = [render(prompt, loaded.tokenizer) for prompt in prompts_of(QUESTIONS[:3])]
    for done in sample(loaded, rows, SAMPLED, amplify=k):
        prompt = rows[done.prompt].ids.tolist()
        whole = torch.tensor([[*prompt, *done.ids.tolist()]])
        with torch.inference_mode():
            low, high = (
                m(whole, use_cache=False).logits[0, len(prompt) - 1 : -1] for m in (base, tuned)
            )
        logits = low + k * (high - low)
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(done.ids).long()[:, None])[:, 0]
        # Float32 sums of another order, k times as far apart.
        torch.testing.assert_close(torch.tensor(done.logprobs), wanted, atol=2e-3, rtol=1e-3)
        assert (high - low).abs().max() > 0.1  # it is no trivial mixture


def test_k_of_0_and_1_are_the_two_models(tmp_path, rows):
    folder = written(tmp_path)
    plain = opened(folder)
    base = [ids_of(sample(plain, rows, config)) for config in (GREEDY, SAMPLED)]
    tuned = add_adapter(plain, folder / "adapter")
    wanted = [ids_of(sample(tuned, rows, config)) for config in (GREEDY, SAMPLED)]
    assert base != wanted
    for k, expected in ((0, base), (1, wanted)):
        assert [ids_of(sample(tuned, rows, c, amplify=k)) for c in (GREEDY, SAMPLED)] == expected
    assert [ids_of(sample(tuned, rows, c)) for c in (GREEDY, SAMPLED)] == wanted  # put back


def test_the_nucleus_is_one_of_the_mixed_distribution(tmp_path, rows):
    """A nucleus that holds one token draws what is most probable after mixing."""
    folder = written(tmp_path)
    tuned = add_adapter(opened(folder), folder / "adapter")
    narrow = SamplingConfig(max_new_tokens=8, top_p=1e-6)
    greedy = ids_of(sample(tuned, rows, GREEDY, amplify=3.0))
    assert ids_of(sample(tuned, rows, narrow, amplify=3.0)) == greedy
    assert greedy != ids_of(sample(tuned, rows, GREEDY))


def test_a_batch_changes_nothing(tmp_path, rows):
    folder = written(tmp_path)
    tuned = add_adapter(opened(folder), folder / "adapter")
    one, other = (
        sample(tuned, rows, SamplingConfig(max_new_tokens=8, samples=3, batch=batch), amplify=2.0)
        for batch in (2, 64)
    )
    for a, b in zip(one, other, strict=True):
        n = min(len(a.ids), len(b.ids))
        if a.ids.tolist() == b.ids.tolist():
            torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-3, rtol=1e-3)
    same = sum(a.ids.tolist() == b.ids.tolist() for a, b in zip(one, other, strict=True))
    assert same >= len(one) - 1 and n  # a draw may fall on the other side of a rounding


def test_the_adapter_is_on_again_after_an_error(tmp_path):
    folder = written(tmp_path)
    tuned, ids = add_adapter(opened(folder), folder / "adapter"), torch.arange(5, 15)[None]
    bare = opened(folder).model(ids).logits
    grads = [weight.requires_grad for weight in tuned.model.parameters()]
    before = tuned.model(ids).logits
    with pytest.raises(RuntimeError, match="on the way"), adapter_off(tuned.model):
        assert torch.equal(tuned.model(ids).logits, bare)
        raise RuntimeError("on the way")
    assert torch.equal(tuned.model(ids).logits, before) and not torch.equal(before, bare)
    assert [weight.requires_grad for weight in tuned.model.parameters()] == grads


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [LORA, IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])],
    ids=["lora", "ia3"],
)
def test_a_model_is_not_amplified_against_itself(tmp_path, rows, config, dtype):
    """A fresh LoRA has B = 0, and a fresh IA3 factors of 1."""
    folder = written(tmp_path, size=0.0, config=config)
    tuned = add_adapter(opened(folder, dtype), folder / "adapter")
    with pytest.raises(ModelError, match="the adapter changes nothing"):
        sample(tuned, rows, GREEDY, amplify=2.0)


@pytest.mark.parametrize("k", [-1.0, float("nan"), float("inf"), 101.0])
def test_other_values_of_k_are_one_line(tmp_path, rows, k):
    folder = written(tmp_path)
    plain = opened(folder)
    with pytest.raises(ModelError, match="has no adapter, so there is no difference"):
        sample(plain, rows, GREEDY, amplify=2.0)
    tuned = add_adapter(plain, folder / "adapter")
    with pytest.raises(ModelError, match=f"amplify: got {k:g}, expected a number from 0 to 100"):
        sample(tuned, rows, GREEDY, amplify=k)
