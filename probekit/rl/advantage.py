"""Rewards of a group of completions to the advantages that weight their log-probabilities."""

from __future__ import annotations

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


def flat_groups(rewards: Tensor, own: NDArray[np.bool_]) -> float:
    """Return the share of groups whose own rewards are all equal, so that they teach nothing.

    Parameters
    ----------
    rewards
        Shape (n_prompts, group_size).
    own
        Whether the policy wrote it, not a guide; shape (n_prompts, group_size).
    """
    mine = torch.from_numpy(own)
    least = rewards.masked_fill(~mine, torch.inf).min(dim=1).values
    most = rewards.masked_fill(~mine, -torch.inf).max(dim=1).values
    return float((least == most).float().mean())
