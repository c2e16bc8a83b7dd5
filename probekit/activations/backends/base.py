"""What a backend must do, and the experiment that shows it reads where it says it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from probekit.errors import ModelError

Place = tuple[str, int]
"""A site and a layer, for example `("resid_post", 12)`."""

Reader = Callable[[Place, Tensor], None]
"""Receives the whole activation (n_sequences, n_positions, d_model) while the model runs.

The tensor belongs to the running forward pass: copy what is kept.
"""

Edit = Callable[[Tensor], Tensor | None]
"""Receives an activation (n_sequences, n_positions, d_model) and returns what replaces it, or None
to leave it as it is."""

Forward = Callable[..., Any]
"""The model's own forward pass: keyword arguments and output of a transformers causal LM."""


class Backend(Protocol):
    """Runs a model on padded token ids, shows its activations to a reader, and lets them be edited."""

    n_layers: int
    d_model: int
    backbone: nn.Module
    """The module whose call runs all blocks once."""

    def run(self, ids: Tensor, mask: Tensor, places: Sequence[Place], read: Reader) -> None:
        """Run the blocks up to the deepest wanted place and call `read` once for each place.

        Parameters
        ----------
        ids
            Token ids, shape (n_sequences, n_positions).
        mask
            1 for a real token and 0 for padding, same shape.
        places
            What to read.
        read
            Called with each place and its activation.
        """

    def editing(self, edits: Mapping[Place, Edit]) -> AbstractContextManager[Forward]:
        """Give a forward pass in which every activation named is replaced as its edit says.

        The model is as it was after the block, also when an exception ends it.
        """


def prove(backend: Backend, places: Sequence[Place], device: torch.device) -> None:
    """Show by experiment that each site is where the backend says: changing it changes the logits.

    The shallowest and the deepest layer of every site are tried on four tokens.

    Raises
    ------
    ModelError
        When a change at a site leaves the logits as they were.
    """
    ids = torch.arange(4, device=device)[None] + 5
    plain = _logits(backend, ids, {})
    for site in sorted({site for site, _ in places}):
        layers = [layer for name, layer in places if name == site]
        for layer in sorted({min(layers), max(layers)}):
            delta = _bump(backend, ids, (site, layer))
            changed = _logits(backend, ids, {(site, layer): delta.__add__})
            if not bool((changed != plain).any()):
                raise ModelError(
                    f"site {site} of layer {layer}: changing it does not change the logits, so it "
                    "is not on the model's path. Name the blocks with --blocks PATH:ATTN,MLP."
                )


def _logits(backend: Backend, ids: Tensor, edits: Mapping[Place, Edit]) -> Tensor:
    """Return the logits (n_sequences, n_positions, n_vocabulary) under some edits."""
    with torch.inference_mode(), backend.editing(edits) as forward:
        output = forward(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return output.logits  # type: ignore[no-any-return]


def _bump(backend: Backend, ids: Tensor, place: Place) -> Tensor:
    """Return a vector (d_model,) as large as the activation at `place`, alternating in sign."""
    seen: list[Tensor] = []
    backend.run(
        ids, torch.ones_like(ids), [place], lambda _, acts: seen.append(acts[0, -1].clone())
    )
    signs = torch.ones_like(seen[0])
    signs[::2] = -1.0
    return signs * seen[0].float().abs().mean().clamp_min(1e-3).to(seen[0].dtype)
