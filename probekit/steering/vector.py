"""`SteeringVector`: one direction a layer, as a value that can be added, scaled and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.errors import SteeringError
from probekit.probes.linear import LinearHead
from probekit.steering import vector_file
from probekit.steering.vector_file import VectorFile

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Vectors to steer with, one for each layer they act at.

    A value: arithmetic returns a new one, and a layer that only one side has counts as zero in the
    other. What a coefficient of 1 adds is the vector itself, so `in_norms` makes the unit of the
    coefficient the size of the residual stream.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.steering import SteeringVector
    >>> happy = SteeringVector({2: np.array([3.0, 4.0])}, source="happy")
    >>> calm = SteeringVector({2: np.array([4.0, -3.0])}, source="calm")
    >>> (happy - 0.5 * calm).vectors[2], happy.cosine(calm)
    (array([1. , 5.5]), 0.0)
    >>> happy.unit().norm()
    1.0
    """

    vectors: Mapping[int, Vector]
    """Layer to vector, each of shape (d_model,)."""
    site: str = "resid_post"
    source: str = ""
    """Where it came from, in words."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """What identifies the model it belongs to (`LoadedModel.describe`), as far as it is known."""

    def __post_init__(self) -> None:
        if not self.vectors:
            raise SteeringError("steering vector: has no layer. Expected one vector at least.")
        clean = {int(layer): np.array(v, dtype=np.float64) for layer, v in self.vectors.items()}
        object.__setattr__(self, "vectors", dict(sorted(clean.items())))
        widths = {vector.shape for vector in self.vectors.values()}
        if len(widths) > 1 or len(next(iter(widths))) != 1:
            raise SteeringError(
                f"steering vector: shapes are {sorted(widths)}. Expected (d_model,) at every layer."
            )
        for layer, vector in self.vectors.items():
            if not np.isfinite(vector).all():
                raise SteeringError(
                    f"steering vector: layer {layer} holds NaN or infinite values. Fit the probe "
                    "again, or check the file."
                )

    def __repr__(self) -> str:
        """Return layers, width and norm; not the numbers."""
        return (
            f"SteeringVector({_words(self.layers)}, d_model {self.d_model}, norm {self.norm():.4g}, "
            f"site {self.site}, {self.source or 'no source'})"
        )

    @property
    def layers(self) -> list[int]:
        """The layers it acts at, ascending."""
        return list(self.vectors)

    @property
    def d_model(self) -> int:
        """Width of the residual stream it belongs to."""
        return len(next(iter(self.vectors.values())))

    def __add__(self, other: SteeringVector) -> SteeringVector:
        """Return the sum, layer by layer."""
        self._compatible(other)
        zero = np.zeros(self.d_model)
        layers = self.vectors.keys() | other.vectors.keys()
        return self._with(
            {n: self.vectors.get(n, zero) + other.vectors.get(n, zero) for n in layers},
            f"({self.source} + {other.source})",
        )

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        """Return the difference, layer by layer."""
        return dataclasses.replace(self + -other, source=f"({self.source} - {other.source})")

    def __mul__(self, factor: float) -> SteeringVector:
        """Return every layer's vector times a number."""
        return self._with({n: v * factor for n, v in self.vectors.items()}, self.source)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> SteeringVector:
        """Return every layer's vector divided by a number."""
        if divisor == 0:
            raise SteeringError("steering vector: cannot be divided by zero.")
        return self * (1.0 / divisor)

    def __neg__(self) -> SteeringVector:
        """Return the opposite vector."""
        return self * -1.0

    def norm(self) -> float:
        """Return the Euclidean norm over all layers together."""
        return float(np.sqrt(sum(float(v @ v) for v in self.vectors.values())))

    def norms(self) -> dict[int, float]:
        """Return the Euclidean norm of each layer's vector."""
        return {layer: float(np.linalg.norm(v)) for layer, v in self.vectors.items()}

    def cosine(self, other: SteeringVector) -> float:
        """Return the cosine of the angle to another one, all layers laid end to end."""
        self._compatible(other)
        shared = self.vectors.keys() & other.vectors.keys()
        dot = sum(float(self.vectors[n] @ other.vectors[n]) for n in shared)
        size = self.norm() * other.norm()
        if size == 0:
            raise SteeringError("steering vector: is zero, so it has no angle to another.")
        return dot / size

    def unit(self) -> SteeringVector:
        """Return it with norm 1 at every layer."""
        for layer, norm in self.norms().items():
            if norm == 0:
                raise SteeringError(
                    f"steering vector: is zero at layer {layer}, so it has no direction. Fit the "
                    "probe again, or leave the layer out."
                )
        return self._with({n: v / np.linalg.norm(v) for n, v in self.vectors.items()}, self.source)

    def in_norms(self, norms: Mapping[int, float]) -> SteeringVector:
        """Return the unit vector of every layer times that layer's residual norm.

        A coefficient then counts residual norms and means the same at every layer.

        Parameters
        ----------
        norms
            Mean residual norm by layer, from `residual_norms`.
        """
        unit = self.unit()
        return self._with({n: v * norms[n] for n, v in unit.vectors.items()}, self.source)

    def only(self, layers: Sequence[int]) -> SteeringVector:
        """Return it at some of its layers."""
        absent = [layer for layer in layers if layer not in self.vectors]
        if absent:
            raise SteeringError(
                f"steering vector: has no vector for layer {absent[0]}. It has "
                f"{_words(self.layers)}."
            )
        return self._with({layer: self.vectors[layer] for layer in layers}, self.source)

    def random_like(self, rng: np.random.Generator) -> SteeringVector:
        """Return random directions, uniform on the sphere, of the same norm at every layer."""
        drawn: dict[int, Vector] = {}
        for layer, norm in self.norms().items():
            gauss: Vector = rng.standard_normal(self.d_model)
            drawn[layer] = gauss * (norm / float(np.linalg.norm(gauss)))
        return self._with(drawn, "random")

    @classmethod
    def from_probes(cls, probes: Sequence[LinearHead]) -> SteeringVector:
        """Return the unit directions of probes, at most one for each layer.

        Raises
        ------
        SteeringError
            When two probes share a layer, their sites differ, or one is not finite or zero.
        """
        if not probes:
            raise SteeringError("steering vector: no probe was given.")
        layers = [probe.layer for probe in probes]
        if len(set(layers)) < len(layers) or len({probe.site for probe in probes}) > 1:
            raise SteeringError(
                "steering vector: several probes read the same layer or other sites. Give one "
                "probe for each layer, all of one site."
            )
        first = probes[0]
        raw = {probe.layer: probe.coef for probe in probes}
        source = f"{first.kind} probe at {first.position}"
        return cls(raw, site=first.site, source=source, model=first.provenance).unit()

    @classmethod
    def from_means(
        cls,
        positive: Mapping[int, NDArray[Any]],
        negative: Mapping[int, NDArray[Any]],
        *,
        site: str = "resid_post",
    ) -> SteeringVector:
        """Return the difference of means, mean(positive) - mean(negative), at every layer.

        Parameters
        ----------
        positive, negative
            Activations by layer, each of shape (n, d_model).
        site
            Where they were read.

        References
        ----------
        Contrastive activation addition (2312.06681), which takes the mean over pairs; with as many
        positive as negative rows the two are the same.
        """
        if positive.keys() != negative.keys():
            raise SteeringError("steering vector: the two sides have other layers.")
        for layer, side in [*positive.items(), *negative.items()]:
            width = np.shape(next(iter(positive.values())))[-1:]
            if np.ndim(side) != 2 or not len(side) or np.shape(side)[-1:] != width:
                raise SteeringError(
                    f"steering vector: layer {layer} has activations of shape {np.shape(side)}. "
                    "Expected (n, d_model) with n of 1 or more, on both sides."
                )
        means = {n: _mean(positive[n]) - _mean(negative[n]) for n in positive}
        return cls(means, site=site, source="difference of means")

    @classmethod
    def from_store(
        cls,
        store: ActivationStore,
        *,
        layers: Sequence[int],
        position: str = "mean",
        site: str = "resid_post",
    ) -> SteeringVector:
        """Return the difference of means between the two classes, or sides, of a store.

        Labels give mean(class 1) - mean(class 0), pairs mean(chosen) - mean(rejected).
        """
        examples = store.examples
        if examples.label is not None:
            top = examples.label == 1
        elif examples.side is not None:
            top = examples.side == "chosen"
        else:
            raise SteeringError(
                "store: holds ratings, which have no two sides to take the difference of. Fit a "
                "ridge probe and use its direction."
            )
        acts = {n: store.read(Cell(site, n, position)) for n in layers}
        difference = cls.from_means(
            {n: a[top] for n, a in acts.items()}, {n: a[~top] for n, a in acts.items()}, site=site
        )
        return dataclasses.replace(difference, model=store.provenance)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, or a GGUF control vector when the name ends in `.gguf`."""
        vector_file.save(VectorFile(self.vectors, self.site, self.source, self.model), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """Read a file that `save`, llama.cpp or repeng wrote."""
        return cls(*vector_file.load(Path(path)))

    def _with(self, vectors: Mapping[int, Vector], source: str) -> SteeringVector:
        return dataclasses.replace(self, vectors=vectors, source=source)

    def _compatible(self, other: SteeringVector) -> None:
        if self.d_model != other.d_model or self.site != other.site:
            raise SteeringError(
                f"steering vectors: widths are {self.d_model} and {other.d_model}, sites "
                f"{self.site} and {other.site}. Expected the same model and site."
            )


def _mean(acts: NDArray[Any]) -> Vector:
    return np.asarray(acts.mean(axis=0, dtype=np.float64))


def _words(layers: Sequence[int]) -> str:
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(map(str, layers))
