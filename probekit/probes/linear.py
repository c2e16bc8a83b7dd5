"""`LinearHead`: a vector in raw activation space with all that it computes; `Probe` adds files and texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from probekit.activations.table import Cell
from probekit.errors import ProbeError
from probekit.foreign import Shown
from probekit.probes.units import from_unit
from probekit.results.intervals import Array

if TYPE_CHECKING:
    import torch

    Acts = NDArray[Any] | torch.Tensor


ALONE = ("mlp", "attention")
"""Kinds of head that are not linear: they have a score and no direction."""


class CellHead(Shown):
    """What every fitted head says of itself: where it reads, and what its score stands for."""

    kind: str
    head: str | None
    cell: Cell
    l2: float | None
    data_kind: str
    classes: tuple[str, str] | None
    score_range: tuple[float, float] | None
    metrics: dict[str, Any]
    reference: dict[str, Any] | None
    provenance: dict[str, Any]

    @property
    def d_model(self) -> int:
        """Width of the activations that it reads."""
        raise NotImplementedError

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Weights by the names they are stored under, of any shape."""
        raise NotImplementedError

    def score(self, acts: NDArray[Any]) -> Array:
        """Return the score of activations (n, d_model), shape (n,)."""
        raise NotImplementedError

    @property
    def positive_class(self) -> str | None:
        """Name of class 1, whose rows score higher; None for other kinds than labels."""
        return self.classes and self.classes[1]

    @property
    def site(self) -> str:
        """Site it reads."""
        return self.cell.site

    @property
    def layer(self) -> int:
        """0-based block index it reads."""
        return self.cell.layer

    @property
    def position(self) -> str:
        """Position rule it reads, or the rule from its tokens' scores to one (`max`, ...)."""
        return self.cell.position

    def rating(self, score: Array) -> Array | None:
        """Return scores (n,) as ratings (n,) in the data's own units; None for other kinds."""
        return None if self.score_range is None else from_unit(score, self.score_range)

    def probability(self, score: Array) -> Array | None:
        """Return P(class 1), shape (n,), of scores (n,); None for other kinds."""
        return None if self.classes is None else np.asarray(expit(score))


@dataclass(frozen=True, repr=False)
class LinearHead(CellHead):
    """A linear head on one cell: score = acts @ coef + bias, normalisation folded in."""

    kind: str
    """logistic, mean-difference, ridge or bradley-terry."""
    head: str | None
    """linear or projection, for bradley-terry."""
    cell: Cell
    """Site, layer and position rule it reads."""
    coef: Array
    """Shape (d_model,), raw activation space."""
    bias: float
    l2: float | None
    data_kind: str
    """label, rating or pair."""
    classes: tuple[str, str] | None = None
    """Names of class 0 and 1; the score is the log-odds of class 1."""
    score_range: tuple[float, float] | None = None
    """Ratings that a score of -1 and 1 stand for."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics of the choose split."""
    distributions: dict[str, Any] = field(default_factory=dict)
    """Scores of the choose split by side or class, in all and by tag: `chosen` probe only."""
    reference: dict[str, Any] | None = None
    """Tokens of a few rows with their scores, to check a loaded model against."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The store's provenance (model, data, settings) and the fit's."""

    @property
    def d_model(self) -> int:
        """Width of the activations that it reads."""
        return len(self.coef)

    @property
    def tensors(self) -> dict[str, Array]:
        """`coef`, shape (d_model,), and `bias`, shape (1,)."""
        return {"coef": self.coef, "bias": np.array([self.bias])}

    @property
    def direction(self) -> Array:
        """The unit vector along `coef`, shape (d_model,).

        Raises
        ------
        ProbeError
            When the weights are all zero or not finite, as of a fit that found nothing to tell apart.
        """
        norm = np.linalg.norm(self.coef)
        if not 0 < norm < np.inf:
            what = "zero" if norm == 0 else "not finite"
            raise ProbeError(
                f"probe {self.kind} at {self.cell}: its weights are {what}, so it has no direction. Fit "
                "again on rows that differ there."
            )
        return np.asarray(self.coef / norm)

    def score(self, acts: NDArray[Any], *, position: str | None = None) -> Array:
        """Return acts @ coef + bias, shape (n,).

        Parameters
        ----------
        acts
            Raw activations of the probe's site and layer, shape (n, d_model).
        position
            The rule they were read by, where it is known.

        Raises
        ------
        ProbeError
            When the width or the position rule is another.
        """
        self._check(acts.shape, position, "n" if acts.ndim == 2 else "")  # noqa: PLR2004
        return np.asarray(acts.astype(np.float64) @ self.coef + self.bias)

    def __call__(self, acts: Acts, *, position: str | None = None) -> Any:  # noqa: ANN401 - as given
        """Return the score of activations of any shape (..., d_model), shape (...), as what they came as.

        A torch tensor of any dtype and device gives one on the same device, in float32 at least, with
        gradient where the activations have one; anything else a NumPy array of float64.

        Parameters
        ----------
        acts
            Raw activations of the probe's site and layer.
        position
            The rule they were read by, where it is known; another than the probe's is refused.
        """
        self._check(np.shape(acts) if not hasattr(acts, "shape") else tuple(acts.shape), position)
        if not hasattr(acts, "detach"):
            return np.asarray(acts, dtype=np.float64) @ self.coef + self.bias
        import torch

        given: Any = acts
        kind = torch.promote_types(given.dtype, torch.float32)
        coef = torch.as_tensor(self.coef, dtype=kind, device=given.device)
        return given.to(kind) @ coef + self.bias

    def predict_proba(self, acts: Acts) -> Any:  # noqa: ANN401 - as given
        """Return P(class 0) and P(class 1) of activations (..., d_model), shape (..., 2).

        Raises
        ------
        ProbeError
            When the probe was not fitted to labels.
        """
        if self.classes is None:
            raise ProbeError(
                f"probe {self.kind}: was fitted to {self.data_kind} rows, so its score is no log-odds of a "
                "class. Use probe(acts)."
            )
        score = self(acts)
        if hasattr(score, "detach"):
            return score.sigmoid()[..., None] * score.new_tensor([-1.0, 1.0]) + score.new_tensor(
                [1.0, 0.0]
            )
        one = expit(score)
        return np.stack([1 - one, one], axis=-1)

    def to_sklearn(self) -> Any:  # noqa: ANN401 - a scikit-learn estimator
        """Return a fitted scikit-learn estimator that computes the same; see `interchange.to_estimator`."""
        from probekit.probes.interchange import to_estimator

        return to_estimator(self)

    def _check(self, shape: tuple[int, ...], position: str | None, rows: str = "...") -> None:
        if not rows or not shape or shape[-1] != len(self.coef):
            raise ProbeError(
                f"activations: shape is {shape}, the probe expects ({rows or 'n'}, {len(self.coef)}). "
                "Were they cached from another model?"
            )
        if position is not None and position != self.position:
            raise ProbeError(
                f"activations: read at position {position}, the probe was fitted at "
                f"{self.position}. Cache that position."
            )

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        name = next(iter(self.metrics), "")
        known = self.metrics.get(name, {})
        ends = "{value:.3f} [{low:.3f}, {high:.3f}] on the choose split"
        whole = all(isinstance(known.get(key), (int, float)) for key in ("value", "low", "high"))
        return {
            "kind": self.kind, "site": self.site, "layer": self.layer, "position": self.position,
            "d_model": len(self.coef), "classes": self.classes, "score_range": self.score_range,
            **({name: ends.format(**known)} if whole else {}), "model": self.provenance.get("model"),
        }  # fmt: skip
