"""`view_texts`: a page of texts with the scores that probes give each of their tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probekit.data.rows import Example
from probekit.errors import DataError, ProbeError
from probekit.models.chat import render
from probekit.probes.linear import CellHead
from probekit.probes.scoring import Scorer, content, model_of, score_tokens
from probekit.reports.view import View, ViewProbe, ViewText, reach_of, write_view

MOST = 6
"""Probes on a page."""


def view_texts(
    probes: Mapping[str, CellHead],
    texts: Any,  # noqa: ANN401 - Texts or a Dataset
    out: str | Path,
    *,
    model: Any = None,  # noqa: ANN401 - any model
    rows: int = 20,
    tokens: int = 400,
    thresholds: Sequence[float] = (),
    force: bool = False,
    record: Mapping[str, Any] | None = None,
    batch_tokens: int = 4096,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Path:
    """Write a page on which the tokens of texts are coloured by the scores of probes.

    Parameters
    ----------
    probes
        Probes of one model, by the names that the page gives them.
    texts
        What `open_texts` or `open_dataset` returned.
    out
        File to write.
    model
        The model; None loads the one that the first probe's record names.
    rows, tokens
        Most texts, and tokens of each, that are shown; the page says what is left out.
    thresholds
        Score at which the colours are centred: one for all or one for each probe. By default 0 for probes
        of labels, where both classes are equally likely, and the median of the tokens shown for others.
    force
        Replace a page that is there.
    record
        For the page's record.
    batch_tokens
        Padded tokens of a forward pass.
    progress
        Told what is done.

    Raises
    ------
    ProbekitError
        When probes, texts and model do not fit each other.
    """
    if not 1 <= len(probes) <= MOST:
        raise ProbeError(f"view: got {len(probes)} probes, expected 1 to {MOST}.")
    if len(thresholds) not in (0, 1, len(probes)):
        raise ProbeError(
            f"thresholds: got {len(thresholds)} for {len(probes)} probes, expected one, or one of each."
        )
    loaded = model_of(next(iter(probes.values())), model)
    examples = list(itertools.islice(texts.examples(), rows))
    if not examples:
        raise DataError(f"{texts.source}: holds no text.")
    found: list[list[dict[str, Any]]] = []
    for done, probe in enumerate(probes.values()):
        progress("scoring", done, len(probes))
        scorer = Scorer(probe, loaded, batch_tokens=batch_tokens)
        found.append(list(score_tokens(scorer, examples, source=texts.source)))
    progress("scoring", len(probes), len(probes))
    shown = [
        _text(example, scored, loaded.tokenizer, tokens)
        for example, *scored in zip(examples, *found, strict=True)
    ]
    centres = list(thresholds) * (1 if len(thresholds) > 1 else len(probes))
    drawn = []
    for nth, (name, probe) in enumerate(probes.items()):
        centre = centres[nth] if centres else _centre(probe, shown, nth)
        cell = f"{probe.kind} at {probe.site} layer {probe.layer}, position {probe.position}"
        drawn.append(ViewProbe(name, cell, _unit(probe), centre, reach_of(shown, nth, centre)))
    left_out = texts.n_examples - len(examples)
    source = texts.source
    source = source if source.startswith(("demo:", "hf:")) else Path(source).name
    view = View(source, drawn, shown, left_out, dict(record or {}))
    return write_view(view, Path(out), force=force)


def _text(example: Example, scored: list[dict[str, Any]], tokenizer: Any, most: int) -> ViewText:  # noqa: ANN401
    """Return a text with what every probe scored of it."""
    tokens = scored[0]["tokens"]
    return ViewText(
        id=example.id,
        about=example.side or "",
        prompt="\n\n".join(turn.content for turn in example.prompt or ()),
        tokens=tokens,
        scores=[np.asarray(one["scores"]) for one in scored],
        n_shown=min(most, len(tokens)),
        apart=content(render(example, tokenizer)).start == 0 and len(tokens) > 1,
    )


def _centre(probe: CellHead, texts: Sequence[ViewText], nth: int) -> float:
    if probe.data_kind == "label":
        return 0.0
    shown = [text.scores[nth][int(text.apart) : text.n_shown] for text in texts]
    return float(np.median(np.concatenate(shown)))


def _unit(probe: CellHead) -> str:
    if probe.positive_class:
        return f"log-odds of {probe.positive_class}"
    if probe.score_range:
        low, high = probe.score_range
        return f"score, where −1 and 1 are ratings of {low:g} and {high:g}"
    return "score (reward)"
