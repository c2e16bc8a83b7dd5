"""`Probe`: the frozen artefact that every later room reads, and the files it lives in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.special import expit
from typing_extensions import TypedDict

from probekit.activations.table import Cell
from probekit.container import write_json
from probekit.digests import check_file
from probekit.errors import ProbeError
from probekit.parsing import read_json, tensor_errors
from probekit.probes.ridge import from_unit
from probekit.results.intervals import Array
from probekit.results.sweep import HeadRow
from probekit.results.table import reason

FORMAT = "probekit.probes"
FORMAT_VERSION = 1
WEIGHTS, HEADER = "probes.safetensors", "probes.json"
SHUFFLED = "shuffled/coef"
AGAIN = "Fit again."


class _Row(HeadRow):
    """A probe in probes.json."""

    metrics: dict[str, Any]


class _Header(TypedDict):
    """Keys of probes.json that a probe is made of."""

    data_kind: str
    classes: tuple[str, str] | None
    score_range: tuple[float, float] | None
    d_model: int
    chosen: int
    probes: list[_Row]
    distributions: dict[str, Any]
    reference: dict[str, Any] | None
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """A linear head on one cell: score = acts @ coef + bias, normalisation folded in.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.activations.table import Cell
    >>> from probekit.probes import Probe
    >>> cell = Cell(site="resid_post", layer=2, position="mean")
    >>> coef = np.array([3.0, 4.0])
    >>> probe = Probe("logistic", None, cell, coef, bias=1.0, l2=None, data_kind="label")
    >>> probe.score(np.eye(2)), probe.direction
    (array([4., 5.]), array([0.6, 0.8]))
    """

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
        """Position rule it reads."""
        return self.cell.position

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
        if acts.ndim != 2 or acts.shape[1] != len(self.coef):
            raise ProbeError(
                f"activations: shape is {acts.shape}, the probe expects (n, {len(self.coef)}). "
                "Were they cached from another model?"
            )
        if position is not None and position != self.position:
            raise ProbeError(
                f"activations: read at position {position}, the probe was fitted at "
                f"{self.position}. Cache that position."
            )
        return np.asarray(acts.astype(np.float64) @ self.coef + self.bias)

    def rating(self, score: Array) -> Array | None:
        """Return scores (n,) as ratings (n,) in the data's own units; None for other kinds."""
        return None if self.score_range is None else from_unit(score, self.score_range)

    def probability(self, score: Array) -> Array | None:
        """Return P(class 1), shape (n,), of scores (n,); None for other kinds."""
        return None if self.classes is None else np.asarray(expit(score))

    def toward(self, name: str) -> Probe:
        """Return the probe whose score is the log-odds of the class `name`: itself or its mirror.

        Raises
        ------
        ProbeError
            When the probe tells other classes apart, or none.
        """
        if self.classes is None or name not in self.classes:
            classes = (
                " or ".join(self.classes) if self.classes else "none: it was not fitted to labels"
            )
            raise ProbeError(f"class {name!r}: the probe knows {classes}.")
        if name == self.classes[1]:
            return self
        reference = self.reference and {
            **self.reference,
            "scores": [-s for s in self.reference["scores"]],
        }
        return dataclasses.replace(
            self,
            coef=-self.coef,
            bias=-self.bias,
            classes=(self.classes[1], self.classes[0]),
            distributions=_mirrored(self.distributions),
            reference=reference,
        )

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        kind: str | None = None,
        site: str | None = None,
        layer: int | None = None,
        position: str | None = None,
    ) -> Probe:
        """Load the chosen probe of a fit, or the one of another cell.

        What is not given is as in the chosen probe.

        Raises
        ------
        ProbeError
            When the directory is not a fit's, is damaged or newer, or has no such probe.
        """
        directory = Path(directory)
        header = _read_header(directory)
        chosen = header["probes"][header["chosen"]]
        wanted = {
            "kind": kind or chosen["kind"],
            "site": site or chosen["site"],
            "layer": chosen["layer"] if layer is None else layer,
            "position": position or chosen["position"],
        }
        for row in header["probes"]:
            if all(row[key] == value for key, value in wanted.items()):
                return _from_row(directory, header, row, is_chosen=row is chosen)
        words = " ".join(f"{key}={value}" for key, value in wanted.items())
        raise ProbeError(
            f"{directory}: holds no probe with {words}. It has {len(header['probes'])} probes; "
            "see probes.json."
        )

    @classmethod
    def load_all(cls, directory: str | Path) -> list[Probe]:
        """Load every probe of a fit, ordered by layer."""
        directory = Path(directory)
        header = _read_header(directory)
        chosen = header["probes"][header["chosen"]]
        return [
            _from_row(directory, header, row, is_chosen=row is chosen)
            for row in sorted(header["probes"], key=lambda row: int(row["layer"]))
        ]

    @staticmethod
    def load_shuffled(directory: str | Path) -> Array:
        """Load the weights of the chosen cell's heads on shuffled targets, (n, d_model); n may be 0."""
        from safetensors import safe_open

        path = Path(directory) / WEIGHTS
        check_file(path, ProbeError, AGAIN)
        with (
            tensor_errors(path, ProbeError, AGAIN),
            safe_open(path, framework="numpy") as file,
        ):
            known = SHUFFLED in file.keys()  # noqa: SIM118 - not a dictionary
            return np.asarray(file.get_tensor(SHUFFLED) if known else np.empty((0, 0)))

    @classmethod
    def load_layers(cls, directory: str | Path) -> list[Probe]:
        """Load the probes of every layer that are as the chosen one in kind, site and position."""
        chosen = cls.load(directory)
        alike = chosen.kind, chosen.site, chosen.position
        every = cls.load_all(directory)
        return [probe for probe in every if (probe.kind, probe.site, probe.position) == alike]


def _mirrored(distributions: dict[str, Any]) -> dict[str, Any]:
    """Return distributions of a label's scores with the sign and the order of classes changed."""

    def of(parts: dict[str, list[float]]) -> dict[str, list[float]]:
        return {name: [-s for s in parts[name]] for name in reversed(parts)}

    if not distributions:
        return {}
    tags = {t: {v: of(p) for v, p in by.items()} for t, by in distributions["by_tag"].items()}
    return {**distributions, "all": of(distributions["all"]), "by_tag": tags}


def save_probes(
    directory: Path, probes: Sequence[Probe], chosen: int, shuffled: Array | None = None
) -> None:
    """Write all probes of a sweep into an existing directory.

    `shuffled`, (n, d_model), are the weights of heads of the chosen cell on shuffled targets.
    """
    from safetensors.numpy import save_file

    tensors = {f"{_key(probe)}/coef": probe.coef for probe in probes}
    tensors |= {f"{_key(probe)}/bias": np.array([probe.bias]) for probe in probes}
    if shuffled is not None:
        tensors[SHUFFLED] = np.ascontiguousarray(shuffled)
    save_file(tensors, directory / WEIGHTS)
    best = probes[chosen]
    write_json(
        directory / HEADER,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "complete": True,
            "data_kind": best.data_kind,
            "classes": best.classes,
            "positive_class": best.positive_class,
            "score_range": best.score_range,
            "d_model": len(best.coef),
            "chosen": chosen,
            "probes": [
                {
                    "kind": probe.kind,
                    "head": probe.head,
                    **probe.cell._asdict(),
                    "l2": probe.l2,
                    "metrics": probe.metrics,
                }
                for probe in probes
            ],
            "distributions": best.distributions,
            "reference": best.reference,
            "provenance": best.provenance,
        },
    )


def _read_header(directory: Path) -> dict[str, Any]:
    path = directory / HEADER
    if not path.is_file():
        what = "no such directory" if not directory.exists() else f"has no {HEADER}"
        raise ProbeError(
            f"{directory}: is not a probe ({what}). Expected a directory written by probekit fit."
        )
    header = read_json(path, ProbeError, AGAIN)
    if header.get("format") != FORMAT or header.get("complete") is not True:
        raise ProbeError(f"{path}: is not a complete probekit probe file. {AGAIN}")
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ProbeError(
            f"{path}: has format version {version}, this probekit reads up to "
            f"{FORMAT_VERSION}. Update probekit."
        )
    try:
        checked: dict[str, Any] = dict(TypeAdapter(_Header).validate_python(header))
    except ValidationError as error:
        raise ProbeError(f"{path}: {reason(error)}. {AGAIN}") from error
    if not 0 <= checked["chosen"] < len(checked["probes"]):
        raise ProbeError(
            f"{path}: chosen is {checked['chosen']}, expected one of {len(checked['probes'])} probes. "
            f"{AGAIN}"
        )
    check_file(directory / WEIGHTS, ProbeError, AGAIN)
    return checked


def _from_row(
    directory: Path, header: dict[str, Any], row: dict[str, Any], *, is_chosen: bool
) -> Probe:
    from safetensors import safe_open

    path = directory / WEIGHTS
    cell = Cell(row["site"], row["layer"], row["position"])
    name = f"{row['kind']}/{cell}"
    with tensor_errors(path, ProbeError, AGAIN), safe_open(path, framework="numpy") as file:
        coef, bias = file.get_tensor(f"{name}/coef"), file.get_tensor(f"{name}/bias")
    if coef.shape != (header["d_model"],) or bias.shape != (1,):
        raise ProbeError(
            f"{path}: {name} has weights of shape {coef.shape} and {bias.shape}, expected "
            f"({header['d_model']},) and (1,). {AGAIN}"
        )
    return Probe(
        kind=row["kind"],
        head=row["head"],
        cell=cell,
        coef=coef,
        bias=float(bias[0]),
        l2=row["l2"],
        data_kind=header["data_kind"],
        classes=header["classes"],
        score_range=header["score_range"],
        metrics=row["metrics"],
        distributions=header["distributions"] if is_chosen else {},
        reference=header["reference"] if is_chosen else None,
        provenance=header["provenance"],
    )


def _key(probe: Probe) -> str:
    return f"{probe.kind}/{probe.cell}"
