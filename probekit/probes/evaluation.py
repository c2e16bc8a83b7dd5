"""`evaluate`: a fitted probe on another labelled data set, with intervals over its groups."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from probekit.activations.store import ActivationStore
from probekit.activations.table import Examples
from probekit.container import as_json
from probekit.data.open import open_dataset
from probekit.data.rows import Example
from probekit.errors import DataError, ProbeError
from probekit.foreign import Shown
from probekit.probes.aggregate import Aggregate
from probekit.probes.linear import CellHead
from probekit.probes.metrics import (
    PRIMARY,
    auroc,
    label_metrics,
    pair_metrics,
    pearson,
    rating_metrics,
    rating_reliability,
    reliability,
    tag_values,
    within_group_accuracy,
)
from probekit.results.intervals import Array, Interval, Metrics, Resampler
from probekit.results.table import measured

if TYPE_CHECKING:
    import pandas as pd

OF_ITS_OWN_KIND = ("log_loss", "ece", "brier", "accuracy", "balanced_accuracy", "r2", "mae")
"""Measures that take the score for a log-odds or a rating, which that of another kind of head is not."""
COUNTS = ("tp", "fp", "fn", "tn")


@dataclass(frozen=True, repr=False)
class ProbeEvaluation(Shown):
    """What `evaluate` found; intervals are 95 % over groups.

    Examples
    --------
    >>> from probekit.activations.store import ActivationStore
    >>> from probekit.probes import Probe, evaluate
    >>> with ActivationStore.open("acts.h5") as store:
    ...     found = evaluate(Probe.load("sweep"), store)
    >>> flagged = found.at(threshold=1.0)
    >>> flagged["tp"] + flagged["fn"] == int((found.examples.label == 1).sum())
    True
    """

    probe: CellHead
    kind: str
    """`label`, `rating` or `pair`: of the data."""
    metrics: Metrics
    by_tag: dict[str, dict[str, Metrics]]
    """Tag, then value, then measure."""
    reliability: list[dict[str, float]]
    """Bins of what was predicted and what was seen; empty where the score predicts neither."""
    examples: Examples
    scores: Array
    """Score of every row (of both sides of a pair), shape (n_rows,)."""
    n: dict[str, int]
    """`rows` (pairs), `groups`, `identical` pairs of one text that are left out, and `refused` rows."""
    is_fitted_data: bool
    """Whether these are the rows that the probe was fitted to: then nothing here is held out."""
    sampler: Resampler = field(compare=False)

    @property
    def primary(self) -> str:
        """Name of the first measure."""
        return PRIMARY[self.kind]

    def __getitem__(self, name: str) -> Interval:
        """Return a measure on all rows."""
        return self.metrics[name]

    def at(self, threshold: float = 0.0) -> dict[str, Any]:
        """Return what it means to flag every row whose score is above a threshold.

        Counts `tp`, `fp`, `fn`, `tn` of the positive class, and as intervals `precision`, `recall`, `fpr`,
        `accuracy`. A threshold of 0 is a probability of one half, for probes that were fitted to labels.

        Raises
        ------
        ProbeError
            When the data have no labels.
        """
        if self.examples.label is None:
            raise ProbeError(f"threshold: {self.kind} rows have no classes, expected labels.")
        one, flagged = self.examples.label == 1, self.scores > threshold
        parts = (one & flagged, ~one & flagged, one & ~flagged, ~one & ~flagged)
        share, sides = self.sampler.share, np.where(flagged, 1.0, 0.0)
        return {
            "threshold": threshold,
            **{name: int(part.sum()) for name, part in zip(COUNTS, parts, strict=True)},
            "precision": share(np.where(flagged, one.astype(float), np.nan)),
            "recall": share(np.where(one, sides, np.nan)),
            "fpr": share(np.where(one, np.nan, sides)),
            "accuracy": share((one == flagged).astype(float)),
        }

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Rows by true class and by the class that the score says at threshold 0, shape (2, 2)."""
        found = self.at()
        return np.array([[found["tn"], found["fp"]], [found["fn"], found["tp"]]])

    def to_frame(self) -> pd.DataFrame:
        """Return the measures as a table: `part` (all, or TAG=VALUE), `measure`, `value`, `low`, `high`."""
        parts = {"all": self.metrics}
        parts |= {f"{t}={v}": m for t, values in self.by_tag.items() for v, m in values.items()}
        return measured(
            ["part"], [(p, *item) for p, found in parts.items() for item in found.items()]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, without the rows."""
        # A threshold of the fit's scale.
        labels = self.kind == "label" and "accuracy" in self.metrics
        return {
            "primary": self.primary, "kind": self.kind, "metrics": as_json(self.metrics),
            "by_tag": as_json(self.by_tag), "reliability": self.reliability, "n": self.n,
            "fitted_data": self.is_fitted_data,
            "positive_class": self.examples.classes and self.examples.classes[1],
            **({"at": as_json(self.at())} if labels else {}),
        }  # fmt: skip

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        own = "these rows; nothing is held out" if self.is_fitted_data else None
        return {**self.metrics, **self.n, "classes": self.examples.classes, "fitted to": own}


def evaluate(
    probe: CellHead,
    data: Any,  # noqa: ANN401 - any source of rows, or a store
    *,
    model: Any = None,  # noqa: ANN401 - any model
    tokenizer: Any = None,  # noqa: ANN401 - a transformers tokenizer
    positive: str | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    skip_refused: bool = False,
    batch_tokens: int = 4096,
    aggregate: Aggregate | str | None = None,
) -> ProbeEvaluation:
    """Judge a fitted probe on rows with labels, ratings or preferences that it was not fitted to.

    Nothing is fitted here. Of data of another kind than the probe's, measures that take its score for a
    log-odds or a rating are left out.

    Parameters
    ----------
    probe
        Any probe.
    data
        What `open_dataset` takes, or an `ActivationStore` that holds the probe's cell: no model is run then.
    model, tokenizer
        As in `Probe.score_texts`.
    positive
        Name of the class of the data that should score higher, where its classes are not those of the probe.
    n_boot, seed, batch_tokens
        Of the intervals; padded tokens of a forward pass.
    skip_refused
        Leave out rows that the model's chat template refuses.
    aggregate
        Score texts by their tokens, as `max` or `rolling:8`; measures that take the score for a log-odds
        or a rating are left out then.

    Raises
    ------
    ProbekitError
        When model, classes or rows do not fit the probe.

    Examples
    --------
    >>> from probekit.activations.store import ActivationStore
    >>> from probekit.probes import Probe, evaluate
    >>> with ActivationStore.open("acts.h5") as store:
    ...     found = evaluate(Probe.load("sweep"), store)
    >>> found.kind, found.n["rows"] == int(found.confusion.sum()), found.is_fitted_data
    ('label', True, True)
    """
    rule = Aggregate.parse(aggregate) if isinstance(aggregate, str) else aggregate
    known, scores, refused, fingerprint = _read(
        probe, data, (model, tokenizer), positive, skip=skip_refused, batch_tokens=batch_tokens, rule=rule
    )  # fmt: skip
    known, scores = _oriented(known, scores, probe, positive)
    known, scores, identical = _different(known, scores)
    sampler = Resampler(known.group[:: _step(known)], n_boot=n_boot, seed=seed)
    units = np.arange(len(sampler.groups))
    own = known.kind == probe.data_kind and rule is None

    def measured(part: NDArray[np.int64]) -> Metrics:
        inside = Resampler(sampler.groups[part], n_boot=n_boot, seed=seed)
        return _metrics(probe, known, scores, part, inside, own=own)

    tags = tag_values({t: v[units * _step(known)] for t, v in known.tags.items()})
    left_out = {k: n for k, n in (("identical", identical), ("refused", refused)) if n}
    fitted = probe.provenance.get("data", {}).get("fingerprint")
    return ProbeEvaluation(
        probe=probe,
        kind=known.kind,
        metrics=measured(units),
        by_tag={t: {v: measured(i) for v, i in parts.items()} for t, parts in tags.items()},
        reliability=_reliability(probe, known, scores) if own else [],
        examples=known,
        scores=scores,
        n={"rows": len(units), "groups": sampler.n_groups, **left_out},
        is_fitted_data=fitted is not None and fitted == fingerprint,
        sampler=sampler,
    )


def _read(
    probe: CellHead,
    data: Any,  # noqa: ANN401
    model: tuple[Any, Any],
    positive: str | None,
    **more: Any,  # noqa: ANN401
) -> tuple[Examples, Array, int, str | None]:
    """Return the columns of rows, their scores, how many were refused, and the data's fingerprint."""
    if not isinstance(data, ActivationStore):
        dataset = open_dataset(data, positive=positive)
        _two(dataset.classes or ())
        return *_scored(probe, dataset, *model, **more), dataset.fingerprint
    if more["rule"] is not None:
        raise ProbeError("aggregate: a store holds no score a token. Give the rows themselves.")
    _two(data.examples.several)
    fingerprint = data.provenance.get("data", {}).get("fingerprint")
    from probekit.probes.tokens import stored_scores  # loads torch

    return data.examples, stored_scores(probe, data), 0, fingerprint


def _two(classes: tuple[str, ...]) -> None:
    if len(classes) > 2:  # noqa: PLR2004
        raise ProbeError(f"classes: the data have {', '.join(classes)}, expected two: --positive.")


def _step(examples: Examples) -> int:
    return 2 if examples.kind == "pair" else 1


def _scored(
    probe: CellHead,
    dataset: Any,  # noqa: ANN401 - a Dataset
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    *,
    skip: bool,
    batch_tokens: int,
    rule: Aggregate | None,
) -> tuple[Examples, Array, int]:
    """Return the columns of rows, their scores, and how many were refused."""
    from probekit.models.chat import render
    from probekit.probes.scoring import Scorer, model_of, score_examples

    scorer = Scorer(probe, model_of(probe, model, tokenizer), batch_tokens=batch_tokens)
    refused: list[str] = []
    rows = list(dataset.examples())
    kept = refused if skip else None
    told = list(score_examples(scorer, rows, source=dataset.source, refused=kept, aggregate=rule))
    if refused:
        seen = {row["id"] for row in told}
        whole = [row["id"] for row in told] if dataset.kind == "pair" else []
        seen -= {name for name in set(whole) if whole.count(name) < 2}  # noqa: PLR2004
        rows, told = [r for r in rows if r.id in seen], [t for t in told if t["id"] in seen]
    if not rows:
        raise DataError(f"{dataset.source}: every row is left out.")
    known = columns(rows, dataset.kind, dataset.classes)
    lengths = np.array([render(row, scorer.loaded.tokenizer).n_content for row in rows])
    scores = np.array([t["score"] for t in told])
    return dataclasses.replace(known, n_tokens=lengths), scores, len(refused)


def columns(rows: list[Example], kind: str, classes: tuple[str, ...] | None) -> Examples:
    """Return rows as the columns of a store, without what only a store knows."""

    def of(values: Any) -> NDArray[np.object_]:  # noqa: ANN401
        return np.array([*values, None], dtype=object)[:-1]

    tags = sorted({tag for row in rows for tag in row.tags})
    texts = of("\n\n".join(t.content for t in row.prompt or ()) for row in rows)
    written = of(row.completion or "" for row in rows)
    names = tuple(classes or ())
    same = (texts[::2] == texts[1::2]) & (written[::2] == written[1::2]) if kind == "pair" else None
    return Examples(
        kind=kind,  # type: ignore[arg-type]
        id=of(row.id for row in rows),
        group=of(row.group for row in rows),
        n_tokens=np.zeros(len(rows), dtype=np.int64),
        prompt=texts,
        completion=written,
        label=np.array([names.index(str(row.label)) for row in rows]) if kind == "label" else None,
        classes=(names[0], names[-1]) if names else None,
        score=np.array([row.score for row in rows], dtype=float) if kind == "rating" else None,
        side=of(row.side for row in rows) if kind == "pair" else None,
        identical=None if same is None else np.asarray(same, dtype=bool),
        tags={tag: of(row.tags.get(tag, "") for row in rows) for tag in tags},
    )


def _oriented(
    known: Examples, scores: Array, probe: CellHead, positive: str | None
) -> tuple[Examples, Array]:
    """Return rows whose class 1 is the one that should score higher."""
    if known.label is None or known.classes is None:
        if positive is not None:
            raise ProbeError(f"positive {positive!r}: {known.kind} rows have no classes.")
        return known, scores
    if positive is None and probe.classes is not None:
        if not set(known.classes) <= set(probe.classes):
            raise ProbeError(
                f"classes: the data have {', '.join(dict.fromkeys(known.classes))}, the probe knows "
                f"{', '.join(probe.classes)}. Say which class should score higher: --positive NAME."
            )
        positive = probe.classes[1]
    elif positive is not None and positive not in known.classes:
        raise ProbeError(f"positive {positive!r}: the data have {', '.join(known.classes)}.")
    names = np.array(known.classes, dtype=object)[known.label]
    label = (names == (positive or known.classes[1])).astype(np.int64)
    other = next((name for name in known.classes if name != positive), known.classes[0])
    classes = (other, positive) if positive else known.classes
    return dataclasses.replace(known, label=label, classes=classes), scores


def _different(known: Examples, scores: Array) -> tuple[Examples, Array, int]:
    """Return rows without pairs of one text, which prefer nothing, and how many these were."""
    if known.identical is None or not known.identical.any():
        return known, scores, 0
    if known.identical.all():
        raise DataError("pairs: the sides of all are the same text, so none is preferred.")
    keep = np.repeat(~known.identical, 2)
    arrays: dict[str, Any] = {
        name: value[keep]
        for name, value in vars(known).items()
        if isinstance(value, np.ndarray) and len(value) == len(keep)
    }
    tags = {tag: values[keep] for tag, values in known.tags.items()}
    kept = dataclasses.replace(known, **{**arrays, "tags": tags, "identical": None})
    return kept, scores[keep], int(known.identical.sum())


def _metrics(
    probe: CellHead,
    known: Examples,
    scores: Array,
    units: NDArray[np.int64],
    sample: Resampler,
    *,
    own: bool,
) -> Metrics:
    if known.kind == "pair":
        found = pair_metrics(scores[2 * units], scores[2 * units + 1], sample)
    elif known.label is not None:
        if not own:
            return {"auroc": auroc(known.label[units], scores[units], sample)}
        found = label_metrics(known.label[units], scores[units], sample)
        found["brier"] = sample.mean((expit(scores[units]) - known.label[units]) ** 2)
    else:
        assert known.score is not None
        target = known.score[units]
        if own:
            told = probe.rating(scores[units])
            return rating_metrics(target, scores[units] if told is None else told, sample)
        from scipy.stats import rankdata

        return {
            "pearson": pearson(target, scores[units], sample),
            "spearman": pearson(rankdata(target), rankdata(scores[units]), sample),
            "pair_accuracy": within_group_accuracy(target, scores[units], sample),
        }
    return {name: x for name, x in found.items() if own or name not in OF_ITS_OWN_KIND}


def _reliability(probe: CellHead, known: Examples, scores: Array) -> list[dict[str, float]]:
    if known.kind != probe.data_kind or known.kind == "pair":
        return []
    if known.label is not None:
        return reliability(known.label.astype(float), expit(scores))
    told = probe.rating(scores)
    return [] if told is None or known.score is None else rating_reliability(known.score, told)
