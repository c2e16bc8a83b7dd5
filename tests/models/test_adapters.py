"""Adapters that peft wrote, of any kind: peft's own logits, or one line."""

from __future__ import annotations

import json

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM

from probekit.activations.store import ActivationStore
from probekit.cli.main import cli
from probekit.errors import ModelError
from probekit.models.load import add_adapter, load_model
from tests.tiny import save_tiny

ALONE = {"standalone_mode": False}
LINEAR = {"target_modules": "all-linear", "lora_alpha": 16}
QUERY = {"target_modules": ["q_proj"]}
KINDS = {
    "rslora": ("llama", LoraConfig(r=4, use_rslora=True, **LINEAR)),
    "patterns": (
        "llama",
        LoraConfig(r=4, rank_pattern={"q_proj": 8}, alpha_pattern={"v_proj": 3}, **LINEAR),
    ),
    "rank above the width": ("llama", LoraConfig(r=40, **LINEAR)),
    "dora": ("llama", LoraConfig(r=4, use_dora=True, **LINEAR)),
    "bias beside a layer without one": ("llama", LoraConfig(r=4, lora_bias=True, **LINEAR)),
    "a whole layer": ("llama", LoraConfig(r=4, modules_to_save=["lm_head"], **QUERY)),
    "an embedding": ("llama", LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"])),
    "a tied head": ("gemma2", LoraConfig(r=4, target_modules=["lm_head", "q_proj"])),
    "a tied embedding": ("gemma2", LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"])),
    "rows of kernels": ("gpt2", LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)),
    "experts": ("qwen3_moe", LoraConfig(r=4, target_parameters=["mlp.experts.down_proj"], **QUERY)),
    "a weight": ("llama", LoraConfig(r=4, target_modules=[], target_parameters=["q_proj.weight"])),
    "ia3": (
        "llama",
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
}
REFUSED = {
    "aLoRA": LoraConfig(r=4, task_type="CAUSAL_LM", alora_invocation_tokens=[7, 8], **LINEAR),
    "PREFIX_TUNING": PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "PROMPT_TUNING": PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
}


def written(folder, kind, config):
    """Save a tiny model and an adapter of random numbers as peft does; return peft's model."""
    save_tiny(folder / "base", kind)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = get_peft_model(base, config, autocast_adapter_dtype=False).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder / "adapter")
    return model


@pytest.mark.filterwarnings("ignore")  # peft's, of merging tied layers, which is not done here
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_the_logits_are_those_of_peft(tmp_path, name, dtype):
    peft = written(tmp_path, *KINDS[name])
    bare = load_model(str(tmp_path / "base"), dtype=dtype)
    ids = torch.arange(5, 20)[None]
    with torch.inference_mode():
        wanted, before = peft(ids).logits, bare.model(ids).logits.float()
        found = add_adapter(bare, tmp_path / "adapter").model(ids).logits.float()
    change = (wanted - before).norm()
    # The activations of a pass in bfloat16 have two decimal digits.
    assert (found - wanted).norm() < (1e-5 if dtype == "float32" else 0.25) * change


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_would_be_passed_over_is_refused(tmp_path, name):
    written(tmp_path, "llama", REFUSED[name])
    with pytest.raises(ModelError, match=f"{name} changes prompts and not layers, expected LoRA"):
        add_adapter(load_model(str(tmp_path / "base"), dtype="float32"), tmp_path / "adapter")


@pytest.mark.filterwarnings("ignore")
def test_a_model_loaded_with_an_adapter_is_another_model_with_those_activations(tmp_path):
    peft = written(tmp_path, "llama", LoraConfig(r=4, **LINEAR))
    base, adapter = str(tmp_path / "base"), tmp_path / "adapter"
    bare = load_model(base, dtype="float32")
    tuned = load_model(base, dtype="float32", adapter=adapter)
    again = load_model(base, dtype="float32", adapter=adapter)
    assert tuned.fingerprint == again.fingerprint != bare.fingerprint
    assert tuned.describe()["adapter"] == "adapter"
    assert "adapter" not in bare.describe()

    rows = [{"text": text, "label": i % 2} for i, text in enumerate(["a b c", "d e f g", "h i"])]
    found = {}
    for name, more in (("bare", []), ("tuned", ["--adapter", str(adapter)])):
        (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
        out = tmp_path / f"{name}.h5"
        words = ["cache", "--model", base, "--data", str(tmp_path / "rows.json"), "--dtype"]
        cli.main([*words, "float32", "--positions", "last", "--out", str(out), *more], **ALONE)
        with ActivationStore.open(out) as store:
            found[name] = store["resid_post", store.n_layers - 1, "last"]
            row = store.tokens.row(1)
    with torch.inference_mode():
        wanted = peft(torch.from_numpy(row.ids.astype("int64"))[None], output_hidden_states=True)
    # Hugging Face applies the final norm to its last hidden state, so the one before it is compared.
    assert abs(found["tuned"] - found["bare"]).max() > 1e-2
    with ActivationStore.open(tmp_path / "tuned.h5") as store:
        layer = store["resid_post", store.n_layers - 2, "last"][1]
    own = wanted.hidden_states[-2][0, row.stop - 1].numpy()
    assert abs(layer - own).max() < 2**-10 * abs(own).max()  # kept in float16
