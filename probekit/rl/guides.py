"""Off-policy demonstrations (guides): completions that the head was fitted on, among the policy's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.data.rows import Example
from probekit.errors import DataError, ModelError
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel
from probekit.models.sampling import Completion
from probekit.rl.advantage import EPSILON, advantages
from probekit.rl.config import RLConfig
from probekit.rl.head_data import HeadData
from probekit.rl.rollout import Rollout

SIDES = ("chosen", "rejected")
MOST = 2.0
"""Largest advantage of a demonstration, in standard deviations: about that of the best of a group of six."""


def mixed_advantages(rewards: Tensor, on_policy: NDArray[np.bool_], estimator: str) -> Tensor:
    """Return the advantages of groups that hold off-policy demonstrations (guides).

    The policy's own completions are compared with one another only: next to demonstrations that are
    better than all of them, every one would be made less likely, with nothing of its own to go to. A
    demonstration is compared with the mean of the policy's completions, in their standard deviations,
    at least 0 and at most `MOST`. So what is better is imitated, and what is worse is not unlearnt:
    text that the policy would not write anyway pulls hardest of all, since the gradient of log p grows
    as p falls. There is no importance weight.

    Parameters
    ----------
    rewards
        Shape (P, G).
    on_policy
        Whether the policy wrote it, shape (P, G), two or more in each row.
    estimator
        See `advantages`.

    Returns
    -------
    Tensor
        Shape (P, G).
    """
    advantage = torch.empty_like(rewards)
    for row, mine, out in zip(rewards, torch.from_numpy(on_policy), advantage, strict=True):
        out[mine] = advantages(row[mine][None], estimator)[0]
        spread = row[mine].std()
        better = ((row[~mine] - row[mine].mean()) / (spread + EPSILON)).clamp(0.0, MOST)
        out[~mine] = better if estimator == "grpo" else better * spread
    return advantage


class Guides:
    """Puts completions of the head's pairs in place of some of a policy's own, in its first steps.

    A reward makes more frequent only what is written at all. A policy that never does what the head
    prefers learns nothing from it, however good the head is. As in learning from off-policy
    guidance (2504.14945) some completions of a group are given. Ours differ in that chosen and
    rejected sides are given in equal numbers: the pairs say what can be written, the head
    alone which of it is better (see `mixed_advantages`). They count in no refit, and of a step's figures
    in its loss and its share of clipped tokens alone.

    Parameters
    ----------
    data
        What the first head was fitted on: pairs, whose fit split is used.
    prompts
        To train on. Those whose group has no pair go without.
    loaded
        Whose tokenizer renders them.
    n
        Completions of each group that are given, an even number so that both sides are alike.
    steps
        Steps that have guides.
    max_new_tokens
        Where they are cut.
    seed
        Seed of the choice among a group's pairs.

    Raises
    ------
    DataError
        When the head was not fitted on pairs, or none is of a prompt to train on.
    """

    def __init__(
        self,
        data: HeadData,
        prompts: Sequence[Example],
        loaded: LoadedModel,
        *,
        n: int,
        steps: int,
        max_new_tokens: int,
        seed: int,
    ) -> None:
        if data.task.kind != "pair":
            raise DataError(
                f"guides: the head was fitted on {data.task.kind} rows. Expected pairs, whose two sides "
                "are the guides."
            )
        self._prompts, self._loaded = prompts, loaded
        self._n, self._steps, self._limit, self._seed = n, steps, max_new_tokens, seed
        task, wanted = data.task, {prompt.group for prompt in prompts}
        self._pairs: dict[str, list[tuple[str, str]]] = {}
        for row in task.rows[task.splits.fit]:
            if (group := str(task.examples.group[row])) in wanted:
                sides = (str(task.examples.completion[row + k]) for k in range(len(SIDES)))
                self._pairs.setdefault(group, []).append(tuple(sides))  # type: ignore[arg-type]
        if not self._pairs:
            raise DataError(
                "guides: the head was fitted on no pair of a prompt to train on (they are matched by "
                "group). Use prompts of the head's own fit split (probekit data split), or no --guides."
            )

    def join(self, rollout: Rollout, index: Sequence[int], number: int) -> Rollout:
        """Return a step's completions with guides in the last places of each group.

        Parameters
        ----------
        rollout
            What the policy wrote, in prompt-major order.
        index
            The prompts of the step.
        number
            0-based, of the step.
        """
        if number >= self._steps:
            return rollout
        rng = np.random.default_rng([self._seed, 11, number])
        size = len(rollout.rows) // len(index)
        rows, n_new, texts = list(rollout.rows), list(rollout.n_new), list(rollout.texts)
        logprobs, finished = list(rollout.logprobs), rollout.finished.copy()
        given: set[int] = set()
        for place, at in enumerate(index):
            pairs = self._pairs.get(self._prompts[at].group)
            for k in range(self._n if pairs else 0):
                assert pairs is not None
                text = pairs[int(rng.integers(len(pairs)))][k % len(SIDES)]
                i = (place + 1) * size - 1 - k
                rows[i], n_new[i], finished[i] = self._row(self._prompts[at], text)
                logprobs[i], texts[i] = np.zeros(n_new[i], np.float32), text
                given.add(i)
        return dataclasses.replace(
            rollout,
            rows=rows,
            n_new=n_new,
            texts=texts,
            logprobs=logprobs,
            finished=finished,
            guides=frozenset(given),
        )

    def _row(self, prompt: Example, text: str) -> tuple[Rendered, int, bool]:
        """Return a completion as the policy would have written it: its row, new tokens, finished."""
        row = render(dataclasses.replace(prompt, completion=text), self._loaded.tokenizer)
        length = row.stop - row.new
        if length < self._limit:
            return row, len(row.ids) - row.new, row.turn_end is not None
        written = row.ids[row.new : row.new + self._limit]
        cut = Completion(0, 0, written, np.empty(0, dtype=np.float32), finished=False)
        before = dataclasses.replace(row, ids=row.ids[: row.new])
        return cut.rendered(before, self._loaded.turn), self._limit, False


def make_guides(
    config: RLConfig, data: Sequence[HeadData], prompts: Sequence[Example], loaded: LoadedModel
) -> Guides | None:
    """Return a run's off-policy demonstrations; None where it has none.

    Raises
    ------
    ModelError
        When settings need the rows that the head was fitted on, and they are absent.
    """
    if config.needs_rows and not data:
        raise ModelError(
            "guides, refits and the OOD penalty need the head's own rows. Name their --store."
        )
    if not config.guides:
        return None
    return Guides(
        data[0],
        prompts,
        loaded,
        n=config.guides,
        steps=config.guide_steps,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
