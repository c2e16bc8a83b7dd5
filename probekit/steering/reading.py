"""What the unsteered model says of a text: probe scores, likelihood, divergence, residual norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probekit.activations.backends.base import Backend, Edit, Place
from probekit.activations.backends.hooks import HooksBackend
from probekit.activations.gather import Selection, pad, plan_batches
from probekit.activations.norms import mean_norms
from probekit.activations.positions import PositionRule
from probekit.errors import DataError, SteeringError
from probekit.models.blocks import BlockNames
from probekit.models.chat import Rendered
from probekit.models.load import LoadedModel
from probekit.models.new_tokens import NewTokens
from probekit.probes.probe import Probe
from probekit.steering.intervention import Steering

LOGIT_BYTES = 1 << 28
"""Bound on the logits of one batch in float32."""


class Reading(NamedTuple):
    """One completion, read."""

    scores: dict[int, float]
    """Layer to the score of that layer's probe; NaN where the probe's position has no token."""
    nll: float
    """Mean negative log-likelihood of the new tokens under the unsteered model, nats per token."""
    kl: float
    """Mean KL(steered | unsteered) over the new tokens, nats per token; 0 without steering."""


class Reader:
    """Reads completions with one clean pass for scores and likelihood, and one steered for the KL.

    Parameters
    ----------
    loaded
        The model, unsteered.
    probes
        Probes of one site and position, one for each layer.
    batch_tokens
        Padded tokens of a batch, further bounded so that its logits fit `LOGIT_BYTES`.
    """

    def __init__(
        self, loaded: LoadedModel, probes: Sequence[Probe], *, batch_tokens: int = 4096
    ) -> None:
        self.loaded = loaded
        self.probes = {(probe.site, probe.layer): probe for probe in probes}
        self.rule = PositionRule.parse(probes[0].position)
        blocks = probes[0].provenance.get("settings", {}).get("blocks")
        names = BlockNames.parse(blocks) if blocks else None
        self.backend: Backend = HooksBackend(loaded, names=names)
        vocabulary = loaded.model.config.get_text_config().vocab_size
        self.batch_tokens = max(1, min(batch_tokens, LOGIT_BYTES // (4 * vocabulary)))

    def read(
        self,
        rows: Sequence[Rendered],
        n_new: Sequence[int],
        steering: Callable[[], AbstractContextManager[Steering]] | None = None,
    ) -> list[Reading]:
        """Return a reading of every completion.

        Parameters
        ----------
        rows
            Prompt and completion as one row each.
        n_new
            How many tokens the model wrote in each row, its end-of-turn token included.
        steering
            Opens the steered block that the texts were written in; None when they were not.
        """
        by_index: dict[int, Reading] = {}
        for index in self._groups(rows):
            lengths = np.array([len(rows[i].ids) for i in index])
            for batch in plan_batches(lengths, self.batch_tokens):
                chosen = [index[i] for i in batch]
                readings = self._batch(
                    [rows[i] for i in chosen], [n_new[i] for i in chosen], steering
                )
                for i, reading in zip(chosen, readings, strict=True):
                    by_index[i] = reading
        return [by_index[i] for i in range(len(rows))]

    def _groups(self, rows: Sequence[Rendered]) -> list[list[int]]:
        """Return the rows that the position rule can read, and those that it cannot."""
        readable, rest = [], []
        for i, row in enumerate(rows):
            try:
                self.rule.resolve(row)
                readable.append(i)
            except DataError:
                rest.append(i)
        return [group for group in (readable, rest) if group]

    @torch.inference_mode()
    def _batch(
        self,
        rows: list[Rendered],
        n_new: list[int],
        steering: Callable[[], AbstractContextManager[Steering]] | None,
    ) -> list[Reading]:
        ids, mask = pad(rows, self.loaded.device)
        target = NewTokens(rows, n_new, ids)
        clean, scores = self._clean(rows, ids, mask, target)
        nll = -target.of(clean)
        kl = torch.zeros_like(nll)
        if steering is not None:
            with steering() as steered, steered.reading(rows):
                log_q = target.distributions(self.loaded.model, steered.forward, ids, mask)
            kl = (log_q.exp() * (log_q - clean)).sum(-1).clamp_min(0.0)
        means = [
            torch.segment_reduce(values, "mean", lengths=target.lengths).tolist()
            for values in (nll, kl)
        ]
        return [
            Reading({layer: s[i] for layer, s in scores.items()}, means[0][i], means[1][i])
            for i in range(len(rows))
        ]

    def _clean(
        self, rows: list[Rendered], ids: Tensor, mask: Tensor, target: NewTokens
    ) -> tuple[Tensor, dict[int, list[float]]]:
        """Return log-probabilities (n_targets, n_vocabulary) and every layer's scores, in one pass."""
        scores: dict[int, list[float]] = {}
        try:
            selection = Selection.build(self.rule, rows, self.loaded.device)
        except DataError:
            selection = None

        def watch(place: Place, probe: Probe) -> Edit:
            def read(acts: Tensor) -> None:
                if selection is not None:
                    taken = selection.take(acts).float().cpu().numpy()
                    values = probe.score(taken)
                    scores[place[1]] = _per_row(values, selection).tolist()
                else:
                    scores[place[1]] = [float("nan")] * len(rows)

            return read

        edits = {place: watch(place, probe) for place, probe in self.probes.items()}
        with self.backend.editing(edits) as forward:
            return target.distributions(self.loaded.model, forward, ids, mask), scores


def _per_row(values: np.ndarray, selection: Selection) -> np.ndarray:
    """Return one score a row: that of its token, or the mean over its tokens for rule `all`."""
    if len(values) == len(selection.lengths):
        return values
    rows = selection.sequence.cpu().numpy()
    return np.bincount(rows, weights=values) / np.bincount(rows)


def distinct(ids: Sequence[int], n: int) -> float:
    """Return distinct-n, the share of different n-grams among all; NaN for fewer than n tokens.

    References
    ----------
    Li et al. 2016 (1510.03055), there over a corpus; here over one completion, so that it does not
    fall with the number of completions.
    """
    grams = list(zip(*(ids[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else float("nan")


def residual_norms(
    loaded: LoadedModel,
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
    return mean_norms(backend, rows, layers, site=site, batch_tokens=batch_tokens)
