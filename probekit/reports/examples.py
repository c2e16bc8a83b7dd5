"""The held-out examples the chosen probe reads best and worst, as HTML that folds out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from probekit.reports.rows import Prediction, Sweep, pair_rows
from probekit.reports.words import number, shorten

SHOWN = 10
EXCERPT = 150


class Ranked(NamedTuple):
    """One example with how well it was read (higher is better) and the facts shown beside it."""

    merit: float
    facts: list[tuple[str, str]]
    texts: list[tuple[str, str]]
    """Heading and text of what folds out; an excerpt of each is shown folded."""
    tags: dict[str, str]
    id: str


def ranked(sweep: Sweep) -> list[Ranked]:
    """Return held-out examples from best to worst read.

    Pairs by margin, labels by the probability of the true class, ratings by absolute error.
    Examples without a number are left out.
    """
    rows = _pairs(sweep) if sweep.data_kind == "pair" else _singles(sweep)
    rows = [row for row in rows if not math.isnan(row.merit)]
    return sorted(rows, key=lambda row: -row.merit)


def best_and_worst(rows: Sequence[Ranked]) -> tuple[list[Ranked], list[Ranked]]:
    """Return the ten best and the ten worst (worst first), none in both."""
    size = min(SHOWN, (len(rows) + 1) // 2)
    worst = min(SHOWN, len(rows) - size)
    return list(rows[:size]), list(reversed(rows[len(rows) - worst :]))


def examples_html(sweep: Sweep) -> str:
    """Return both lists and a sentence that says how examples are ranked."""
    best, worst = best_and_worst(ranked(sweep))
    if not best:
        return "<p>No held-out example has a score.</p>"
    measure = {
        "pair": "the margin, score(chosen) − score(rejected)",
        "label": "the probability given to the true class",
        "rating": "the absolute error in rating units",
    }[sweep.data_kind]
    return (
        f"<p>Ranked by {measure}. Open one to read the whole text (cut at 2,000 characters).</p>"
        f"<h3>Best read</h3>{_list(best)}<h3>Worst read</h3>{_list(worst)}"
    )


def _singles(sweep: Sweep) -> list[Ranked]:
    rows = []
    for row in sweep.predictions:
        if sweep.data_kind == "rating":
            error = row.prediction - row.target
            facts = [
                ("true", number(row.target)),
                ("predicted", number(row.prediction)),
                ("error", ("+" if error > 0 else "") + number(error)),
            ]
            merit = -abs(error)
        else:
            merit = row.prediction if row.target == 1 else 1 - row.prediction
            names = sweep.classes or ("class 0", "class 1")
            truth = "–" if math.isnan(row.target) else names[int(row.target)]
            facts = [("true", truth), ("P(true)", number(merit)), ("score", number(row.score))]
        texts = [("Prompt", row.prompt), ("Completion", row.completion)]
        rows.append(Ranked(merit, facts, _texts(texts), row.tags, row.id))
    return rows


def _pairs(sweep: Sweep) -> list[Ranked]:
    rows = []
    for pair in pair_rows(sweep.predictions):
        chosen, rejected = pair.chosen, pair.rejected
        facts = [
            ("margin", ("+" if pair.margin > 0 else "") + number(pair.margin)),
            ("chosen", number(chosen.score)),
            ("rejected", number(rejected.score)),
        ]
        texts = [
            ("Prompt", chosen.prompt),
            (f"Chosen, {_tokens(chosen)}", chosen.completion),
            (f"Rejected, {_tokens(rejected)}", rejected.completion),
        ]
        rows.append(Ranked(pair.margin, facts, _texts(texts), chosen.tags, chosen.id))
    return rows


def _texts(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(heading, text) for heading, text in texts if text.strip()]


def _tokens(row: Prediction) -> str:
    return f"{row.n_tokens:,} tokens"


def _list(rows: Sequence[Ranked]) -> str:
    return f'<ol class="examples">{"".join(_item(row) for row in rows)}</ol>'


def _item(row: Ranked) -> str:
    facts = "".join(
        f"<span><small>{escape(name)}</small> <b>{escape(shorten(value, 24))}</b></span>"
        for name, value in row.facts
    )
    excerpt = "".join(
        f'<span class="excerpt"><small>{escape(heading.split(",")[0].lower())}</small>'
        f'<span dir="auto">{escape(shorten(text, EXCERPT))}</span></span>'
        for heading, text in row.texts
    )
    blocks = "".join(
        f'<h4>{escape(heading)}</h4><p class="text" dir="auto">{escape(text)}</p>'
        for heading, text in row.texts
    )
    tags = ", ".join(f"{tag}: {value}" for tag, value in row.tags.items() if value)
    about = f"id {row.id}" + (f"; {tags}" if tags else "")
    return (
        f'<li><details><summary><span class="facts">{facts}</span>{excerpt}</summary>'
        f'<div class="full">{blocks}<p class="about">{escape(about)}</p></div></details></li>'
    )
