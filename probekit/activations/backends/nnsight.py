"""The nnsight backend: reads inside a trace of its own copy of the model."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from probekit.activations.backends.base import Edit, Forward, Place, Reader
from probekit.activations.backends.hooks import _depth
from probekit.errors import ModelError
from probekit.models.blocks import BlockNames, block_list, block_names, write_factor
from probekit.models.load import LoadedModel


class NNsightBackend:
    """Read activations with nnsight 0.8.

    Importing nnsight patches `Tensor.backward` and `object` process-wide and its wrapper sets
    `padding_side` on the tokenizer, hence the late import and the copies.
    """

    def __init__(self, loaded: LoadedModel, *, names: BlockNames | None = None) -> None:
        try:
            from nnsight import TransformersModel
        except ImportError as error:
            raise ModelError(
                f"backend 'nnsight': not importable ({error}). Install nnsight>=0.8,<0.9."
            ) from error
        self._names = block_names(loaded.model, names)
        if write_factor(loaded.model) != 1:
            raise ModelError(
                f"backend 'nnsight': {loaded.model.config.model_type} multiplies what blocks write, which "
                "it does not read. Use --backend hooks."
            )
        model = copy.deepcopy(loaded.model)
        self._blocks = block_list(model, self._names)
        self.writes = tuple(self._names.writes)
        self._traced: Any = TransformersModel(model, tokenizer=copy.deepcopy(loaded.tokenizer))
        self.n_layers = len(self._envoy(self._names.blocks))
        self.d_model = int(model.config.get_text_config().hidden_size)
        self.backbone: nn.Module = model.base_model
        self._edits: list[Mapping[Place, Edit]] = []

    def run(self, ids: Tensor, mask: Tensor, places: Sequence[Place], read: Reader) -> None:
        """Run ids and mask, (n_rows, n_tokens) each: see `Backend.run`."""
        ordered = sorted(places, key=_depth)  # nnsight must meet modules in the order they run
        inputs = {"input_ids": ids, "attention_mask": mask}
        traced = self._traced
        with torch.inference_mode(), traced.trace(inputs, use_cache=False) as tracer:
            for place in ordered:
                read(place, self._activation(place))
            tracer.stop()

    def suggestion(self, ids: Tensor) -> None:
        """Return None, whatever the ids (n_rows, n_tokens): the hooks backend says it."""

    @contextlib.contextmanager
    def editing(self, edits: Mapping[Place, Edit]) -> Iterator[Forward]:
        """See `Backend.editing`; every call of the forward pass is one trace."""
        self._edits.append(edits)
        try:
            yield self._forward()
        finally:
            self._edits.remove(edits)

    def _forward(self) -> Forward:
        """Return a forward pass under every block of edits that is open, the outer ones first."""

        def forward(
            input_ids: Tensor,
            attention_mask: Tensor,
            **options: Any,  # noqa: ANN401 - those of the model's own forward
        ) -> Any:  # noqa: ANN401 - a transformers output
            import nnsight

            inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
            traced, open_edits = self._traced, list(self._edits)
            places = sorted({place for edits in open_edits for place in edits}, key=_depth)
            with traced.trace(inputs, **options):
                for place in places:
                    acts = self._activation(place)
                    for edits in open_edits:
                        new = edits[place](acts) if place in edits else None
                        if new is not None:
                            acts[:] = new
                logits = nnsight.save(traced.output.logits)
            return SimpleNamespace(logits=logits)

        return forward

    def _activation(self, place: Place) -> Tensor:
        site, layer = place
        block = self._envoy(self._names.blocks)[layer]
        if site == "resid_pre":
            return block.input  # type: ignore[no-any-return]
        if site == "resid_post":
            activation = block.output
        else:
            path = self._names.write(site, self._blocks[layer])
            activation = self._envoy(path, block).output
        return activation[0] if isinstance(activation, tuple) else activation  # type: ignore[no-any-return]

    def _envoy(self, path: str, start: Any = None) -> Any:  # noqa: ANN401 - an nnsight Envoy
        envoy = self._traced if start is None else start
        for name in path.split("."):
            envoy = getattr(envoy, name)
        return envoy
