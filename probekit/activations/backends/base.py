"""What a backend must do, and the experiment that shows it reads where it says it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from probekit.errors import ModelError

WRITES = ("attn_out", "mlp_out")
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
    writes: tuple[str, ...]
    """The sites that together are what a block adds to the residual stream."""
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

    def suggestion(self, ids: Tensor) -> str | None:
        """Return names whose writes add up on these ids (n_sequences, n_tokens), None without any."""

    def editing(self, edits: Mapping[Place, Edit]) -> AbstractContextManager[Forward]:
        """Give a forward pass in which every activation named is replaced as its edit says.

        The model is as it was after the block, also when an exception ends it.
        """


def prove(backend: Backend, places: Sequence[Place], device: torch.device) -> None:
    """Show by experiment that each site is where the backend says: changing it changes the logits.

    The shallowest and the deepest layer of every site are tried on four tokens, and what blocks write
    is held against the residual stream: see `check_writes`.

    Raises
    ------
    ModelError
        When a change at a site leaves the logits as they were, or writes do not add up.
    """
    ids = _ids(device)
    written = sorted({layer for site, layer in places if site in WRITES})
    if written and backend.writes:
        check_writes(backend, written, device)
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


def check_writes(backend: Backend, layers: Iterable[int], device: torch.device) -> None:
    """Show that resid_post = resid_pre + attn_out + mlp_out, by one pass over four tokens.

    Raises
    ------
    ModelError
        At the first of `layers` where it is not so, with the names of modules that do add up.
    """
    layers, ids = list(layers), _ids(device)
    seen: dict[Place, Tensor] = {}
    places = [(s, n) for n in layers for s in ("resid_pre", *backend.writes, "resid_post")]
    backend.run(ids, torch.ones_like(ids), places, lambda p, a: seen.update({p: a.clone()}))
    for n in layers:
        writes = [seen[site, n] for site in backend.writes if (site, n) in seen]
        if len(writes) < len(backend.writes) or not adds_up(
            seen["resid_pre", n], writes, seen["resid_post", n]
        ):
            better = backend.suggestion(ids)
            raise ModelError(
                f"layer {n}: resid_pre and {' and '.join(backend.writes)} do not add up to resid_post, so "
                "they are not what the block writes. "
                + (f"Name the blocks --blocks '{better}'." if better else "Read resid_post alone.")
            )


def adds_up(before: Tensor, writes: Sequence[Tensor], after: Tensor) -> bool:
    """Return whether writes lead from one residual to another, each (n_texts, n_tokens, d_model).

    Every entry may be off by the rounding of its terms, whatever the others' size.
    """
    terms = [before.float(), *(write.float() for write in writes)]
    dtype = min((t.dtype for t in (before, *writes)), key=lambda kind: -torch.finfo(kind).eps)
    off = (sum(terms) - after.float()).abs()
    bound = 4 * torch.finfo(dtype).eps * torch.stack(terms).abs().sum(0)
    return bool((off > bound).float().mean() < 0.01)  # noqa: PLR2004


def _ids(device: torch.device) -> Tensor:
    return torch.arange(4, device=device)[None] + 5


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
