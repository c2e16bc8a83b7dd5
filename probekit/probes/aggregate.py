"""One score of a text from the scores of its tokens, as monitors have it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter
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

    def __call__(self, scores: Array) -> float:
        """Return the score of a text from those of its tokens, shape (n_tokens,), of which there is one."""
        if self.rule == "mean":
            return float(scores.mean())
        if self.rule == "max":
            return float(scores.max())
        if self.rule == "last":
            return float(scores[-1])
        if self.rule == "rolling":
            width = min(int(self.number), len(scores))
            sums = np.concatenate([[0.0], np.cumsum(scores)])
            return float((sums[width:] - sums[:-width]).max() / width)
        if self.rule == "ema":
            a = self.number
            smooth, _ = lfilter([a], [1.0, a - 1.0], scores, zi=[(1.0 - a) * scores[0]])
            return float(smooth.max())
        return float(softmax(scores / self.number) @ scores)
