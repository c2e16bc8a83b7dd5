"""A model in memory is taken as it stands, and known by the same fingerprint as its files."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from probekit.activations.backends import prove
from probekit.activations.backends.hooks import HooksBackend
from probekit.errors import ModelError
from probekit.models.load import load_model
from tests.tiny import tiny_model, tiny_tokenizer

IDS = torch.arange(6)[None] + 5


@pytest.fixture(scope="module")
def told(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


@pytest.fixture
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def bridge(model, tokenizer):
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            model.name_or_path, hf_model=model, tokenizer=copy.deepcopy(tokenizer), device="cpu",
            dtype=torch.float32,
        )  # fmt: skip


def traced(model, tokenizer):
    from nnsight import TransformersModel

    return TransformersModel(model, tokenizer=copy.deepcopy(tokenizer))


def adapted(model, *, seed=0):
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(
            r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False
        )
        return get_peft_model(model, config)


def read(loaded, site, layer):
    seen = []
    HooksBackend(loaded).run(
        IDS, torch.ones_like(IDS), [(site, layer)], lambda place, acts: seen.append(acts.clone())
    )
    return seen[0]


@pytest.mark.parametrize("wrap", [lambda m, t: m, bridge, traced])
def test_fingerprints_and_activations_are_those_of_the_folder(wrap, told, model, tokenizer):
    given = wrap(model, tokenizer)
    found = load_model(given, tokenizer=tokenizer)
    assert found.describe() == {**told.describe(), "model": str(model.name_or_path)}
    for site in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
        # A bridge forces eager attention: float noise, on values of about 10.
        torch.testing.assert_close(read(found, site, 1), read(told, site, 1), rtol=0, atol=2e-5)
    prove(HooksBackend(found), [("resid_post", 0), ("attn_out", 2)], found.device)


def test_a_wrapper_brings_its_tokenizer_and_a_folder_has_one(model, tokenizer, told):
    assert load_model(traced(copy.deepcopy(model), tokenizer)).tokenizer_hash == told.tokenizer_hash
    assert load_model(model).tokenizer_hash == told.tokenizer_hash
    assert load_model(told) is told


def test_the_adapter_of_a_model_counts(model, tokenizer, told):
    plain = load_model(copy.deepcopy(model), tokenizer=tokenizer)
    one, other = (adapted(copy.deepcopy(model), seed=seed) for seed in (1, 2))
    found = load_model(one, tokenizer=tokenizer)
    assert len({plain.fingerprint, found.fingerprint, load_model(other).fingerprint}) == 3
    assert plain.fingerprint == told.fingerprint
    expected = one(input_ids=IDS, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(read(found, "resid_post", 1), expected)


class Int8(torch.nn.Module):
    """A linear layer that holds whole numbers and a scale, as quantised ones do."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        whole = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(whole, requires_grad=False)
        self.scale = torch.nn.Parameter(scale, requires_grad=False)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight * self.scale)


def test_quantised_weights_are_read_and_count(model, tokenizer, told):
    for block in model.model.layers:
        block.mlp.down_proj = Int8(block.mlp.down_proj)
    found = load_model(model, tokenizer=tokenizer)
    assert found.fingerprint != told.fingerprint
    expected = model(input_ids=IDS, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(read(found, "resid_post", 0), expected)
    gap = (read(found, "resid_post", 0) - read(told, "resid_post", 0)).abs().max()
    assert 0 < gap < 0.5


def test_a_model_made_here_is_put_in_evaluation_mode_and_else_left_alone():
    model = tiny_model("qwen3").double().train()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    found = load_model(model, tokenizer=tiny_tokenizer())
    assert found.model is model and not model.training
    assert found.spec == "Qwen3ForCausalLM in memory" and found.dtype == "float64"
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_template_that_is_changed_is_changed_in_a_copy(model):
    tokenizer = tiny_tokenizer()
    dated = "{{ strftime_now('%Y') }}" + tokenizer.chat_template
    tokenizer.chat_template = dated
    found = load_model(model, tokenizer=tokenizer, template_date="2031-01-01")
    assert tokenizer.chat_template == dated and found.template_date == "2031-01-01"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda m: 3, "model: got a int. Expected a causal language model of transformers"),
        (lambda m: m.model, "model: a LlamaModel has no output matrix. Expected"),
        (lambda m: tiny_model(), "model: comes without a tokenizer. Give it: load_model"),
        (
            lambda m: m.to("meta"),
            "model: its weights are not loaded yet. Load it with dispatch=True.",
        ),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(make, line, model):
    with pytest.raises(ModelError, match=f"^{line}") as caught:
        load_model(make(model))
    assert "\n" not in str(caught.value)


def test_a_model_in_memory_keeps_its_dtype_and_its_name_has_no_place(model, tokenizer):
    with pytest.raises(ModelError, match="^model: is in memory, and stays in its dtype and place"):
        load_model(model, tokenizer=tokenizer, dtype="bfloat16")
    with pytest.raises(ModelError, match="has no place to be loaded from. Save it"):
        load_model("LlamaForCausalLM in memory")


def test_learned_prompts_are_refused(model, tokenizer):
    from peft import PromptTuningConfig, get_peft_model

    prompted = get_peft_model(
        model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(ModelError, match="^model: PROMPT_TUNING changes prompts and not layers"):
        load_model(prompted, tokenizer=tokenizer)
