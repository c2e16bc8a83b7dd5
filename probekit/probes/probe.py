"""`Probe`: the frozen artefact that every later room reads, and the files it lives in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probekit.activations.positions import PositionRule
from probekit.activations.table import Cell
from probekit.data.prompts import open_texts
from probekit.errors import ProbeError
from probekit.probes.linear import ALONE, CellHead, LinearHead
from probekit.probes.probe_file import (
    SHUFFLED,
    key_of,
    of_shapes,
    read_header,
    read_tensors,
    write_probes,
)
from probekit.results.intervals import Array


@dataclass(frozen=True, repr=False)
class Probe(LinearHead):
    """A linear head on one cell: score = acts @ coef + bias, normalisation folded in.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.activations.table import Cell
    >>> from probekit.probes import Probe
    >>> cell = Cell(site="resid_post", layer=2, position="mean")
    >>> coef = np.array([3.0, 4.0])
    >>> probe = Probe("logistic", None, cell, coef, bias=1.0, l2=None, data_kind="label")
    >>> probe(np.eye(2)), probe.direction
    (array([4., 5.]), array([0.6, 0.8]))
    """

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

    def score_texts(
        self,
        texts: Any,  # noqa: ANN401 - texts, rows or a frame
        *,
        model: Any = None,  # noqa: ANN401 - any model
        tokenizer: Any = None,  # noqa: ANN401 - a transformers tokenizer
        batch_tokens: int = 4096,
    ) -> Array:
        """Return the score of every text, shape (n,), read by the model that the probe was fitted on.

        Parameters
        ----------
        texts
            Texts (raw text), conversations (lists of messages, of which the last answer is scored), or rows
            with `prompt` and `completion`. Labels are not needed.
        model
            The model, in memory or by name; None loads the one that the probe's record names.
        tokenizer
            Tokenizer of a model in memory.
        batch_tokens
            Padded tokens of a forward pass.

        Raises
        ------
        ProbekitError
            When the model is another one, or a text cannot be read at the probe's position.

        Examples
        --------
        >>> from probekit.probes import Probe
        >>> turns = [{"role": "user", "content": "How was it?"}, {"role": "assistant", "content": "Fine."}]
        >>> Probe.load("sweep").score_texts([turns, turns[:1] + [{**turns[1], "content": "Bad."}]]).shape
        (2,)
        """
        from probekit.data.memory import NAME
        from probekit.probes.scoring import Scorer, model_of, score_examples

        loaded = model_of(self, model, tokenizer)
        scorer = Scorer(self, loaded, batch_tokens=batch_tokens)
        rows = score_examples(scorer, open_texts(texts), source=NAME)
        return np.array([row["score"] for row in rows])

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,  # noqa: ANN401 - a fitted scikit-learn estimator
        *,
        layer: int | None = None,
        position: str | None = None,
        site: str = "resid_post",
        cell: tuple[str, int, str] | None = None,
        model: Any = None,  # noqa: ANN401 - a store, a model, or its name
    ) -> Probe:
        """Return the probe of a fitted scikit-learn estimator of raw activations, of any linear kind.

        Pipelines too, as long as all their steps are linear: scaling and projections are folded in.

        Parameters
        ----------
        estimator
            A classifier of two classes, whose `decision_function` is the score, or a regressor.
        layer, position, site
            Where the activations were read; or all of it as `cell`.
        model
            The store or model that they are from, for the probe's record; another is refused then.

        Raises
        ------
        ProbeError
            When the estimator is not fitted, has more than two classes, or is not linear.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.linear_model import LogisticRegression
        >>> from probekit.probes import Probe
        >>> acts = np.random.default_rng(0).normal(size=(40, 4))
        >>> fitted = LogisticRegression().fit(acts, np.where(acts[:, 0] > 0, "good", "bad"))
        >>> probe = Probe.from_estimator(fitted, layer=2, position="mean")
        >>> bool(np.allclose(probe(acts), fitted.decision_function(acts))), probe.positive_class
        (True, 'good')
        """
        from probekit.probes.interchange import weights_of

        site, layer, position = cell or (site, layer, position)
        if layer is None or position is None:
            raise ProbeError("probe: where does it read? Give layer and position, or cell.")
        found = weights_of(estimator)
        labels = found.classes is not None
        return cls(
            kind="logistic" if labels else "ridge",
            head=None,
            cell=Cell(site, layer, PositionRule.parse(position).name),
            coef=found.coef,
            bias=found.bias,
            l2=None,
            data_kind="label" if labels else "rating",
            classes=found.classes,
            score_range=None if labels else (-1.0, 1.0),
            provenance=_identity(model),
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
        header = read_header(directory)
        chosen, beside = header["probes"][header["chosen"]], header.get("beside", [])
        wanted = {
            "kind": kind or chosen["kind"],
            "site": site or chosen["site"],
            "layer": chosen["layer"] if layer is None else layer,
            "position": position or chosen["position"],
        }
        one = kind in ALONE or position in {row["position"] for row in beside}
        for row in beside if one else ():  # of each there is one, at a layer of its own
            if row["kind"] == wanted["kind"] and layer in (None, row["layer"]):
                if row["kind"] in ALONE:
                    raise ProbeError(
                        f"{directory}: its {kind} probe is not linear, so it has no direction. Load it with "
                        "probekit.probes.folder.load_head, to score and evaluate."
                    )
                if row["position"] == position:
                    return _from_row(directory, header, row)
        for row in header["probes"]:
            if all(row[key] == value for key, value in wanted.items()):
                return _from_row(directory, header, row)
        words = " ".join(f"{key}={value}" for key, value in wanted.items())
        raise ProbeError(
            f"{directory}: holds no probe with {words}. It has {len(header['probes'])} probes; "
            "see probes.json."
        )

    @classmethod
    def load_all(cls, directory: str | Path) -> list[Probe]:
        """Load every probe of a fit, ordered by layer."""
        directory = Path(directory)
        header = read_header(directory)
        return [
            _from_row(directory, header, row)
            for row in sorted(header["probes"], key=lambda row: int(row["layer"]))
        ]

    @staticmethod
    def load_shuffled(directory: str | Path) -> Array:
        """Load the weights of the chosen cell's heads on shuffled targets, (n, d_model); n may be 0."""
        found = read_tensors(Path(directory), [SHUFFLED])
        return np.asarray(found.get(SHUFFLED, np.empty((0, 0))))

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


def _identity(model: Any) -> dict[str, Any]:  # noqa: ANN401 - a store, a model, its name, or None
    if model is None or isinstance(model, str):
        return {} if model is None else {"model": model}
    if isinstance(known := getattr(model, "provenance", None), dict):
        return known
    from probekit.models.load import load_model

    return load_model(model).describe()


def save_probes(
    directory: Path,
    probes: Sequence[Probe],
    chosen: int,
    shuffled: Array | None = None,
    beside: Sequence[CellHead] = (),
) -> None:
    """Write all probes of a sweep into an existing directory.

    `shuffled`, (n, d_model), are the weights of heads of the chosen cell on shuffled targets; `beside` are
    probes of other forms.
    """
    tensors = {
        f"{key_of(_row(probe))}/{name}": value
        for probe in (*probes, *beside)
        for name, value in probe.tensors.items()
    }
    if shuffled is not None:
        tensors[SHUFFLED] = shuffled
    best = probes[chosen]
    header = {
        "data_kind": best.data_kind,
        "classes": best.classes,
        "positive_class": best.positive_class,
        "score_range": best.score_range,
        "d_model": best.d_model,
        "chosen": chosen,
        "probes": [_row(probe) for probe in probes],
        "distributions": best.distributions,
        "reference": best.reference,
        "provenance": best.provenance,
    }
    if beside:
        header["beside"] = [{**_row(probe), "reference": probe.reference} for probe in beside]
    write_probes(directory, header, tensors)


def _row(probe: CellHead) -> dict[str, Any]:
    cell = probe.cell._asdict()
    head = {"kind": probe.kind, "head": probe.head, **cell, "l2": probe.l2}
    return {**head, "metrics": probe.metrics}


def _from_row(directory: Path, header: dict[str, Any], row: dict[str, Any]) -> Probe:
    found = of_shapes(directory, row, {"coef": (header["d_model"],), "bias": (1,)})
    is_chosen = row is header["probes"][header["chosen"]]
    return Probe(
        kind=row["kind"],
        head=row["head"],
        cell=Cell(row["site"], row["layer"], row["position"]),
        coef=found["coef"],
        bias=float(found["bias"][0]),
        l2=row["l2"],
        data_kind=header["data_kind"],
        classes=header["classes"],
        score_range=header["score_range"],
        metrics=row["metrics"],
        distributions=header["distributions"] if is_chosen else {},
        reference=header["reference"] if is_chosen else row.get("reference"),
        provenance=header["provenance"],
    )
