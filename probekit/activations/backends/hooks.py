"""The default backend: plain forward hooks on the user's own transformers model."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probekit.activations.backends.base import (
    WRITES,
    Edit,
    Forward,
    Place,
    Reader,
    adds_up,
    check_writes,
)
from probekit.errors import ModelError
from probekit.models.blocks import BlockNames, block_list, block_names, write_factor
from probekit.models.load import LoadedModel
from probekit.models.memory import bare

SITES = ("resid_post", "resid_pre", *WRITES)
SUGGESTED_DEPTH = 2


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
        self._model: Any = loaded.model if isinstance(loaded, LoadedModel) else bare(loaded)
        _refuse_compiled(self._model)
        self._names = block_names(self._model, names)
        self._blocks = block_list(self._model, self._names)
        self._factor = write_factor(self._model)
        self.writes = tuple(self._names.writes)
        self.backbone: nn.Module = self._model.base_model
        self.n_layers = len(self._blocks)
        self.d_model = int(self._model.config.get_text_config().hidden_size)
        self._unfit: ModelError | None = None
        if names is not None and self.writes:
            try:  # names that a user gave: those of the table are tested
                check_writes(self, range(self.n_layers), self._model.device)
            except ModelError as error:
                self._unfit = error

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
            if "torch._dynamo" in sys.modules:
                # A compiled function around the model would run as it was before the hooks. Without
                # the module, which takes seconds to load, there is none.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for place, edit in edits.items():
                stack.enter_context(self._hooked(place, lambda _, acts, edit=edit: edit(acts)))
            yield self._model

    @contextlib.contextmanager
    def _hooked(self, place: Place, act: Any) -> Iterator[None]:  # noqa: ANN401
        """Call `act(place, activation)` during a forward pass; what it returns replaces it."""
        site, layer = place
        block = self._blocks[layer]
        factor = self._factor if site in WRITES else 1.0

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
            if args:
                new = act(place, _three(place, args[0]))
                return None if new is None else ((new, *args[1:]), kwargs)
            new = act(place, _three(place, kwargs["hidden_states"]))
            return None if new is None else (args, {**kwargs, "hidden_states": new})

        def after(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ANN401
            whole = output if isinstance(output, tuple) else (output,)
            new = act(place, _three(place, whole[0]) if factor == 1 else whole[0] * factor)
            if new is None:
                return None
            new = new if factor == 1 else new / factor
            return (new, *whole[1:]) if isinstance(output, tuple) else new

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
        if site not in WRITES:
            raise ModelError(f"site {site!r}: unknown. Expected {', '.join(SITES)}.")
        if self._unfit is not None:
            raise self._unfit
        return block.get_submodule(self._names.write(site, block))

    def suggestion(self, ids: Tensor) -> str | None:
        """Return names whose writes add up on these ids (n_rows, n_tokens), as --blocks takes them."""
        block, seen = self._blocks[-1], dict[str, Tensor]()
        with contextlib.ExitStack() as stack, torch.inference_mode():

            def watch(name: str) -> Any:  # noqa: ANN401 - a forward hook
                def keep(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
                    output = output[0] if isinstance(output, tuple) else output
                    if isinstance(output, Tensor) and output.shape == (*ids.shape, self.d_model):
                        seen[name] = output.clone() * self._factor

                return keep

            for name, module in block.named_modules():
                if name and name.count(".") < SUGGESTED_DEPTH:
                    handle = module.register_forward_hook(watch(name))
                    stack.callback(handle.remove)
            ends: dict[Place, Tensor] = {}
            places = [("resid_pre", self.n_layers - 1), ("resid_post", self.n_layers - 1)]
            self.run(ids, torch.ones_like(ids), places, lambda p, a: ends.update({p: a.clone()}))
        before, after = (ends[place] for place in places)
        shallow = sorted(seen, key=lambda name: name.count("."))
        for pair in [*itertools.permutations(shallow, 2), *((name, "-") for name in shallow)]:
            if adds_up(before, [seen[name] for name in pair if name in seen], after):
                return f"{self._names.blocks}:{pair[0]},{pair[1]}"
        return None


def _three(place: Place, acts: Tensor) -> Tensor:
    if acts.ndim != 3:  # noqa: PLR2004
        raise ModelError(
            f"site {place[0]} of layer {place[1]}: has shape {tuple(acts.shape)}. Expected (n_texts, "
            "n_tokens, d_model), so it cannot be read."
        )
    return acts


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
