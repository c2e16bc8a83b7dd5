"""One scoring core: token ids and spans in, the probe's score out, on the model it was fitted on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.activations.backends import make_backend
from probekit.activations.gather import plan_batches, read_batch
from probekit.activations.positions import PositionRule
from probekit.activations.table import Cell
from probekit.data.rows import Example
from probekit.errors import DataError, ModelError, ProbeError, TemplateRefusal
from probekit.models.blocks import BlockNames
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel, at_date_of, load_model
from probekit.probes.aggregate import Aggregate
from probekit.probes.linear import CellHead, LinearHead
from probekit.probes.nonlinear import NonlinearProbe
from probekit.probes.reference import reference_rows
from probekit.results.intervals import Array

__all__ = ["Scorer", "model_of", "reference_rows", "score_examples", "score_tokens"]

ALL = Aggregate("mean", "mean", 1.0)
WINDOW = 2048
"""Rows that are sorted by length together: what bounds the memory of scoring."""


class Scorer:
    """Scores rendered rows with a probe on a frozen model, one forward pass, stopped at its layer.

    Raises
    ------
    ProbeError
        When the model is not the one that the probe was fitted on, by its weights or by the scores
        of the probe's reference rows.
    """

    def __init__(self, probe: CellHead, loaded: LoadedModel, *, batch_tokens: int = 4096) -> None:
        self.probe, self.loaded, self.batch_tokens = probe, loaded, batch_tokens
        blocks = probe.provenance.get("settings", {}).get("blocks")
        names = BlockNames.parse(blocks) if blocks else None
        self._backend = make_backend("hooks", loaded, names=names)
        self._aggregate = Aggregate.of(probe.position)
        self.rule = PositionRule("all") if self._aggregate else PositionRule.parse(probe.position)
        self._check_identity()
        self._check_reference()

    def score(self, rows: Sequence[Rendered]) -> Array:
        """Return the score of every row, shape (n_rows,), in the order given."""
        if self._aggregate is not None:
            return read_out(self._aggregate, rows, self.token_scores(rows))
        scores = np.empty(len(rows))
        lengths = np.array([len(row.ids) for row in rows])
        for batch in plan_batches(lengths, self.batch_tokens):
            acts = read_batch(
                self._backend,
                [rows[i] for i in batch],
                [(self.probe.site, self.probe.layer)],
                [self.rule],
                self.loaded.device,
            )[self.probe.cell]
            scores[batch] = (
                self._of_texts([rows[i] for i in batch], acts)
                if self.rule.ragged
                else self.probe.score(acts)
            )
        return scores

    def _of_texts(self, rows: Sequence[Rendered], acts: NDArray[Any]) -> Array:
        """Return the score of every text by a head that reads its tokens, (n_tokens, d_model), at once."""
        assert isinstance(self.probe, NonlinearProbe)
        parts = np.split(acts, np.cumsum([row.stop - row.start for row in rows])[:-1])
        kept = [counted(row, part) for row, part in zip(rows, parts, strict=True)]
        ends = np.cumsum([0, *map(len, kept)])
        return self.probe.score(np.concatenate(kept), ends)

    def token_scores(self, rows: Sequence[Rendered]) -> list[Array]:
        """Return the score of every content token of each row, shapes (n_tokens,), in the order given.

        Of rows that end with their prompt all tokens are read.
        """
        if not isinstance(self.probe, LinearHead) and self.rule.ragged:
            self.probe.score(np.zeros((1, self.probe.d_model)))  # says that it has none a token
        read = [content(row) for row in rows]
        cell = Cell(self.probe.site, self.probe.layer, "all")
        found: list[Array] = [np.empty(0)] * len(rows)
        for batch in plan_batches(np.array([len(row.ids) for row in read]), self.batch_tokens):
            acts = read_batch(
                self._backend,
                [read[i] for i in batch],
                [(self.probe.site, self.probe.layer)],
                [PositionRule("all")],
                self.loaded.device,
            )
            ends = np.cumsum([read[i].stop - read[i].start for i in batch])
            parts = np.split(self.probe.score(acts[cell]), ends[:-1])
            for i, scores in zip(batch, parts, strict=True):
                found[i] = scores
        return found

    def _check_identity(self) -> None:
        probe, backend = self.probe, self._backend
        if probe.d_model != backend.d_model or not probe.layer < backend.n_layers:
            raise ProbeError(
                f"model {self.loaded.spec!r}: has {backend.n_layers} layers of width "
                f"{backend.d_model}, the probe was fitted at layer {probe.layer} of width "
                f"{probe.d_model}. Give the model it was fitted on: "
                f"{probe.provenance.get('model')!r}."
            )
        if different := self.loaded.difference(probe.provenance):
            key, expected, here = different
            raise ProbeError(
                f"model {self.loaded.spec!r}: {key} is {here}, the probe was fitted on {expected} "
                f"({probe.provenance.get('model')!r}). Give the same model, or cache and fit again."
            )

    def _check_reference(self) -> None:
        reference = self.probe.reference
        if not reference:
            return
        rows = [
            Rendered(np.asarray(row["ids"], dtype=np.int32), *row["span"])
            for row in reference["rows"]
        ]
        gap = np.abs(self.score(rows) - np.asarray(reference["scores"])).max()
        if not gap <= reference["tolerance"]:
            raise ProbeError(
                f"model {self.loaded.spec!r} in {self.loaded.dtype}: scores the probe's reference "
                f"rows {gap:.3g} away from the fit, allowed is {reference['tolerance']:.3g}. Use the "
                f"dtype of the fit ({self.probe.provenance.get('forward_dtype')}) and library "
                "versions near it, or cache and fit again."
            )


def model_of(probe: CellHead, model: Any, tokenizer: Any = None) -> LoadedModel:  # noqa: ANN401
    """Return a model as `load_model` does, at the date of the probe; without one that of its record.

    Raises
    ------
    ModelError
        When it cannot be loaded, or the record names none.
    """
    known = probe.provenance
    if model is not None:
        return at_date_of(load_model(model, tokenizer=tokenizer), known)
    if not isinstance(known.get("model"), str):
        raise ModelError("model: the probe's record names none. Give it: model=...")
    named = {key: known[key] for key in ("revision", "template_date") if known.get(key)}
    return load_model(known["model"], dtype=str(known.get("forward_dtype", "auto")), **named)


def score_examples(
    scorer: Scorer,
    examples: Iterable[Example],
    *,
    source: str,
    refused: list[str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
    aggregate: Aggregate | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield `{"id", "score", "side"?, "rating"?, "probability"?}` for every example, in order.

    Parameters
    ----------
    scorer
        Scores rendered rows.
    examples
        What to score.
    source
        Name of the data, for messages about rows that do not know their place.
    refused
        Takes the messages of examples that the chat template refuses, which are left out; without it
        the first of them raises.
    progress
        Told how many examples are done.
    aggregate
        Makes the score of those of the tokens, in place of the position that the probe was fitted at.

    Raises
    ------
    DataError
        When a row is refused, has no token at the probe's position, or is longer than the model's
        context.
    """
    probe, found = scorer.probe, _windows(scorer, examples, source, refused, progress, aggregate)
    for kept in found:
        rows = [row for _, row in kept]
        if aggregate is not None:
            scores = read_out(aggregate, rows, scorer.token_scores(rows))
            ratings = chances = None  # an aggregate is on no scale of the fit
        else:
            scores = scorer.score(rows)
            ratings, chances = probe.rating(scores), probe.probability(scores)
        for i, (example, _) in enumerate(kept):
            row: dict[str, Any] = {"id": example.id, "score": float(scores[i])}
            if example.side is not None:
                row["side"] = example.side
            if ratings is not None:
                row["rating"] = float(ratings[i])
            if chances is not None:
                row["probability"] = float(chances[i])
            yield row


def score_tokens(
    scorer: Scorer,
    examples: Iterable[Example],
    *,
    source: str,
    refused: list[str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[dict[str, Any]]:
    """Yield `{"id", "tokens", "token_ids", "scores", "side"?}` of every example, a score a token, in order.

    Tokens are those of the completion or raw text, or of the whole prompt where a row ends with it. Takes
    the parameters of `score_examples`, and raises what it raises.
    """
    tokenizer = scorer.loaded.tokenizer
    for kept in _windows(scorer, examples, source, refused, progress, ALL):
        scores = scorer.token_scores([row for _, row in kept])
        for (example, row), found in zip(kept, scores, strict=True):
            read = content(row)
            ids = [int(i) for i in read.ids[read.start : read.stop]]
            line = {
                "id": example.id,
                "tokens": [tokenizer.decode([i]) for i in ids],
                "token_ids": ids,
            }
            side = {} if example.side is None else {"side": example.side}
            yield {**line, "scores": [float(score) for score in found], **side}


def content(row: Rendered) -> Rendered:
    """Return a row whose span is what is read token by token: its completion, or the whole prompt."""
    return row if row.stop > row.start else dataclasses.replace(row, start=0, stop=len(row.ids))


def read_out(aggregate: Aggregate, rows: Sequence[Rendered], scores: Sequence[Array]) -> Array:
    """Return the score of every text, shape (n_rows,), from those of its tokens, (n_tokens,) each."""
    kept = [counted(row, found) for row, found in zip(rows, scores, strict=True)]
    if not kept:
        return np.empty(0)
    return aggregate.read_out(np.concatenate(kept), np.cumsum([0, *map(len, kept)]))[0]


def counted(row: Rendered, scores: NDArray[Any]) -> NDArray[Any]:
    """Return what an aggregate takes of tokens (n_tokens, ...): all but token 0 of a text.

    Whatever the text, its residual is many times as large as that of any other token.
    """
    return scores[1:] if content(row).start == 0 and len(scores) > 1 else scores


def _windows(
    scorer: Scorer,
    examples: Iterable[Example],
    source: str,
    refused: list[str] | None,
    progress: Callable[[int], None],
    aggregate: Aggregate | None,
) -> Iterator[list[tuple[Example, Rendered]]]:
    """Yield rendered examples, as many as are sorted by length together."""
    done, stream = 0, iter(examples)
    while window := list(itertools.islice(stream, WINDOW)):
        done += len(window)
        rows = ((e, _checked(e, scorer, source, refused, aggregate)) for e in window)
        yield [(example, row) for example, row in rows if row is not None]
        progress(done)


def _checked(
    example: Example,
    scorer: Scorer,
    source: str,
    refused: list[str] | None,
    aggregate: Aggregate | None,
) -> Rendered | None:
    where = example.where if example.place else f"{source}: {example.where}"
    try:
        row = render(example, scorer.loaded.tokenizer)
    except TemplateRefusal as error:
        if refused is None:
            raise TemplateRefusal(f"{error} Leave such rows out with --skip-refused.") from error
        refused.append(str(error))
        return None
    scorer.loaded.check_ids(row.ids, where)
    limit = scorer.loaded.max_length
    if len(row.ids) > limit:
        raise DataError(
            f"{where}: has {len(row.ids)} tokens, the model's limit is {limit}. Shorten it."
        )
    if aggregate is not None:
        return row  # tokens are read whatever the position of the probe
    try:
        scorer.rule.resolve(row)
    except DataError as error:
        raise DataError(f"{where}: the probe reads {scorer.probe.position}: {error}.") from error
    return row
