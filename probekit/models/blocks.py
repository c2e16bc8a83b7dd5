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
    """Module of a block whose output the attention adds to the residual stream; `a|b` where blocks
    differ, empty or `-` where no module gives it."""
    mlp_out: str
    """Module of a block whose output the MLP adds to the residual stream, likewise."""

    @property
    def writes(self) -> dict[str, str]:
        """Site and module of what a block adds to the residual stream."""
        both = {"attn_out": self.attn_out, "mlp_out": self.mlp_out}
        return {site: path for site, path in both.items() if path.strip("-")}

    def write(self, site: str, block: nn.Module) -> str:
        """Return the path of the module of `block` that a site reads.

        Raises
        ------
        ModelError
            When blocks of this architecture have no such module.
        """
        path = self.writes.get(site)
        if path is None:
            raise ModelError(
                f"site {site}: no module of a {type(block).__name__} gives what it adds to the residual "
                f"stream. Expected resid_post{''.join(f', {other}' for other in self.writes)}."
            )
        return next(way for way in path.split("|") if _child(block, way) is not None)

    @classmethod
    def parse(cls, text: str) -> BlockNames:
        """Read `PATH[:ATTN,MLP]`, for example `model.layers:self_attn,mlp`."""
        path, _, rest = text.partition(":")
        attn, _, mlp = rest.partition(",")
        return cls(path.strip(), attn.strip() or "self_attn", mlp.strip() or "mlp")


_LLAMA = BlockNames("model.layers", "self_attn", "mlp")
# These normalise what attention and MLP return before adding it.
_NORMED = BlockNames("model.layers", "post_attention_layernorm", "post_feedforward_layernorm")
_DELTA = BlockNames("model.layers", "linear_attn|self_attn", "mlp")

ARCHITECTURES = {
    **dict.fromkeys(("llama", "mistral", "phi3", "phi", "smollm3", "starcoder2"), _LLAMA),
    **dict.fromkeys(("qwen2", "qwen3", "qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3"), _LLAMA),
    **dict.fromkeys(("cohere", "cohere2", "granite"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text", "olmo2"), _NORMED),
    "gemma3": BlockNames(
        "model.language_model.layers", "post_attention_layernorm", "post_feedforward_layernorm"
    ),
    **dict.fromkeys(("qwen3_5_text", "qwen3_next"), _DELTA),
    "lfm2": BlockNames("model.layers", "conv|self_attn", "feed_forward"),
    # Mamba and attention are scaled and added first: no module gives their sum.
    "falcon_h1": BlockNames("model.layers", "", ""),
    "mamba": BlockNames("backbone.layers", "mixer", ""),
    "gpt2": BlockNames("transformer.h", "attn", "mlp"),
    "gpt_neox": BlockNames("gpt_neox.layers", "attention", "mlp"),
    # What its attention and MLP return holds the residual already.
    "bloom": BlockNames("transformer.h", "self_attention.dense", "mlp.dense_4h_to_h"),
}


def write_factor(model: Any) -> float:  # noqa: ANN401 - a transformers model
    """Return what blocks multiply their writes by before adding them: 1 but for Granite."""
    return float(getattr(model.config.get_text_config(), "residual_multiplier", None) or 1.0)


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
    for number, block in enumerate(blocks):
        for path in chosen.writes.values():
            if all(_child(block, way) is None for way in path.split("|")):
                inside = ", ".join(name for name, _ in block.named_children())
                raise ModelError(
                    f"blocks {chosen.blocks!r}: block {number} has no module {path!r}. It has {inside}. "
                    "Name those of blocks that differ with |, as in self_attn|conv."
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
