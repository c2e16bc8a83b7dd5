"""`MLPProbe` and `AttentionProbe`, to see whether a linear head leaves anything behind; their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from probekit.activations.table import Cell
from probekit.errors import ProbeError
from probekit.probes.linear import CellHead
from probekit.probes.probe_file import of_shapes, read_header
from probekit.probes.splits import fold_by_group
from probekit.results.intervals import Array

STEPS, PATIENCE = 1500, 100
"""Most steps of training, and how many may pass without a smaller loss on the rows kept aside."""
ASIDE = 5
"""One part in so many of the groups is kept aside to stop by."""
_TINY = 1e-6


class _Trained(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What probes trained by AdamW share: two classes, standardised features, a stop by rows kept aside."""

    classes_: NDArray[Any]
    n_steps_: int
    rating = False
    """Whether targets are numbers, fitted by least squares, and not two classes."""

    def predict_proba(self, *X: NDArray[Any]) -> Array:  # noqa: N803
        """Return the probabilities of both classes, shape (n, 2)."""
        one = expit(self.decision_function(*X))
        return np.column_stack([1 - one, one])

    def predict(self, *X: NDArray[Any]) -> NDArray[Any]:  # noqa: N803
        """Return the class of every row, shape (n,)."""
        return np.asarray(self.classes_[(self.decision_function(*X) > 0).astype(int)])

    def _codes(self, y: NDArray[Any]) -> Tensor:
        if self.rating:
            return torch.from_numpy(np.asarray(y, dtype=np.float32))
        self.classes_, code = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:  # noqa: PLR2004
            raise ValueError(f"y: the data has {len(self.classes_)} classes, expected 2.")
        return torch.from_numpy(code.astype(np.float32))

    def _scaled(self, X: NDArray[Any], *, learn: bool = False) -> Tensor:  # noqa: N803
        if learn:
            self.mean_ = X.mean(axis=0, dtype=np.float64)
            self.scale_ = np.maximum(X.std(axis=0, dtype=np.float64), _TINY)
        return torch.from_numpy(((X - self.mean_) / self.scale_).astype(np.float32))

    def _train(
        self,
        weights: list[Tensor],
        score: Callable[[], Tensor],
        y: Tensor,
        groups: NDArray[Any] | None,
        rate: float,
        decay: float,
    ) -> None:
        """Train on all rows but those aside, and keep the weights with the least loss on these."""
        groups = np.arange(len(y)) if groups is None else groups
        aside = torch.from_numpy(fold_by_group(groups, ASIDE, seed=self.seed) == 0)
        if any(len(np.unique(y[part].numpy())) < 2 for part in (aside, ~aside)):  # noqa: PLR2004
            raise ValueError("y: too few rows or groups of a class to keep some aside.")
        for weight in weights:
            weight.requires_grad_()
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
        functions = nn.functional
        loss = functions.mse_loss if self.rating else functions.binary_cross_entropy_with_logits
        best, kept, self.n_steps_ = np.inf, [w.detach().clone() for w in weights], 0
        for step in range(STEPS):
            found = score()
            held = float(loss(found[aside].detach(), y[aside]))
            if held < best - 1e-5:
                best, kept, self.n_steps_ = held, [w.detach().clone() for w in weights], step
            elif step - self.n_steps_ > PATIENCE:
                break
            optimizer.zero_grad()
            loss(found[~aside], y[~aside]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            for weight, final in zip(weights, kept, strict=True):
                weight.copy_(final).requires_grad_(False)  # noqa: FBT003 - torch's own


class MLPProbe(_Trained):
    """One hidden layer of rectified units on standardised activations: score = w relu(A x + a) + b.

    Trained on the log loss by AdamW on all rows at once; a fifth of the groups is kept aside to stop by.

    Parameters
    ----------
    hidden
        Units.
    decay
        Weight decay of AdamW.
    rate
        Learning rate.
    seed
        Of the weights and of the rows kept aside.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.probes.nonlinear import MLPProbe
    >>> X = np.random.default_rng(0).standard_normal((600, 2))
    >>> y = X[:, 0] * X[:, 1] > 0  # no line tells these apart
    >>> bool(MLPProbe(hidden=16).fit(X, y).score(X, y) > 0.9)
    True
    """

    def __init__(
        self, hidden: int = 64, *, decay: float = 0.1, rate: float = 0.01, seed: int = 0
    ) -> None:
        self.hidden, self.decay, self.rate, self.seed = hidden, decay, rate, seed

    def fit(
        self,
        X: NDArray[Any],  # noqa: N803
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
    ) -> MLPProbe:
        """Fit on activations X (n, d_model), classes y (n,) and, for the rows kept aside, groups (n,)."""
        code, x = self._codes(y), self._scaled(X, learn=True)
        drawn = torch.Generator().manual_seed(self.seed)
        first = torch.randn(x.shape[1], self.hidden, generator=drawn) * (2 / x.shape[1]) ** 0.5
        last = torch.randn(self.hidden, generator=drawn) / self.hidden**0.5
        self.weights_ = [first, torch.zeros(self.hidden), last, torch.zeros(1)]
        self._train(self.weights_, lambda: self._score(x), code, groups, self.rate, self.decay)
        return self

    def decision_function(self, X: NDArray[Any]) -> Array:  # noqa: N803
        """Return the log-odds of `classes_[1]` of activations (n, d_model), shape (n,)."""
        return np.asarray(self._score(self._scaled(X)).numpy(), dtype=np.float64)

    def _score(self, x: Tensor) -> Tensor:
        first, bias, last, shift = self.weights_
        found: Tensor = torch.relu(x @ first + bias) @ last + shift
        return found


class AttentionProbe(_Trained):
    """A linear score of every token, averaged by a learned attention: sum_t softmax_t(q x_t) (v x_t) + b.

    It begins with q = 0, the mean over tokens, so that it is a linear probe until attending elsewhere pays.

    Parameters
    ----------
    decay, rate, seed
        As of `MLPProbe`.
    rating
        Fit numbers by least squares; the score is then their prediction.

    References
    ----------
    EleutherAI, Attention probes (blog, 2025). Differs: one head, and no term for the position.
    """

    def __init__(
        self, *, decay: float = 0.1, rate: float = 0.01, seed: int = 0, rating: bool = False
    ) -> None:
        self.decay, self.rate, self.seed, self.rating = decay, rate, seed, rating

    def fit(
        self,
        X: NDArray[Any],  # noqa: N803
        offsets: NDArray[np.integer],
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
    ) -> AttentionProbe:
        """Fit on tokens X (n_tokens, d_model), rows offsets[i] to offsets[i + 1] of text i, and classes."""
        code, x = self._codes(y), self._scaled(X, learn=True)
        drawn = torch.Generator().manual_seed(self.seed)
        width = x.shape[1]
        value = torch.randn(width, generator=drawn) * 0.01
        self.weights_ = [torch.zeros(width), value, torch.zeros(1)]
        text = _texts(offsets)
        self._train(
            self.weights_, lambda: self._score(x, text), code, groups, self.rate, self.decay
        )
        return self

    def decision_function(self, X: NDArray[Any], offsets: NDArray[np.integer]) -> Array:  # noqa: N803
        """Return the log-odds of `classes_[1]` of texts, shape (n,), from tokens (n_tokens, d_model)."""
        found = self._score(self._scaled(X), _texts(offsets))
        return np.asarray(found.numpy(), dtype=np.float64)

    def attention(self, X: NDArray[Any], offsets: NDArray[np.integer]) -> Array:  # noqa: N803
        """Return what each token counts, shape (n_tokens,); those of a text sum to 1."""
        return np.asarray(self._attention(self._scaled(X), _texts(offsets)).numpy())

    def _attention(self, x: Tensor, text: Tensor) -> Tensor:
        n = int(text[-1]) + 1
        logit = x @ self.weights_[0]
        top = torch.full((n,), -torch.inf).scatter_reduce(0, text, logit.detach(), "amax")
        raised = torch.exp(logit - top[text])
        share: Tensor = raised / torch.zeros(n).index_add(0, text, raised)[text]
        return share

    def _score(self, x: Tensor, text: Tensor) -> Tensor:
        _, value, shift = self.weights_
        share = self._attention(x, text)
        return torch.zeros(int(text[-1]) + 1).index_add(0, text, share * (x @ value)) + shift


def _texts(offsets: NDArray[np.integer]) -> Tensor:
    lengths = np.diff(offsets)
    return torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))


@dataclass(frozen=True, repr=False)
class NonlinearProbe(CellHead):
    """A fitted MLP or attention probe with where it reads: it scores, and has no direction.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.activations.table import Cell
    >>> from probekit.probes.nonlinear import MLPProbe, NonlinearProbe
    >>> X = np.random.default_rng(0).standard_normal((300, 2))
    >>> fitted = MLPProbe(hidden=8).fit(X, np.where(X[:, 0] > 0, "yes", "no"))
    >>> probe = NonlinearProbe.of(fitted, Cell("resid_post", 2, "mean"))
    >>> probe.score(np.array([[2.0, 0], [-2.0, 0]])) > 0, probe.positive_class
    (array([ True, False]), 'yes')
    """

    kind: str
    """mlp or attention."""
    cell: Cell
    """Site, layer and position rule it reads; `all` for attention."""
    weights: dict[str, NDArray[Any]]
    """`mean` and `scale`, (d_model,) each, and those of the estimator, by number."""
    classes: tuple[str, str] | None
    """Names of class 0 and 1; the score is the log-odds of class 1."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics of the choose split."""
    reference: dict[str, Any] | None = None
    """Tokens of a few rows with their scores, to check a loaded model against."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The store's provenance."""
    head = l2 = score_range = None
    data_kind = "label"

    @classmethod
    def of(cls, fitted: MLPProbe | AttentionProbe, cell: Cell, **more: Any) -> NonlinearProbe:  # noqa: ANN401
        """Return the probe of an estimator that was fitted at a cell."""
        weights = {"mean": fitted.mean_, "scale": fitted.scale_}
        weights |= {str(k): weight.numpy() for k, weight in enumerate(fitted.weights_)}
        first, second = map(str, fitted.classes_)
        kind = "mlp" if isinstance(fitted, MLPProbe) else "attention"
        return cls(kind, cell, weights, **{"classes": (first, second), **more})

    @classmethod
    def load(
        cls,
        directory: str | Path,
        kind: str,
        *,
        layer: int | None = None,
        position: str | None = None,
    ) -> NonlinearProbe:
        """Load the probe of a kind that a fit saved, which is one.

        Raises
        ------
        ProbeError
            When the directory is not a fit's, or has none there.
        """
        header = read_header(Path(directory))
        rows = [row for row in header.get("beside", []) if row["kind"] == kind]
        fits = [
            r for r in rows if layer in (None, r["layer"]) and position in (None, r["position"])
        ]
        if not fits:
            held = ", ".join(f"one at layer {r['layer']}, position {r['position']}" for r in rows)
            raise ProbeError(
                f"{directory}: holds no such {kind} probe, but {held or 'none'}. Fit with --kind {kind}."
            )
        row, d = fits[0], header["d_model"]
        shapes: dict[str, tuple[int, ...]] = {
            "mean": (d,),
            "scale": (d,),
            "0": (d,),
            "1": (d,),
            "2": (1,),
        }
        if kind == "mlp":
            shapes |= {"0": (d, -1), "1": (-1,), "2": (-1,), "3": (1,)}
        cell = Cell(row["site"], row["layer"], row["position"])
        weights = of_shapes(Path(directory), row, shapes)
        more = {name: row[name] for name in ("metrics", "reference")}
        known = {name: header[name] for name in ("classes", "provenance")}
        return cls(kind, cell, weights, **known, **more)

    @cached_property
    def estimator(self) -> MLPProbe | AttentionProbe:
        """The fitted estimator."""
        made: MLPProbe | AttentionProbe = MLPProbe() if self.kind == "mlp" else AttentionProbe()
        made.mean_, made.scale_ = self.weights["mean"], self.weights["scale"]
        numbered = (self.weights[str(k)] for k in range(len(self.weights) - 2))
        made.weights_ = [torch.from_numpy(weight) for weight in numbered]
        made.classes_ = np.array(self.classes or ("0", "1"))
        return made

    @property
    def d_model(self) -> int:
        """Width of the activations that it reads."""
        return len(self.weights["mean"])

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Weights by the names they are stored under, of the shapes that `load` checks."""
        return self.weights

    @property
    def direction(self) -> Array:
        """Raise: there is none, of any shape."""
        raise ProbeError(
            f"probe {self.kind} at {self.cell}: is not linear, so it has no direction. Steer and train with "
            "the linear probe of the same fit."
        )

    coef = direction

    def score(self, acts: NDArray[Any], offsets: NDArray[np.integer] | None = None) -> Array:
        """Return the log-odds of class 1, shape (n,).

        Parameters
        ----------
        acts
            Raw activations of the probe's site and layer, shape (n, d_model); of attention all tokens of n
            texts, (n_tokens, d_model).
        offsets
            Where the tokens of each text begin and end, shape (n + 1,); of attention alone.

        Raises
        ------
        ProbeError
            When the shape is another, or offsets are missing.
        """
        if acts.ndim != 2 or acts.shape[1] != self.d_model:  # noqa: PLR2004
            raise ProbeError(
                f"activations: shape is {acts.shape}, the probe expects (n, {self.d_model}). Were they "
                "cached from another model?"
            )
        if isinstance(self.estimator, MLPProbe):
            return self.estimator.decision_function(acts)
        if offsets is None:
            raise ProbeError(
                "probe attention: has one score a text, from all of its tokens, and none a token. Give a "
                "linear or mlp probe."
            )
        return self.estimator.decision_function(acts, offsets)

    __call__ = score

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        cell = {**self.cell._asdict(), "d_model": self.d_model, "classes": self.classes}
        return {"kind": self.kind, **cell, "model": self.provenance.get("model")}
