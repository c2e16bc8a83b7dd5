"""Models whose caches cannot be decoded with are refused in one line, whatever the library says."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from probekit.data.rows import Example, Message
from probekit.errors import ModelError
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.models.sampling import SamplingConfig, sample
from tests.tiny import UNUSUAL, tiny_tokenizer


def test_a_model_of_recurrent_layers_alone_that_counts_tokens_is_one_line(tmp_path):
    """Its attention mask asks for the length of a cache that has none."""
    settings = {**UNUSUAL["qwen3_next"], "layer_types": ["linear_attention"] * 3}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["qwen3_next"](**settings))
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), dtype="float32")
    prompt = render(Example("r", "g", (Message("user", "hi"),)), loaded.tokenizer)
    with pytest.raises(ModelError, match="^model type 'qwen3_next': cannot be sampled from"):
        sample(loaded, [prompt], SamplingConfig(max_new_tokens=2))
