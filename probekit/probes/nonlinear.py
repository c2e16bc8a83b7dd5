"""`MLPProbe` and `AttentionProbe`, to see whether a linear head leaves anything behind; `beside_linear`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.errors import ProbeError
from probekit.probes.heads import HeadFitter
from probekit.probes.splits import fold_by_group
from probekit.probes.task import Task
from probekit.results.intervals import Array, Interval, Metrics

STEPS, PATIENCE = 1500, 100
"""Most steps of training, and how many may pass without a smaller loss on the rows kept aside."""
ASIDE = 5
"""One part in so many of the groups is kept aside to stop by."""
_TINY = 1e-6


class _Trained(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What probes trained by AdamW share: two classes, standardised features, a stop by rows kept aside."""

    classes_: NDArray[Any]
    n_steps_: int

    def predict_proba(self, *X: NDArray[Any]) -> Array:  # noqa: N803
        """Return the probabilities of both classes, shape (n, 2)."""
        one = expit(self.decision_function(*X))
        return np.column_stack([1 - one, one])

    def predict(self, *X: NDArray[Any]) -> NDArray[Any]:  # noqa: N803
        """Return the class of every row, shape (n,)."""
        return np.asarray(self.classes_[(self.decision_function(*X) > 0).astype(int)])

    def _codes(self, y: NDArray[Any]) -> Tensor:
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
        loss = nn.functional.binary_cross_entropy_with_logits
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

    References
    ----------
    EleutherAI, Attention probes (blog, 2025). Differs: one head, and no term for the position.
    """

    def __init__(self, *, decay: float = 0.1, rate: float = 0.01, seed: int = 0) -> None:
        self.decay, self.rate, self.seed = decay, rate, seed

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


def _texts(offsets: NDArray[np.integer]) -> Tensor:
    lengths = np.diff(offsets)
    return torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))


@dataclass(frozen=True)
class Beside:
    """A linear head and others on the same report split."""

    metrics: dict[str, Metrics]
    """Of `linear`, `mlp` and, where tokens are stored, `attention`."""
    differences: dict[str, Interval]
    """How far each is above the linear head, paired, in the primary measure."""
    n: int
    """Rows of the report split."""


def beside_linear(
    store: ActivationStore, layer: int, *, position: str = "mean", seed: int = 0, n_boot: int = 1000
) -> Beside:
    """Fit a logistic head, an MLP and an attention probe to one layer; judge them on the report split.

    All are fitted to the fit and choose splits together: the others keep groups of them aside, the logistic
    head has folds of them for its penalty.

    Parameters
    ----------
    store
        Label rows; `attention` needs position `all` beside the other.
    layer, position
        What the logistic head and the MLP read.
    seed, n_boot
        Of splits, weights and draws.

    Raises
    ------
    ProbeError
        When the rows have no labels.
    """
    examples = store.examples
    if examples.label is None:
        raise ProbeError(f"beside_linear: the store has {store.kind} rows, expected labels.")
    task = Task.of(examples, seed=seed, n_boot=n_boot)
    learn = np.sort(np.concatenate([task.splits.fit, task.splits.choose]))
    whole = Task(examples, task.splits._replace(fit=learn), seed, n_boot)
    acts = store.read(Cell("resid_post", layer, position)).astype(np.float64)
    label, groups = examples.label, examples.group
    scores = {"linear": HeadFitter(whole, "logistic").scores(acts)}
    mlp = MLPProbe(seed=seed).fit(acts[learn], label[learn], groups[learn])
    scores["mlp"] = mlp.decision_function(acts)
    tokens = Cell("resid_post", layer, "all")
    if tokens in store.ragged_cells():
        ragged, offsets = content_tokens(store, tokens)
        parts = [ragged[offsets[i] : offsets[i + 1]] for i in learn]
        ends = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        probe = AttentionProbe(seed=seed)
        probe.fit(np.concatenate(parts), ends, label[learn], groups[learn])
        scores["attention"] = probe.decision_function(ragged, offsets)
    report, sample = task.splits.report, task.sampler(task.splits.report)
    return Beside(
        {name: task.metrics(found, report, sample) for name, found in scores.items()},
        {
            name: task.difference(found, scores["linear"], report, sample)
            for name, found in scores.items()
            if name != "linear"
        },
        len(report),
    )
