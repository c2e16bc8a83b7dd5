"""Where each architecture keeps its blocks, and which modules write to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from probekit.errors import ModelError


@dataclass(frozen=True)
class BlockNames:
    """Module names of one architecture, relative to the causal language model."""

    blocks: str
    """Path of the list of blocks, for example `model.layers`."""
    attn_out: str
    """Module of a block whose output the attention adds to the residual stream."""
    mlp_out: str
    """Module of a block whose output the MLP adds to the residual stream."""

    @classmethod
    def parse(cls, text: str) -> BlockNames:
        """Read `PATH[:ATTN,MLP]`, for example `model.layers:self_attn,mlp`."""
        path, _, rest = text.partition(":")
        attn, _, mlp = rest.partition(",")
        return cls(path.strip(), attn.strip() or "self_attn", mlp.strip() or "mlp")


_LLAMA = BlockNames("model.layers", "self_attn", "mlp")
# Gemma 2 and 3 normalise what attention and MLP return before adding it.
_GEMMA = BlockNames("model.layers", "post_attention_layernorm", "post_feedforward_layernorm")

ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": BlockNames("transformer.h", "attn", "mlp"),
    "gpt_neox": BlockNames("gpt_neox.layers", "attention", "mlp"),
}


def block_names(model: Any, names: BlockNames | None = None) -> BlockNames:  # noqa: ANN401
    """Return the module names for `model`, from the table or as the user gave them.

    Raises
    ------
    ModelError
        When the architecture is not in the table and no names were given, or they do not exist.
    """
    chosen = names or ARCHITECTURES.get(model.config.model_type)
    if chosen is None:
        raise ModelError(
            f"model type {model.config.model_type!r}: its blocks are not known. Known: "
            f"{', '.join(ARCHITECTURES)}. Name them with --blocks PATH:ATTN,MLP, for example "
            "--blocks model.layers:self_attn,mlp (see print(model))."
        )
    blocks = _child(model, chosen.blocks)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise ModelError(
            f"blocks {chosen.blocks!r}: is not a list of blocks of {type(model).__name__}. Expected "
            "the path of its nn.ModuleList, as in --blocks model.layers:self_attn,mlp."
        )
    for path in (chosen.attn_out, chosen.mlp_out):
        if _child(blocks[0], path) is None:
            inside = ", ".join(name for name, _ in blocks[0].named_children())
            raise ModelError(
                f"blocks {chosen.blocks!r}: a block has no module {path!r}. It has {inside}."
            )
    return chosen


def block_list(model: Any, names: BlockNames) -> nn.ModuleList:  # noqa: ANN401
    """Return the list of blocks."""
    blocks = _child(model, names.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _child(module: Any, path: str) -> Any:  # noqa: ANN401 - a module or None
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
