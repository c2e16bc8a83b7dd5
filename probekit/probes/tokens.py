"""Heads that read every token of a text: the tokens of a store, and a linear head trained by its read-out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin

from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.probes.aggregate import Aggregate
from probekit.probes.linear import CellHead
from probekit.probes.nonlinear import NonlinearProbe
from probekit.probes.solvers import solve_logistic
from probekit.probes.spectrum import Scaling
from probekit.probes.splits import fold_by_group
from probekit.results.intervals import Array

L2_FACTORS = (0.01, 0.1, 1.0, 10.0)
"""Candidates for l2, in units of the number of texts."""
N_FOLDS = 3


def content_tokens(store: ActivationStore, cell: Cell) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the tokens of every text, (n_tokens, d_model), and where each begins, (n_examples + 1,).

    The first token of a text without a prompt is left out, as of position `mean`: whatever the text, its
    residual is many times as large as that of any other.
    """
    acts, offsets = store.read_ragged(cell)
    keep = np.ones(len(acts), dtype=bool)
    for i, (begin, end) in enumerate(zip(offsets, offsets[1:], strict=False)):
        keep[begin] = end - begin == 1 or store.tokens.row(i).start > 0
    return acts[keep], np.concatenate([[0], np.cumsum(keep)])[offsets]


def stored_scores(probe: CellHead, store: ActivationStore) -> Array:
    """Return the score of every row of a store, shape (n_examples,).

    Raises
    ------
    StoreError
        When it does not hold what the probe reads: position `all`, for those that read every token.
    """
    aggregate = Aggregate.of(probe.position)
    if aggregate is None and probe.position != "all":
        return probe.score(store.read(probe.cell))
    acts, offsets = content_tokens(store, Cell(probe.site, probe.layer, "all"))
    if aggregate is not None:
        return aggregate.read_out(probe.score(acts), offsets)[0]
    assert isinstance(probe, NonlinearProbe)
    return probe.score(acts, offsets)


def part_of(
    acts: NDArray[Any], offsets: NDArray[np.int64], texts: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the tokens of some texts, (n_tokens, d_model), and their offsets (n_texts + 1,)."""
    lengths = np.diff(offsets)[texts]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(ends[-1]) + np.repeat(offsets[texts] - ends[:-1], lengths)
    return acts[place], ends


class TokenLogisticProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear head on tokens, fitted through the rule that makes a text's score of theirs.

    Minimises sum softplus(-s m) + l2/2 |w|^2 with m = rule(x_t w + b) of the tokens x_t of a text and
    s = -1, +1, on standardised tokens, by L-BFGS from the logistic head on the mean token. Of a rule with a
    maximum this is not convex: the minimum is one near that start.

    Parameters
    ----------
    rule
        `max`, `rolling:K`, `ema[:A]` or `softmax[:T]`, as in `Aggregate`.
    l2
        Penalty; None has it chosen by log loss in three folds of the groups, of 0.01 to 10 times the texts.
    seed
        Of the folds.

    Attributes
    ----------
    coef_ : ndarray (d_model,)
        Weights in raw activation space: the score of a token is x_t @ coef_ + intercept_.
    intercept_ : float
    l2_ : float
    """

    def __init__(self, rule: str = "max", l2: float | None = None, *, seed: int = 0) -> None:
        self.rule, self.l2, self.seed = rule, l2, seed

    def fit(
        self,
        X: NDArray[Any],  # noqa: N803
        offsets: NDArray[np.int64],
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
    ) -> TokenLogisticProbe:
        """Fit on tokens X (n_tokens, d_model), rows offsets[i] to offsets[i + 1] of text i, and classes."""
        self.classes_, code = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:  # noqa: PLR2004
            raise ValueError(f"y: the data has {len(self.classes_)} classes, expected 2.")
        scaling = Scaling.fit(X, center=True, standardize=True)
        tokens, sign = scaling.apply(X).astype(np.float32), np.asarray(2.0 * code - 1, np.float64)
        self.l2_ = self._chosen(tokens, offsets, sign, groups) if self.l2 is None else self.l2
        w, b = self._solve(tokens, offsets, sign, self.l2_)
        self.coef_, self.intercept_ = scaling.unfold(w, b)
        return self

    def decision_function(self, X: NDArray[Any], offsets: NDArray[np.int64]) -> Array:  # noqa: N803
        """Return the log-odds of `classes_[1]` of texts, shape (n,), from tokens (n_tokens, d_model)."""
        return Aggregate.parse(self.rule).read_out(X @ self.coef_ + self.intercept_, offsets)[0]

    def predict(self, X: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:  # noqa: N803
        """Return the class of every text, shape (n,)."""
        return np.asarray(self.classes_[(self.decision_function(X, offsets) > 0).astype(int)])

    def _chosen(
        self,
        tokens: NDArray[Any],
        offsets: NDArray[np.int64],
        sign: Array,
        groups: NDArray[Any] | None,
    ) -> float:
        fold = fold_by_group(
            np.arange(len(sign)) if groups is None else groups, N_FOLDS, seed=self.seed
        )
        rule, penalties = Aggregate.parse(self.rule), np.array(L2_FACTORS) * len(sign)
        loss = np.zeros(len(penalties))
        for k in range(N_FOLDS):
            taught, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            if not len(held) or len(np.unique(sign[taught])) < 2:  # noqa: PLR2004
                raise ValueError("y: too few rows or groups of a class to choose the penalty by.")
            mine, (theirs, ends) = part_of(tokens, offsets, taught), part_of(tokens, offsets, held)
            for i, l2 in enumerate(penalties):
                w, b = self._solve(*mine, sign[taught], l2)
                found = rule.read_out(theirs @ w + b, ends)[0]
                loss[i] += np.logaddexp(0.0, -sign[held] * found).sum()
        return float(penalties[loss.argmin()])

    def _solve(
        self, tokens: NDArray[Any], offsets: NDArray[np.int64], sign: Array, l2: float
    ) -> tuple[Array, float]:
        from scipy.optimize import minimize

        rule, d, lengths = Aggregate.parse(self.rule), tokens.shape[1], np.diff(offsets)
        means = np.add.reduceat(tokens, offsets[:-1], axis=0, dtype=np.float64) / lengths[:, None]
        start = np.append(*solve_logistic(means, sign, l2, intercept=True))

        def loss(at: Array) -> tuple[float, Array]:
            w, b = at[:d], at[d]
            found, slopes = rule.read_out(
                (tokens @ w.astype(np.float32)).astype(np.float64), offsets
            )
            pull = -sign * expit(-sign * (found + b))
            rise = tokens.T @ (slopes * np.repeat(pull, lengths)).astype(np.float32)
            value = np.logaddexp(0.0, -sign * (found + b)).sum() + l2 / 2 * (w @ w)
            return float(value), np.append(rise + l2 * w, pull.sum())

        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
        return found.x[:d], float(found.x[d])
