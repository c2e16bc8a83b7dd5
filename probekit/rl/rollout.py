"""Completions of a step: groups of samples of each prompt, written by the policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.data.rows import Example
from probekit.models.chat import Rendered, render
from probekit.models.sampling import sample
from probekit.models.sampling_config import SamplingConfig
from probekit.rl.policy import AnyPolicy


@dataclass(frozen=True)
class Rollout:
    """Completions of some prompts, `samples` of each, in prompt-major order."""

    prompt: NDArray[np.int64]
    """Index of each completion's prompt among those given, shape (n,)."""
    rows: list[Rendered]
    """Prompt and completion as one row, closed where the limit cut it."""
    n_new: list[int]
    """Tokens written, the end-of-turn token included where there is one."""
    logprobs: list[NDArray[np.float32]]
    """Log-probability of each new token as it was drawn, shape (T,) each, nats."""
    texts: list[str]
    finished: NDArray[np.bool_]
    guides: frozenset[int] = frozenset()
    """Indices of completions that were given, not written: see `Guides`."""

    @property
    def on_policy(self) -> NDArray[np.bool_]:
        """Whether the policy wrote it, not a demonstration (guide), shape (n,)."""
        return ~np.isin(np.arange(len(self.rows)), list(self.guides))

    @property
    def n_tokens(self) -> int:
        """New tokens in all."""
        return sum(self.n_new)

    @property
    def n_on_policy(self) -> int:
        """New tokens that the policy wrote."""
        return int(np.array(self.n_new)[self.on_policy].sum())

    def written(self, i: int) -> list[int]:
        """Return the content tokens of a completion, without the end of the turn."""
        row = self.rows[i]
        return [int(token) for token in row.ids[row.start : row.stop]]


class Writer:
    """Lets the policy write.

    Parameters
    ----------
    policy
        Who writes.
    prompts
        Rows that end with their prompt; rendered once.
    """

    def __init__(self, policy: AnyPolicy, prompts: Sequence[Example]) -> None:
        self.policy = policy
        self._rendered = [render(prompt, policy.loaded.tokenizer) for prompt in prompts]

    def write(self, index: Sequence[int], config: SamplingConfig, *, seed: int) -> Rollout:
        """Return completions of the prompts `index`; `seed` gives them a random stream of their own."""
        loaded, prompts = self.policy.loaded, [self._rendered[i] for i in index]
        done = sample(loaded, prompts, dataclasses.replace(config, seed=seed))
        rows = [c.rendered(prompts[c.prompt], loaded.turn) for c in done]
        return Rollout(
            prompt=np.array([c.prompt for c in done]),
            rows=rows,
            n_new=[len(c.ids) for c in done],
            logprobs=[c.logprobs for c in done],
            texts=[
                loaded.tokenizer.decode(row.ids[row.start : row.stop], skip_special_tokens=True)
                for row in rows
            ],
            finished=np.array([c.finished for c in done]),
        )
