"""The tokens a model wrote within texts: what is to be predicted, and where its logits are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.errors import ModelError
from probekit.models.chat import Rendered
from probekit.models.load import LoadedModel
from probekit.models.prefix import head_input
from probekit.models.token_logprobs import token_logprobs, token_logprobs_and_entropies

LOGIT_BYTES = 1 << 28
"""Bound on the logits of one batch; where they have a gradient it takes as much again."""


def logit_tokens(loaded: LoadedModel, batch_tokens: int) -> int:
    """Return the tokens of a batch whose logits fit `LOGIT_BYTES`, at most `batch_tokens`."""
    vocabulary: int = loaded.model.config.get_text_config().vocab_size
    size: int = loaded.model.dtype.itemsize
    return max(1, min(batch_tokens, LOGIT_BYTES // (size * vocabulary)))


class NewTokens:
    """The new tokens of a right-padded batch, one after another.

    Parameters
    ----------
    rows
        Prompt and completion as one row each.
    n_new
        How many tokens the model wrote in each row, its end-of-turn token included.
    ids
        The batch, shape (n_rows, width).
    """

    def __init__(self, rows: Sequence[Rendered], n_new: Sequence[int], ids: Tensor) -> None:
        lengths = np.array(n_new)
        row = np.repeat(np.arange(len(rows)), lengths)
        within = np.concatenate([np.arange(n) for n in n_new])
        token = np.array([r.new for r in rows])[row] + within
        self.row = torch.from_numpy(row).to(ids.device)
        """Row of each token, shape (n_tokens,)."""
        self.column = torch.from_numpy(token - 1).to(ids.device)
        """Column whose logits predict it, shape (n_tokens,)."""
        self.ids = ids[self.row, self.column + 1]
        """The tokens, shape (n_tokens,)."""
        self.lengths = torch.from_numpy(lengths).to(ids.device)
        """Tokens of each row, shape (n_rows,)."""

    def distributions(
        self,
        model: Any,  # noqa: ANN401 - a transformers model
        forward: Callable[..., Any],
        ids: Tensor,
        mask: Tensor,
        **inputs: Any,  # noqa: ANN401 - such as a cache of what came before
    ) -> Tensor:
        """Return log-probabilities over the vocabulary at every token, (n_tokens, n_vocabulary).

        Raises
        ------
        ModelError
            When they are not finite.
        """
        every = self._logits(model, forward, ids, mask, inputs).float().log_softmax(-1)
        _check(self.of(every))
        return every

    def logprobs(
        self,
        model: Any,  # noqa: ANN401 - a transformers model
        forward: Callable[..., Any],
        ids: Tensor,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        **inputs: Any,  # noqa: ANN401
    ) -> Tensor:
        """Return the log-probability of each token, shape (n_tokens,); see `distributions`."""
        logits = self._logits(model, forward, ids, mask, inputs)
        return _check(token_logprobs(logits, self.ids, temperature))

    def logprobs_and_entropies(
        self,
        model: Any,  # noqa: ANN401 - a transformers model
        forward: Callable[..., Any],
        ids: Tensor,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        **inputs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Return `logprobs`, and the entropy of what each token was drawn from, shape (n_tokens,)."""
        logits = self._logits(model, forward, ids, mask, inputs)
        logprobs, entropies = token_logprobs_and_entropies(logits, self.ids, temperature)
        return _check(logprobs), entropies

    def _logits(
        self,
        model: Any,  # noqa: ANN401
        forward: Callable[..., Any],
        ids: Tensor,
        mask: Tensor,
        inputs: dict[str, Any],
    ) -> Tensor:
        inputs = {"attention_mask": mask, "use_cache": False, **inputs}
        with head_input(model, lambda hidden: hidden[self.row, self.column][None]):
            logits: Tensor = forward(input_ids=ids, **inputs).logits
        return logits.flatten(0, 1)

    def of(self, distributions: Tensor) -> Tensor:
        """Return the log-probability of each token, shape (n_tokens,)."""
        return distributions.gather(1, self.ids[:, None])[:, 0]


def _check(logprobs: Tensor) -> Tensor:
    # A logit that is not finite spoils the sum of its row, so that the token drawn shows it.
    if not bool(torch.isfinite(logprobs).all()):
        raise ModelError(
            "the model returned logits that are not finite. Use smaller coefficients or learning "
            "rates, or --dtype float32."
        )
    return logprobs
