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

_HALVED = {**_COMMON, "num_key_value_heads": 2}
_SLIDING = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_MAMBA_HEADS = {
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_RECURRENT = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "vocab_size": 264, **_ENDS}

UNUSUAL: dict[str, dict[str, object]] = {
    "cohere": _HALVED,
    "olmo2": _HALVED,
    "granite": {**_HALVED, "residual_multiplier": 0.22, "embedding_multiplier": 3.0},
    "bloom": {
        "hidden_size": D_MODEL,
        "n_layer": N_LAYERS,
        "n_head": 4,
        "vocab_size": 264,
        **_ENDS,
    },
    "gemma3": {
        "text_config": {**_GROUPED, **_SLIDING},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
        **_ENDS,
    },
    "gpt_oss": {**_GROUPED, **_SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**_GROUPED, **_EXPERTS},
    "deepseek_v3": {
        **_COMMON,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 4,
    },
    "lfm2": {**_HALVED, "layer_types": ["conv", "full_attention", "conv"]},
    "qwen3_5_text": {**_GROUPED, **_DELTA},
    "qwen3_next": {**_GROUPED, **_DELTA, **_EXPERTS, "shared_expert_intermediate_size": 16},
    "falcon_h1": {**_GROUPED, **_MAMBA_HEADS, "mamba_d_ssm": 32, "mamba_d_conv": 4},
    "mamba": {**_RECURRENT, "state_size": 4},
}
"""Experts, recurrent layers, norms and factors behind a write, a model within a multimodal one."""


def tiny_model(model_type: str = "llama", *, seed: int = 0) -> torch.nn.Module:
    """Return a randomly initialised causal language model with visible weights."""
    config = CONFIG_MAPPING[model_type](**{**ARCHITECTURES, **UNUSUAL}[model_type])
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
