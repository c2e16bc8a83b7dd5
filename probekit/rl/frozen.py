"""What the frozen model says of completions: scores of heads and reference log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.backends.base import Edit, Place
from probekit.activations.backends.hooks import HooksBackend
from probekit.activations.gather import Selection, pad, plan_batches, read_batch
from probekit.activations.positions import PositionRule
from probekit.activations.table import Cell
from probekit.errors import DataError, ModelError
from probekit.models.blocks import BlockNames
from probekit.models.chat import Rendered
from probekit.models.load import LoadedModel
from probekit.models.new_tokens import NewTokens, logit_tokens
from probekit.models.prefix import SharedPrefix, plan_shared
from probekit.probes.probe import Probe


class Frozen(NamedTuple):
    """One batch of completions, read."""

    scores: NDArray[np.float64]
    """Score of each head, shape (n_rows, n_heads); NaN where a head's position has no token."""
    logprobs: list[NDArray[np.float32]] | None
    """Log-probabilities of the new tokens of each row, (T,) each, nats; None when not asked for."""
    acts: dict[Cell, NDArray[np.float32]]
    """Activations of the cells that are kept, each (n_rows, d_model); NaN where a position has no token."""


class FrozenReader:
    """Reads completions with heads on a frozen model, in one pass.

    The pass stops at the deepest head unless log-probabilities are wanted as well.

    Parameters
    ----------
    loaded
        The model, frozen (`Policy.reference`) while it reads.
    heads
        Probes of any cells.
    batch_tokens
        Padded tokens of a batch.
    temperature
        That the completions were drawn at: log-probabilities are of softmax(logits / temperature).
    keep
        Cells whose activations are returned as well.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        heads: Sequence[Probe],
        *,
        batch_tokens: int = 4096,
        temperature: float = 1.0,
        keep: Sequence[Cell] = (),
    ) -> None:
        self.loaded, self.heads, self.batch_tokens = loaded, list(heads), batch_tokens
        self.temperature, self.keep = temperature or 1.0, list(dict.fromkeys(keep))
        blocks = self.heads[0].provenance.get("settings", {}).get("blocks")
        self.backend = HooksBackend(loaded, names=BlockNames.parse(blocks) if blocks else None)
        self.rules = [PositionRule.parse(p) for p in sorted({h.position for h in self.heads})]
        self.places: list[Place] = sorted({(h.site, h.layer) for h in self.heads})
        self._logit_tokens = logit_tokens(loaded, batch_tokens)

    def read(
        self, rows: Sequence[Rendered], n_new: Sequence[int], *, logprobs: bool = False
    ) -> Frozen:
        """Return scores and, where asked for, log-probabilities of the new tokens."""
        scores = np.full((len(rows), len(self.heads)), np.nan)
        width = len(self.heads[0].coef)
        kept = {cell: np.full((len(rows), width), np.nan, np.float32) for cell in self.keep}
        token_logprobs: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(rows)
        readable = [i for i, row in enumerate(rows) if self._readable(row)]
        rest = sorted(set(range(len(rows))) - set(readable)) if logprobs else []
        budget = self._logit_tokens if logprobs else self.batch_tokens
        for index, scored in ((readable, True), (rest, False)):
            lengths = np.array([len(rows[i].ids) for i in index])
            plan = plan_batches(lengths, budget) if index and not logprobs else []
            if index and logprobs:
                plan = plan_shared([rows[i] for i in index], budget, self.loaded.model)
            for batch in plan:
                chosen = [index[i] for i in batch]
                part = [rows[i] for i in chosen]
                acts: dict[Cell, NDArray[np.float32]]
                if logprobs:
                    acts, tokens = self._both(part, [n_new[i] for i in chosen], scored=scored)
                    for i, piece in zip(chosen, tokens, strict=True):
                        token_logprobs[i] = piece
                else:
                    acts = read_batch(
                        self.backend, part, self.places, self.rules, self.loaded.device
                    )
                if scored:
                    scores[chosen] = np.stack([h.score(acts[h.cell]) for h in self.heads], axis=1)
                    for cell, values in kept.items():
                        values[chosen] = acts[cell]
        return Frozen(scores, token_logprobs if logprobs else None, kept)

    def replace(self, heads: Sequence[Probe]) -> None:
        """Read with other heads of the same cells in place of the first ones."""
        assert [h.cell for h in heads] == [h.cell for h in self.heads[: len(heads)]]
        self.heads[: len(heads)] = heads

    def _readable(self, row: Rendered) -> bool:
        try:
            for rule in self.rules:
                rule.resolve(row)
        except DataError:
            return False
        return True

    @torch.inference_mode()
    def _both(
        self, rows: list[Rendered], n_new: list[int], *, scored: bool
    ) -> tuple[dict[Cell, NDArray[np.float32]], list[NDArray[np.float32]]]:
        shared = SharedPrefix(rows, self.loaded.model)
        rows = shared.rows
        ids, mask = pad(rows, self.loaded.device)
        inputs = shared.inputs(mask)
        acts: dict[Cell, NDArray[np.float32]] = {}
        selections = (
            [Selection.build(rule, rows, self.loaded.device) for rule in self.rules]
            if scored
            else []
        )

        def watch(place: Place) -> Edit:
            def read(values: Tensor) -> None:
                for selection in selections:
                    cell = Cell(*place, selection.rule.name)
                    acts[cell] = selection.take(values).float().cpu().numpy()

            return read

        tokens = NewTokens(rows, n_new, ids)
        with self.backend.editing({place: watch(place) for place in self.places}) as forward:
            token_logprobs = tokens.logprobs(
                self.loaded.model, forward, ids, mask, temperature=self.temperature, **inputs
            )
        for cell, values in acts.items():
            if not np.isfinite(values).all():
                raise ModelError(
                    f"{cell}: the model returned values that are not finite in "
                    f"{self.loaded.model.dtype}. Run it with --dtype bfloat16 or float32."
                )
        pieces = np.split(token_logprobs.cpu().numpy(), np.cumsum(n_new)[:-1])
        return acts, pieces
