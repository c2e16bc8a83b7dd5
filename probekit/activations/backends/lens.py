"""The TransformerLens backend: a `TransformerBridge` around its own copy of the model."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probekit.activations.backends.base import WRITES, Edit, Forward, Place, Reader
from probekit.errors import ModelError
from probekit.models.load import LoadedModel


class TransformerLensBackend:
    """Read activations with TransformerLens 4.

    The bridge rewires the model that it is given, hence the copy; it also forces eager attention,
    so numbers agree with the hooks backend to float noise, not to the bit.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        try:
            from transformer_lens.model_bridge import TransformerBridge
        except ImportError as error:
            raise ModelError(
                f"backend 'transformer-lens': not importable ({error}). Install transformer-lens 4."
            ) from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._bridge: Any = TransformerBridge.boot_transformers(
                loaded.spec,
                hf_model=copy.deepcopy(loaded.model),
                tokenizer=copy.deepcopy(loaded.tokenizer),
                device=str(loaded.device),
                dtype=loaded.model.dtype,
            )
        self.n_layers = int(self._bridge.cfg.n_layers)
        self.d_model = int(self._bridge.cfg.d_model)
        self.writes: tuple[str, ...] = WRITES
        self.backbone: nn.Module = self._bridge.original_model.base_model

    def run(self, ids: Tensor, mask: Tensor, places: Sequence[Place], read: Reader) -> None:
        """Run ids and mask, (n_rows, n_tokens) each: see `Backend.run`."""
        wanted = {_hook_name(place): place for place in places}
        deepest = max(layer for _, layer in places)
        hooks = [(name, _reading(place, read)) for name, place in wanted.items()]
        # Only 0 .. n_layers - 1 stop early; the last block needs the whole pass.
        stop = deepest + 1 if deepest + 1 < self.n_layers else None
        with torch.inference_mode():
            self._bridge.run_with_hooks(
                ids, attention_mask=mask, return_type=None, stop_at_layer=stop, fwd_hooks=hooks
            )

    def suggestion(self, ids: Tensor) -> None:
        """Return None: the names are the library's, whatever the ids (n_rows, n_tokens)."""

    @contextlib.contextmanager
    def editing(self, edits: Mapping[Place, Edit]) -> Iterator[Forward]:
        """See `Backend.editing`; the bridge's hooks fire inside the model that it rewired."""
        hooks = [(_hook_name(place), _editing(edit)) for place, edit in edits.items()]
        with self._bridge.hooks(fwd_hooks=hooks):
            yield self._bridge.original_model


def _hook_name(place: Place) -> str:
    site, layer = place
    return f"blocks.{layer}.hook_{site}"


def _reading(place: Place, read: Reader) -> Any:  # noqa: ANN401 - a TransformerLens hook function
    def hook(acts: Tensor, hook: Any) -> None:  # noqa: ANN401
        read(place, acts)

    return hook


def _editing(edit: Edit) -> Any:  # noqa: ANN401 - a TransformerLens hook function
    def hook(acts: Tensor, hook: Any) -> Tensor | None:  # noqa: ANN401
        return edit(acts)

    return hook
