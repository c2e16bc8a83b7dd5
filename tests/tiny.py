"""Tiny models from configurations and a byte tokenizer: real code paths, no download."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

D_MODEL, N_LAYERS = 16, 3

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_COMMON = {
    "hidden_size": D_MODEL,
    "intermediate_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "vocab_size": 264,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "head_dim": 4}

ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": _GROUPED,
    "qwen2": {**_COMMON, "num_key_value_heads": 2},
    "qwen3": _GROUPED,
    "mistral": _GROUPED,
    "gemma2": _GROUPED,
    "gemma3_text": _GROUPED,
    "phi3": {**_COMMON, "num_key_value_heads": 2},
    "gpt_neox": _COMMON,
    "gpt2": {
        "n_embd": D_MODEL,
        "n_layer": N_LAYERS,
        "n_head": 4,
        "n_positions": 512,
        "vocab_size": 264,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}


def tiny_model(model_type: str = "llama", *, seed: int = 0) -> torch.nn.Module:
    """Return a randomly initialised causal language model with visible weights."""
    config = CONFIG_MAPPING[model_type](**ARCHITECTURES[model_type])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # the default initialisation is so small that blocks do nothing
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0.0, 0.3)
    return model.eval()


def tiny_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer whose padding token is its end-of-turn token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<unk>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHATML if chat else None,
    )


def save_tiny(folder: Path, model_type: str = "llama", *, chat: bool = True, seed: int = 0) -> Path:
    """Write a tiny model and its tokenizer as a local model folder."""
    tiny_model(model_type, seed=seed).save_pretrained(folder)
    tiny_tokenizer(chat=chat).save_pretrained(folder)
    return folder
