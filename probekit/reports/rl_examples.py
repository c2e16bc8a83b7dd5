"""Completions of the same prompts before and after training, side by side."""

from __future__ import annotations

from html import escape

import numpy as np

from probekit.reports.rl_rows import RLRun, Sample
from probekit.reports.steer_examples import PROMPT, text_html
from probekit.reports.words import count, number, shorten

SHOWN = 10
"""Prompts in the table."""


def drawn_prompts(run: RLRun) -> list[str]:
    """Return prompts drawn with the run's seed from those of both evaluations; none is picked."""
    first, last = (run.at_step.get(item.step, {}) for item in (run.first, run.last))
    both = sorted({prompt for prompt, _ in first} & {prompt for prompt, _ in last})
    order = np.random.default_rng(_seed(run)).permutation(len(both))
    return [both[int(index)] for index in order[:SHOWN]]


def completions_html(run: RLRun) -> str:
    """Return the table of the drawn prompts: before and after, with score and category."""
    prompts = drawn_prompts(run)
    if not prompts:
        return "<p>No prompt was answered at both evaluations.</p>"
    body = "".join(_prompt(run, prompt) for prompt in prompts)
    heads = "".join(
        f'<th scope="col">{title}<small>step {step}</small></th>'
        for title, step in (("Before", run.first.step), ("After", run.last.step))
    )
    total = count(run.prompts())
    return (
        '<div class="table"><table class="beforeafter"><caption>First completion of '
        f"{count(len(prompts))} of {total} held-out prompts, drawn at random with seed "
        f"{_seed(run)}, in the order they were drawn; none was picked by hand.</caption>"
        f"<thead><tr>{heads}</tr></thead>{body}</table></div>"
    )


def _seed(run: RLRun) -> int:
    seed = run.record.get("seed")
    return seed if isinstance(seed, int) and seed >= 0 else 0


def _prompt(run: RLRun, prompt: str) -> str:
    rows = [run.at_step[item.step][prompt, 0] for item in (run.first, run.last)]
    tags = ", ".join(f"{tag}: {value}" for tag, value in rows[0].tags.items())
    name = f"{prompt} ({tags})" if tags else prompt
    cells = "".join(f"<td>{_cell(row)}</td>" for row in rows)
    return (
        '<tbody><tr><th scope="rowgroup" colspan="2"><small>Prompt '
        f"<bdi>{escape(shorten(name, 80))}</bdi></small> "
        f'<span dir="auto">{escape(shorten(rows[0].prompt, PROMPT))}</span></th></tr>'
        f"<tr>{cells}</tr></tbody>"
    )


def _cell(row: Sample) -> str:
    chips = [f'<span class="chip score">score {number(row.value("score"))}</span>']
    if row.category:
        chips.append(f'<span class="chip">{escape(shorten(row.category, 24))}</span>')
    wanted = row.value("wanted")
    if wanted == wanted:
        chips.append(f'<span class="chip soft">{"wanted" if wanted else "not wanted"}</span>')
    if row.value("finished") == 0 and row.text.strip():
        chips.append('<span class="chip soft">cut</span>')
    return f'<p class="chips">{"".join(chips)}</p>{text_html(row.text)}'
