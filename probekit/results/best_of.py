"""Best of n: what picking by the score gives, from one set of samples, beside what training gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probekit.results.goodhart import Point, scaled_heads
from probekit.results.intervals import NO_VALUE, Array, Interval, Resampler

if TYPE_CHECKING:
    import pandas as pd


class Picks(NamedTuple):
    """Picking the best of n by the score, and how a trained policy stands beside it at one score."""

    points: list[Point]
    """Changes from one sample, paired over prompts; `step` is n, the divergence is that of picking."""
    n: int
    """The least n whose score is the policy's or more, else the largest there is."""
    reached: bool
    """Whether picking the best of n reaches the policy's score."""
    score: Interval
    """Score of the policy minus that of the best of n, paired over prompts."""
    behaviour: Interval
    """The same of the wanted behaviour."""
    independent: Interval
    """The same of the heads that are not optimised, on average, in standard deviations."""


def picks(samples: pd.DataFrame, policy: pd.DataFrame, optimised: Sequence[str]) -> Picks | None:
    """Return the curve of best-of-n and the comparison of a policy with it; None without two samples.

    Parameters
    ----------
    samples
        Several completions of each held-out prompt by the policy before training: columns of
        samples.jsonl. The smallest number a prompt has is the largest n.
    policy
        Completions of the same prompts by the trained policy.
    optimised
        Names of the heads that are optimised; the others are independent readings.
    """
    counts = samples[samples["score"].notna()].groupby("prompt_id").size()
    most = int(counts.min()) if len(counts) else 0
    if most < 2:
        return None
    heads = scaled_heads(samples, optimised)
    columns = ["score", "wanted", "independent", "n_tokens"]
    sides = [
        part.assign(independent=heads(part), wanted=part["wanted"].astype(float))
        for part in (samples, policy)
    ]
    each = {n: picked(sides[0], columns, n) for n in range(1, most + 1)}
    now = sides[1].groupby("prompt_id")[columns].mean().reindex(each[1].index)
    now = now.dropna(subset=["score"])
    goal = now["score"].mean()
    enough = [n for n in each if each[n].loc[now.index, "score"].mean() >= goal]
    n = enough[0] if enough else most
    draws = Resampler(now.index.to_numpy())
    score, behaviour, independent = _gaps(draws, now - each[n].loc[now.index])
    points = []
    for size in ladder(most):
        kl, tokens = each[size]["kl"].mean(), each[size]["n_tokens"].mean()
        root_kl = math.sqrt(kl / max(tokens, 1.0))
        changes = _gaps(Resampler(each[1].index.to_numpy()), each[size] - each[1])
        points.append(Point(size, root_kl, changes[0], changes[2], changes[1]))
    return Picks(points, n, bool(enough), score, behaviour, independent)


def _gaps(draws: Resampler, gaps: pd.DataFrame) -> tuple[Interval, Interval, Interval]:
    """Return the mean gaps of score, wanted behaviour and independent heads over prompts."""
    known = [gaps[name].notna().any() for name in ("wanted", "independent")]
    return (
        draws.mean(gaps["score"].to_numpy(float)),
        draws.share_change(gaps["wanted"].to_numpy(float)) if known[0] else NO_VALUE,
        draws.mean(gaps["independent"].to_numpy(float)) if known[1] else NO_VALUE,
    )


def best_of(scores: Array, values: Array, n: int) -> Array:
    """Return the expected values of the sample with the highest score among n, without resampling.

    Parameters
    ----------
    scores
        Score of every sample of one prompt, shape (n_samples,).
    values
        What is wanted of the picked sample, shape (n_samples, n_values).
    n
        Samples picked from, 1 to n_samples.

    Returns
    -------
    ndarray (n_values,)
        The mean over all subsets of n samples: unbiased for n fresh samples. Of samples with the same
        score any is as likely to be picked.

    Notes
    -----
    Sample i of N, by rising score, is the best of C(i-1, n-1) of the C(N, n) subsets.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.results.best_of import best_of
    >>> best_of(np.array([1.0, 2.0, 3.0]), np.array([[10.0], [20.0], [60.0]]), 2)
    array([46.66666667])
    """
    total = len(scores)
    rank = np.arange(1, total + 1)
    weights = np.zeros(total)
    whole = _log_choose(total, n)
    weights[n - 1 :] = np.exp(_log_choose(rank[n - 1 :] - 1, n - 1) - whole)
    order = np.argsort(scores, kind="stable")
    _, tied = np.unique(scores[order], return_inverse=True)
    shared = np.bincount(tied, weights) / np.bincount(tied)
    return np.asarray(shared[tied] @ values[order])


def picking_kl(logp: Array, n: int) -> Array:
    """Return what each picked sample adds to the divergence of best-of-n from the model, nats.

    The mean over picked samples estimates KL(best-of-n | model). Where a sequence is unlikely this is
    log n - (n - 1) / n, which is an upper bound otherwise.

    Parameters
    ----------
    logp
        Log-probability of each whole sequence under the model, shape (n_samples,).
    n
        Samples picked from.

    References
    ----------
    Beirami et al., Theoretical guarantees on the best-of-n alignment policy (arXiv:2401.01879).
    """
    bound = math.log(n) - (n - 1) / n
    p = np.exp(np.minimum(logp, -1e-12))
    miss = np.exp(n * np.log1p(-p))  # none of n samples is this sequence
    hit = -np.expm1(n * np.log1p(-p))
    with np.errstate(divide="ignore", invalid="ignore"):
        known = miss * (bound + (n - 1) * np.log1p(-p)) + hit * (np.log(hit) - logp)
    return np.where(p < 1e-12, bound, known)


def picked(rows: pd.DataFrame, columns: Sequence[str], n: int) -> pd.DataFrame:
    """Return a row a prompt: the expected `columns` of the best of n by `score`, and its `kl`.

    `rows` is the frame of several samples of each prompt by one model; `kl` is the divergence from that
    model in nats a completion. Samples without a score are never picked; a prompt with fewer than n
    scored samples is left out. A column without a value in some sample of a prompt is NaN there.
    """
    import pandas as pd

    found = {}
    for prompt, part in rows[rows["score"].notna()].groupby("prompt_id"):
        if len(part) < n:
            continue
        values = part[list(columns)].to_numpy(float)
        kl = picking_kl(-(part["entropy"] * part["n_tokens"]).to_numpy(float), n)
        found[prompt] = best_of(part["score"].to_numpy(float), np.column_stack([values, kl]), n)
    return pd.DataFrame.from_dict(found, orient="index", columns=[*columns, "kl"])


def ladder(most: int) -> list[int]:
    """Return the n of a curve: 1, 2, 4 and so on, and the largest."""
    return sorted({2**k for k in range(most.bit_length()) if 2**k <= most} | {most})


def _log_choose(n: Any, k: int) -> Array:  # noqa: ANN401 - an integer or an array
    from scipy.special import gammaln

    return np.asarray(gammaln(np.add(n, 1)) - gammaln(k + 1) - gammaln(np.subtract(n, k) + 1))
