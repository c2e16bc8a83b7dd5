"""The default backend: plain forward hooks on the user's own transformers model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probekit.activations.backends.base import Edit, Forward, Place, Reader
from probekit.errors import ModelError
from probekit.models.blocks import BlockNames, block_list, block_names
from probekit.models.load import LoadedModel

SITES = ("resid_post", "resid_pre", "attn_out", "mlp_out")


class _Stop(Exception):  # noqa: N818 - a signal, not an error
    """Ends the forward pass once the deepest wanted place has been read."""


class HooksBackend:
    """Read activations with forward hooks; the model is as it was after every call."""

    def __init__(
        self,
        loaded: LoadedModel | nn.Module,
        *,
        names: BlockNames | None = None,
    ) -> None:
        self._model: Any = loaded
        if isinstance(loaded, LoadedModel):
            self._model = loaded.model
        _refuse_compiled(self._model)
        self._names = block_names(self._model, names)
        self._blocks = block_list(self._model, self._names)
        self.backbone: nn.Module = self._model.base_model
        self.n_layers = len(self._blocks)
        self.d_model = int(self._model.config.get_text_config().hidden_size)

    def run(self, ids: Tensor, mask: Tensor, places: Sequence[Place], read: Reader) -> None:
        """Run ids and mask (n_rows, n_tokens), stop after the deepest place, skip the LM head.

        See `Backend.run`.
        """
        places = list(places)
        last = max(places, key=_depth)

        def watch(place: Place, acts: Tensor) -> None:
            read(place, acts)
            if place == last:
                raise _Stop

        with contextlib.ExitStack() as stack, torch.inference_mode():
            for place in places:
                stack.enter_context(self._hooked(place, watch))
            with contextlib.suppress(_Stop):
                self.backbone(input_ids=ids, attention_mask=mask, use_cache=False)

    @contextlib.contextmanager
    def editing(self, edits: Mapping[Place, Edit]) -> Iterator[Forward]:
        """See `Backend.editing`."""
        with contextlib.ExitStack() as stack:
            for place, edit in edits.items():
                stack.enter_context(self._hooked(place, lambda _, acts, edit=edit: edit(acts)))
            yield self._model

    @contextlib.contextmanager
    def _hooked(self, place: Place, act: Any) -> Iterator[None]:  # noqa: ANN401
        """Call `act(place, activation)` during a forward pass; what it returns replaces it."""
        site, layer = place
        block = self._blocks[layer]

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
            if args:
                new = act(place, args[0])
                return None if new is None else ((new, *args[1:]), kwargs)
            new = act(place, kwargs["hidden_states"])
            return None if new is None else (args, {**kwargs, "hidden_states": new})

        def after(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ANN401
            if not isinstance(output, tuple):
                return act(place, output)
            new = act(place, output[0])
            return None if new is None else (new, *output[1:])

        if site == "resid_pre":
            handle = block.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self._module(site, block).register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    def _module(self, site: str, block: nn.Module) -> nn.Module:
        if site == "resid_post":
            return block
        path = {"attn_out": self._names.attn_out, "mlp_out": self._names.mlp_out}.get(site)
        if path is None:
            raise ModelError(f"site {site!r}: unknown. Expected {', '.join(SITES)}.")
        return block.get_submodule(path)


def _refuse_compiled(model: nn.Module) -> None:
    """Raise `ModelError` for a model of which a part is compiled: it runs past hooks without a word."""
    for name, module in model.named_modules():
        whole = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None)
        if whole or hasattr(module.forward, "_torchdynamo_orig_callable"):
            raise ModelError(
                f"model: {name or type(model).__name__} is compiled, so that its activations can be "
                "neither read nor changed. Give the model before torch.compile."
            )


def _depth(place: Place) -> float:
    """Order places as a sequential block runs them, so that the deepest can end the pass."""
    site, layer = place
    return layer + {"resid_pre": 0.0, "attn_out": 0.25, "mlp_out": 0.5, "resid_post": 0.75}[site]
