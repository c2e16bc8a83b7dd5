"""`BradleyTerryProbe`: a reward head from preference pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array

from probekit.errors import ProbeError
from probekit.probes.ridge import LinearScore
from probekit.probes.solvers import solve_logistic
from probekit.probes.spectrum import Array, Scaling, Spectrum

PROJECTION_SCALE = 0.01


class BradleyTerryProbe(LinearScore, BaseEstimator):  # type: ignore[misc]
    """Reward with P(chosen) = sigmoid(score(chosen) - score(rejected)).

    Minimises sum softplus(-(x_chosen - x_rejected) w) + l2/2 |w|^2. A bias would cancel in the
    difference, so there is none and `intercept_` is 0.

    Parameters
    ----------
    l2
        Penalty on the weights of the (standardised) features. The same fit by scikit-learn is
        LogisticRegression(fit_intercept=False, C=1/(2 l2)) on the differences and their negatives,
        which hold every pair twice. Positive.
    head
        `linear`: the exact convex solve. `projection`: a matrix W (d_model, d_model) with score
        0.01 * sum(W x), trained by AdamW; the same function class, another optimiser.
    standardize
        Divide each feature of the differences by its root mean square first; folded into `coef_`.
    steps, learning_rate
        AdamW, full batch; only for `projection`. There `l2 / n_pairs` is the weight decay.
    generator
        torch.Generator that initialises W; None: seeded with 0. Only for `projection`.

    Attributes
    ----------
    coef_ : ndarray (d_model,)
        Weights in raw activation space. For `projection` 0.01 times the column sums of W.
    intercept_ : float
        Always 0.

    References
    ----------
    R. Bradley and M. Terry (1952), Rank analysis of incomplete block designs; InstructGPT's reward
    model loss (arXiv:2203.02155). Differs from the paper: a linear head on a frozen backbone.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.probes import BradleyTerryProbe
    >>> rng = np.random.default_rng(0)
    >>> rejected = rng.standard_normal((50, 3))
    >>> chosen = rejected + np.array([1.0, 0, 0])
    >>> probe = BradleyTerryProbe(l2=0.1).fit(chosen, rejected)
    >>> probe.score(chosen, rejected), bool((probe.predict_proba(chosen, rejected) > 0.5).all())
    (1.0, True)
    """

    def __init__(
        self,
        l2: float = 1.0,
        *,
        head: str = "linear",
        standardize: bool = True,
        steps: int = 300,
        learning_rate: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        self.l2 = l2
        self.head = head
        self.standardize = standardize
        self.steps = steps
        self.learning_rate = learning_rate
        self.generator = generator

    def fit(self, chosen: NDArray[Any], rejected: NDArray[Any]) -> BradleyTerryProbe:
        """Fit on the activations of both sides, each (n_pairs, d_model)."""
        chosen = check_array(chosen, dtype=np.float64)
        rejected = check_array(rejected, dtype=np.float64)
        if chosen.shape != rejected.shape:
            raise ValueError(f"chosen has shape {chosen.shape}, rejected {rejected.shape}.")
        if self.head not in ("linear", "projection"):
            raise ProbeError(f"head {self.head!r}: expected linear or projection.")
        self.n_features_in_ = chosen.shape[1]
        difference = chosen - rejected
        scaling = Scaling.fit(difference, center=False, standardize=self.standardize)
        features = scaling.apply(difference)
        fit = self._linear if self.head == "linear" else self._projection
        self.coef_, self.intercept_ = scaling.unfold(fit(features))
        return self

    def predict_proba(self, chosen: NDArray[Any], rejected: NDArray[Any]) -> Array:
        """Return P(chosen preferred), shape (n_pairs,)."""
        margin = self.raw_score(chosen) - self.raw_score(rejected)
        return np.asarray(1 / (1 + np.exp(-margin)))

    def score(self, chosen: NDArray[Any], rejected: NDArray[Any]) -> float:
        """Return the pair accuracy of two sides, (n_pairs, d_model) each; a tie counts half."""
        margin = self.raw_score(chosen) - self.raw_score(rejected)
        return float(np.mean((margin > 0) + 0.5 * (margin == 0)))

    def _linear(self, features: Array) -> Array:
        spectrum = Spectrum.of(features)
        sign = np.ones(len(features))
        return spectrum.weights(
            solve_logistic(spectrum.features, sign, self.l2, intercept=False)[0]
        )

    def _projection(self, features: Array) -> Array:
        generator = self.generator or torch.Generator().manual_seed(0)
        d = features.shape[1]
        x = torch.from_numpy(features.astype(np.float32))
        # torch.nn.Linear's own initialisation: uniform in +-1/sqrt(d).
        start = (torch.rand(d, d, generator=generator) * 2 - 1) / np.sqrt(d)
        w = start.requires_grad_()
        optimiser = torch.optim.AdamW(
            [w], lr=self.learning_rate, weight_decay=self.l2 / len(features)
        )
        for _ in range(self.steps):
            optimiser.zero_grad()
            # sum(W x) over outputs is x times the column sums of W: no (n, d) product needed.
            margin = PROJECTION_SCALE * (x @ w.sum(dim=0))
            torch.nn.functional.softplus(-margin).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        folded = PROJECTION_SCALE * w.detach().sum(dim=0)
        return np.asarray(folded.numpy(), dtype=np.float64)
