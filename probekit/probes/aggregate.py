"""One score of a text from the scores of its tokens, as monitors have it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from probekit.errors import ProbeError
from probekit.results.intervals import Array

EXPECTED = "mean, max, last, rolling:K, ema[:A] or softmax[:T]"
_NUMBER = r"[0-9]*\.?[0-9]+"
EMA, SOFTMAX = 0.5, 1.0


@dataclass(frozen=True)
class Aggregate:
    """A named rule from the scores of a text's tokens to one score.

    `mean`, `max` and `last` are what they say; `rolling:K` is the largest mean of K tokens in a row (of
    all, where there are fewer); `ema:A` the largest of e_t = A s_t + (1 - A) e_(t-1), which begins with the
    first score; `softmax:T` the mean weighted by exp(s / T): near the mean for large T, the maximum for
    small T. A defaults to 0.5, T to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.probes.aggregate import Aggregate
    >>> scores = np.array([0.0, 4.0, 2.0, -6.0])
    >>> [Aggregate.parse(name)(scores) for name in ("mean", "max", "last", "rolling:2", "ema:0.5")]
    [0.0, 4.0, -6.0, 3.0, 2.0]
    """

    name: str
    rule: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Aggregate:
        """Read a rule, or raise `ProbeError` with what was expected."""
        name = text.strip()
        rule, colon, given = name.partition(":")
        whole = rule == "rolling" and re.fullmatch(r"[1-9][0-9]{0,5}", given)
        share = rule in ("ema", "softmax") and (not colon or re.fullmatch(_NUMBER, given))
        number = float(given) if whole or (share and colon) else {"ema": EMA}.get(rule, SOFTMAX)
        inside = 0 < number <= (1 if rule == "ema" else 1e6)
        if not inside or not (name in ("mean", "max", "last") or whole or share):
            raise ProbeError(f"aggregate {text!r}: unknown. Expected {EXPECTED}.")
        return cls(name, rule, number)

    @classmethod
    def of(cls, position: str) -> Aggregate | None:
        """Return the rule that a head's position names, or None where it is one of `PositionRule`."""
        rule = position.partition(":")[0]
        return cls.parse(position) if rule in ("max", "rolling", "ema", "softmax") else None

    def __call__(self, scores: Array) -> float:
        """Return the score of a text from those of its tokens, shape (n_tokens,), of which there is one."""
        return float(self.read_out(scores, np.array([0, len(scores)]))[0][0])

    def read_out(self, scores: Array, offsets: NDArray[np.integer]) -> tuple[Array, Array]:
        """Return the score of every text and how far it moves with each of its tokens' scores.

        Parameters
        ----------
        scores
            Score of every token, shape (n_tokens,); those of text i are offsets[i] to offsets[i + 1].
        offsets
            Shape (n + 1,), rising.

        Returns
        -------
        scores, slopes
            Shapes (n,) and (n_tokens,); the slopes of a text sum to 1.
        """
        lengths = np.diff(offsets)
        at, rows = np.arange(lengths.max()), np.arange(len(lengths))
        inside = at < lengths[:, None]  # (n, longest)
        padded = np.full(inside.shape, -np.inf)
        padded[inside] = scores
        if self.rule == "softmax":
            share = softmax(padded / self.number, axis=1)
            found = (share * np.where(inside, padded, 0.0)).sum(axis=1)
            rise = np.where(inside, padded - found[:, None], 0.0) / self.number
            return found, (share * (1 + rise))[inside]
        smooth, width = padded, np.ones(len(lengths), dtype=np.int64)
        if self.rule in ("rolling", "mean"):
            width = lengths if self.rule == "mean" else np.minimum(int(self.number), lengths)
            sums = np.cumsum(np.where(inside, padded, 0.0), axis=1)
            before = at - width[:, None]
            sums = sums - np.where(
                before >= 0, np.take_along_axis(sums, np.maximum(before, 0), 1), 0.0
            )
            smooth = np.where(inside & (before >= -1), sums / width[:, None], -np.inf)
        elif self.rule == "ema":
            a, smooth = self.number, np.where(inside, padded, 0.0)
            for t in at[1:]:
                smooth[:, t] = a * smooth[:, t] + (1 - a) * smooth[:, t - 1]
            smooth = np.where(inside, smooth, -np.inf)
        end = lengths - 1 if self.rule == "last" else smooth.argmax(axis=1)
        back = end[:, None] - at  # tokens before the one where it is read
        slope = np.where((back >= 0) & (back < width[:, None]), 1.0 / width[:, None], 0.0)
        if self.rule == "ema":
            slope = np.where(
                back >= 0, (1 - a) ** np.maximum(back, 0) * np.where(at > 0, a, 1.0), 0.0
            )
        return smooth[rows, end], slope[inside]
