"""Which tokens of a completion its advantage is for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
