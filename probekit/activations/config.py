"""The settings of a capture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from probekit.errors import ModelError, ProbekitError
from probekit.settings import Listed, Rule, Settings, setting, split

Site = Literal["resid_post", "resid_pre", "attn_out", "mlp_out"]
Sites = Annotated[tuple[Site, ...], Rule(before=split, strict=False)]
_captured = partial(setting, group="What is captured")
_how = partial(setting, group="How it is captured")


@dataclass(frozen=True)
class CacheConfig(Settings):
    """What to capture and how."""

    error: ClassVar[type[ProbekitError]] = ModelError
    layers: Listed = _captured("all", "Layers", common=True)
    """Layers to capture: all, or layers and slices such as 0,4,8:24:2; negatives count from the end."""
    sites: Sites = _captured(("resid_post",), "Sites", common=True)
    """Sites with commas: resid_post, attn_out, mlp_out; the embedding (resid_pre of layer 0) always
    comes along."""
    positions: Listed | None = _captured(None, "Positions", common=True)
    """Position rules with commas: last, turn_end, prompt_end, mean, first:K, token:I, all; without it
    last,turn_end,mean, or prompt_end for rows that end with their prompt."""
    backend: Literal["hooks", "transformer-lens", "nnsight"] = _how("hooks", "Backend", common=True)
    """Library that reads the activations: plain forward hooks, transformer-lens or nnsight."""
    store_dtype: Literal["float16", "float32"] = _how("float16", "Stored as", common=True)
    """Type that the store keeps: float16, with float32 where values are beyond its range, or float32."""
    batch_tokens: int = _how(4096, "Padded tokens a forward pass", ge=1, common=True)
    """Padded tokens of a forward pass, which bounds the memory."""
    reproducible: bool = _how(default=False, title="One text a forward pass", common=True)
    """Run every row alone, so that its values do not depend, by rounding, on the rows beside it; slower."""
    max_length: int | None = _how(None, "Longest row", ge=1, common=True)
    """Longest row in tokens; without it the model's context."""
    too_long: Literal["error", "drop"] = _how("error", "Longer rows", common=True)
    """What is done with longer rows: refuse the file (error), or leave them out (drop)."""
    skip_refused: bool = _how(
        default=False, title="Rows that the template refuses are left out", common=True
    )
    """Leave out rows that the model's chat template refuses, and count them."""
    blocks: str | None = _how(None, "Blocks")
    """Where an unknown architecture keeps its blocks, as PATH:ATTN,MLP."""
