"""Rewards of a group of completions to the advantages that weight the log-probabilities of their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EPSILON = 1e-4


def advantages(rewards: Tensor, estimator: str) -> Tensor:
    """Return the advantage of every completion within its group.

    With r the rewards of the G completions of one prompt::

        grpo     (r - mean r) / (std r + 1e-4)     2402.03300; std with G - 1
        dr-grpo   r - mean r                        2503.20783: no division, so easy prompts do not
                                                   count more
        rloo      r_i - mean of the others          2402.14740; equals G / (G - 1) times dr-grpo

    Parameters
    ----------
    rewards
        Shape (n_prompts, group_size), group_size at least 2.
    estimator
        `grpo`, `dr-grpo` or `rloo`.

    Returns
    -------
    Tensor
        Same shape; every row has mean 0.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if estimator == "grpo":
        return centred / (rewards.std(dim=1, keepdim=True) + EPSILON)
    if estimator == "rloo":
        size = rewards.shape[1]
        return centred * (size / (size - 1))
    assert estimator == "dr-grpo"
    return centred


def flat_groups(rewards: Tensor, on_policy: NDArray[np.bool_]) -> float:
    """Return the share of groups whose own rewards are all equal, so that they teach nothing.

    Parameters
    ----------
    rewards
        Shape (n_prompts, group_size).
    on_policy
        Whether the policy wrote it, not a demonstration; shape (n_prompts, group_size).
    """
    mine = torch.from_numpy(on_policy)
    least = rewards.masked_fill(~mine, torch.inf).min(dim=1).values
    most = rewards.masked_fill(~mine, -torch.inf).max(dim=1).values
    return float((least == most).float().mean())


def shares(credit: str, positions: Sequence[str], n: int) -> NDArray[np.float64]:
    """Return the share of a completion's advantage that each of its new tokens gets.

    A token can change what the head reads at and after it, never before: the reward that is still
    to come, "reward to go". A head that reads a mean over tokens is a sum of rewards of its tokens,
    so of a mean over N of them token t, from 0, gets the share (N - t) / N, and nothing from token N on:
    those later tokens would only add noise to the gradient. A head that reads the end, or one token,
    gives every token the whole. This is the causality of policy gradients (Sutton et al. 1999,
    Williams 1992), with the mean of the rewards to come in place of each, since the target bounds their
    sum and not its parts.

    Parameters
    ----------
    credit
        `whole`: 1 for every token; `to-go`: as above.
    positions
        Position rules of the heads; of several, the mean of their shares.
    n
        New tokens, the end of the turn included.

    Returns
    -------
    NDArray
        Shape (n,), from 0 to 1, never rising.
    """
    if credit == "whole":
        return np.ones(n)
    return np.asarray(np.mean([_to_go(position, n) for position in positions], axis=0))


def _to_go(position: str, n: int) -> NDArray[np.float64]:
    if position == "mean":
        read = n
    elif position.startswith("first:"):
        read = min(n, int(position.removeprefix("first:")))
    else:
        return np.ones(n)
    return np.clip((read - np.arange(n)) / read, 0.0, None)
