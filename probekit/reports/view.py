"""A page of texts whose tokens are coloured by the scores of probes; the words are in view.html.j2."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from probekit.reports.formats import number
from probekit.reports.page import write_page
from probekit.results.intervals import Array

STEPS = 5
"""Colours on each side of the threshold."""
WIDE = 0.98
"""Share of the tokens within the ends of the colours; what lies beyond has the last one."""


@dataclass(frozen=True)
class ViewProbe:
    """A probe on the page."""

    name: str
    about: str
    """Its kind and cell."""
    unit: str
    """Of its scores."""
    threshold: float
    """Where the colours are centred."""
    reach: float
    """How far from it the last colour begins to hold everything."""


@dataclass(frozen=True)
class ViewText:
    """A text on the page."""

    id: str
    about: str
    """Its side, where it has one."""
    prompt: str
    tokens: list[str]
    scores: list[Array]
    """A score a token for each probe, shape (n_tokens,) each, of all tokens."""
    n_shown: int
    """Tokens shown, from the first."""
    apart: bool
    """Whether the first token stands apart: its residual is many times as large as that of any other."""


@dataclass(frozen=True)
class View:
    """What the page shows."""

    source: str
    probes: list[ViewProbe]
    texts: list[ViewText]
    n_left_out: int
    """Texts that are not shown."""
    record: dict[str, Any] = field(default_factory=dict)


def reach_of(texts: list[ViewText], nth: int, threshold: float) -> float:
    """Return how far from the threshold 98 % of the shown tokens of a probe lie; 1 where none does."""
    shown = [text.scores[nth][int(text.apart) : text.n_shown] for text in texts]
    far = np.abs(np.concatenate(shown) - threshold) if shown else np.empty(0)
    return float(np.quantile(far, WIDE)) or 1.0 if len(far) else 1.0


def step_of(score: float, probe: ViewProbe) -> int:
    """Return the colour of a score: -5 to 5, 0 within a tenth of the reach of the threshold."""
    share = (score - probe.threshold) / probe.reach
    return int(math.copysign(min(STEPS, math.floor(abs(share) * STEPS + 0.5)), share))


def write_view(view: View, path: Path, *, force: bool = False) -> Path:
    """Write the page, which has no script."""
    folder = Path(__file__).parent / "templates"
    texts = [
        {
            "text": text, "n": len(text.tokens),
            "as_probes": [_tokens(text, nth, probe) for nth, probe in enumerate(view.probes)],
        }
        for text in view.texts
    ]  # fmt: skip
    context = {
        "view": view, "texts": texts, "steps": range(-STEPS, STEPS + 1),
        "own_style": (folder / "view.css").read_text(encoding="utf-8"),
    }  # fmt: skip
    return write_page("view.html.j2", context, path.parent, path, force=force)


def _tokens(text: ViewText, nth: int, probe: ViewProbe) -> dict[str, Any]:
    """Return the tokens of a text with colour and number, and what they come to."""
    scores, shown = text.scores[nth], []
    for at, token in enumerate(text.tokens[: text.n_shown]):
        score = float(scores[at])
        look = "apart" if at == 0 and text.apart else f"s{step_of(score, probe)}"
        shown.append((look, token.replace("\n", "↵\n"), number(score, 2, sign=True)))
    counted = scores[int(text.apart) :]
    return {"tokens": shown, "mean": float(counted.mean()), "highest": float(counted.max())}
