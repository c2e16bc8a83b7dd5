"""Completions of the same prompts under different doses, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from probekit.reports.steer_rows import BASELINE, PROBE, Completion, Steer, steered_ends
from probekit.reports.steer_words import coeff_text, direction_name
from probekit.reports.words import count, number, shorten, upper_first

SHOWN = 6
"""Prompts in the table."""
EXCERPT = 230
"""Characters of a completion before it folds."""
PROMPT = 300


class Column(NamedTuple):
    """One condition of the table; nan is the ablated model."""

    direction: str
    coeff: float

    @property
    def heading(self) -> str:
        """Return what the column is called, as plain text."""
        if self.direction == BASELINE:
            return "unsteered"
        if math.isnan(self.coeff):
            return "ablated"
        return f"coeff {coeff_text(self.coeff)}"


def columns(steer: Steer) -> list[Column]:
    """Return lowest usable dose, unsteered, highest usable, ablated, and one random direction."""
    low, high = steered_ends(steer)
    found = [Column(PROBE, low)] if low < 0 else []
    found.append(Column(BASELINE, 0.0))
    if high > 0:
        found.append(Column(PROBE, high))
    if steer.ablated(PROBE) is not None:
        found.append(Column(PROBE, math.nan))
    for name in steer.controls[:1]:
        side = high or low or math.nan
        item = Column(name, side)
        if any(_is(row, item) for row in steer.completions):
            found.append(item)
    return found


def shown_prompts(steer: Steer, shown: Sequence[Column]) -> list[str]:
    """Return prompts evenly spaced over how far their score is moved, the furthest moved first.

    Not the best ones: the table starts with the largest change and ends with the smallest.
    """
    ends = [item for item in shown if item.direction == PROBE] or list(shown[:1])
    other = ends[0] if len(ends) > 1 else Column(BASELINE, 0.0)
    top = ends[1] if len(ends) > 1 and not math.isnan(ends[1].coeff) else ends[0]
    if top == other:
        other = Column(BASELINE, 0.0)
    rows = first_samples(steer)
    moved = {}
    for prompt in dict.fromkeys(row.prompt_id for row in steer.completions):
        pair = [rows.get((prompt, item.direction, _key(item.coeff))) for item in (top, other)]
        change = math.nan if None in pair else pair[0].score - pair[1].score  # type: ignore[union-attr]
        moved[prompt] = -math.inf if math.isnan(change) else change
    order = sorted(moved, key=lambda prompt: -moved[prompt])
    if len(order) <= SHOWN:
        return order
    return [order[round(index * (len(order) - 1) / (SHOWN - 1))] for index in range(SHOWN)]


def first_samples(steer: Steer) -> dict[tuple[str, str, float], Completion]:
    """Return the lowest sample by prompt, direction and coefficient (inf for the ablated)."""
    found: dict[tuple[str, str, float], Completion] = {}
    for row in steer.completions:
        key = (row.prompt_id, row.direction, _key(row.coeff))
        if key not in found or row.sample < found[key].sample:
            found[key] = row
    return found


def examples_html(steer: Steer) -> str:
    """Return the table of some prompts, a column a condition, long texts folded."""
    shown, rows = columns(steer), first_samples(steer)
    prompts = shown_prompts(steer, shown)
    if not prompts:
        return "<p>There are no completions.</p>"
    head = "".join(
        f'<th scope="col">{escape(upper_first(item.heading))}'
        f"<small>{escape(_under(item))}</small></th>"
        for item in shown
    )
    body = "".join(_prompt(steer, prompt, shown, rows) for prompt in prompts)
    total = len({row.prompt_id for row in steer.completions})
    which = (
        "all prompts"
        if total == len(prompts)
        else f"{len(prompts)} of {count(total)} prompts, evenly spaced"
    )
    return (
        '<div class="table"><table class="beforeafter"><caption>First sample of '
        f"{which}, from the one whose score is moved furthest up to the one moved least (or down). "
        "Every completion has its score and, where rules found one, its behaviour.</caption>"
        f"<thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def _prompt(
    steer: Steer,
    prompt: str,
    shown: Sequence[Column],
    rows: dict[tuple[str, str, float], Completion],
) -> str:
    found = [rows.get((prompt, item.direction, _key(item.coeff))) for item in shown]
    text = next((row.prompt for row in found if row is not None), "")
    cells = "".join(f"<td>{_cell(row)}</td>" for row in found)
    return (
        f'<tbody><tr><th scope="rowgroup" colspan="{len(shown)}"><small>Prompt '
        f"<bdi>{escape(shorten(prompt, 40))}</bdi></small> "
        f'<span dir="auto">{escape(shorten(text, PROMPT))}</span></th></tr>'
        f"<tr>{cells}</tr></tbody>"
    )


def _cell(row: Completion | None) -> str:
    if row is None:
        return '<span class="none">not run</span>'
    chips = [f'<span class="chip score">score {number(row.score)}</span>']
    if row.category:
        chips.append(f'<span class="chip">{escape(shorten(row.category, 24))}</span>')
    if row.judge is not None:
        chips.append(f'<span class="chip">judge: {escape(shorten(row.judge, 24))}</span>')
    if not row.finished and row.text.strip():
        chips.append('<span class="chip soft">cut</span>')
    return f'<p class="chips">{"".join(chips)}</p>{text_html(row.text)}'


def text_html(text: str) -> str:
    """Return a completion as HTML; a long one is folded."""
    if not text.strip():
        return '<p class="none">(empty)</p>'
    if len(text) <= EXCERPT:
        return f'<p class="text" dir="auto">{escape(text)}</p>'
    return (
        '<details class="clamp"><summary><span class="text short" dir="auto">'
        f'{escape(shorten(text, EXCERPT))}</span> <span class="more">more</span></summary>'
        f'<p class="text" dir="auto">{escape(text)}</p></details>'
    )


def _under(item: Column) -> str:
    if item.direction in (BASELINE, PROBE):
        return "" if item.direction == BASELINE else "probe direction"
    return direction_name(item.direction)


def _key(coeff: float) -> float:
    # nan is not equal to itself, so it can not be looked up.
    return math.inf if math.isnan(coeff) else coeff


def _is(row: Completion, item: Column) -> bool:
    return row.direction == item.direction and _key(row.coeff) == _key(item.coeff)
