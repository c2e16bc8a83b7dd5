"""How large the residual stream is: the mean norm of its tokens, the unit of a steering coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from probekit.activations.backends.base import Backend, Place
from probekit.activations.backends.hooks import HooksBackend
from probekit.activations.gather import pad, plan_batches
from probekit.activations.table import TokenTable
from probekit.errors import SteeringError
from probekit.models.chat import Rendered
from probekit.models.load import LoadedModel

N_ROWS = 16
"""First rows of a capture on which the norms are measured that its store records."""


def residual_norms(
    loaded: LoadedModel | Any,  # noqa: ANN401 - or a transformers model
    rows: Sequence[Rendered],
    layers: Sequence[int],
    *,
    site: str = "resid_post",
    backend: Backend | None = None,
    batch_tokens: int = 4096,
) -> dict[int, float]:
    """Return the mean Euclidean norm of the tokens' activations at each layer.

    Token 0 is left out of every text: it is an attention sink whose residual is orders of magnitude
    larger than any other's, and would be the mean.

    Parameters
    ----------
    loaded
        The model.
    rows
        Rendered prompts, of any lengths.
    layers
        Layers to measure.
    site
        Site to measure.
    backend
        Who reads the activations; plain hooks by default.
    batch_tokens
        Padded tokens of a batch.

    Returns
    -------
    dict[int, float]
        Layer to mean norm.

    Examples
    --------
    >>> from probekit.data.prompts import open_prompts
    >>> from probekit.models.chat import render
    >>> from probekit.models.load import load_model
    >>> from probekit.steering import residual_norms
    >>> loaded = load_model("smollm2-135m")
    >>> prompts = open_prompts("demo:sentiment_prompts", limit=2)
    >>> norms = residual_norms(loaded, [render(p, loaded.tokenizer) for p in prompts], [0, 2])
    >>> sorted(norms), all(norm > 0 for norm in norms.values())
    ([0, 2], True)
    """
    if not rows:
        raise SteeringError("residual norms: there are no prompts to measure them on.")
    backend = backend or HooksBackend(loaded)
    device = next(backend.backbone.parameters()).device
    sums, count = dict.fromkeys(layers, 0.0), 0
    lengths = np.array([len(row.ids) for row in rows])
    for batch in plan_batches(lengths, batch_tokens):
        ids, mask = pad([rows[i] for i in batch], device)
        inner = mask.clone()
        inner[:, 0] = inner[:, 0] * (mask.sum(1) == 1)  # a text of one token has no other
        count += int(inner.sum())

        def read(place: Place, acts: Tensor, inner: Tensor = inner) -> None:
            sums[place[1]] += float((acts.float().norm(dim=-1) * inner).sum())

        backend.run(ids, mask, [(site, layer) for layer in layers], read)
    return {layer: total / count for layer, total in sums.items()}


def norms_by_site(
    loaded: LoadedModel, table: TokenTable, places: Sequence[Place], backend: Backend
) -> dict[str, dict[str, float]]:
    """Return the mean residual norm by site and layer on the first `N_ROWS` rows of a capture."""
    rows = [table.row(i) for i in range(min(N_ROWS, len(table.lengths)))]
    norms: dict[str, dict[str, float]] = {}
    for site in sorted({site for site, _ in places}):
        layers = [layer for name, layer in places if name == site]
        found = residual_norms(loaded, rows, layers, site=site, backend=backend)
        norms[site] = {str(layer): norm for layer, norm in found.items()}
    return norms
