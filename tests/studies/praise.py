"""A second study, as small as one can be: is the direction of praise read, and does it steer?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from probekit.reports.figures import lines, points
from probekit.results.findings import standing
from probekit.results.intervals import Interval
from probekit.results.study import StudyRun
from probekit.studies import Setting, Study


class Size(NamedTuple):
    """How much of everything."""

    rows: int
    prompts: int
    coeffs: str


def stages(s: Setting) -> None:
    """Cache praise and blame, fit a direction at one layer, and add it while the model writes."""
    store = s.stage(
        "cache", "cache", "--data", "demo:sentiment", "--limit", str(s.size.rows), "--positions",
        "mean", "--layers", "16", *s.with_model, output="acts.h5",
    )  # fmt: skip
    fit = s.stage("fit", "fit", store, "--kind", "mean-difference", *s.with_seed)
    s.stage(
        "steer", "steer", "--probe", fit, "--prompts", "demo:sentiment_prompts", "--coeff",
        s.size.coeffs, "--limit", str(s.size.prompts), "--max-new-tokens", "8", "--samples", "1",
        "--random-controls", "1", "--shuffled-controls", "1",
        "--placebo-controls", "1", "--behaviours", "sentiment", *s.with_model, *s.with_seed,
    )  # fmt: skip


def page(run: StudyRun) -> dict[str, Any]:
    """Return how well praise is read, what steering changes, and a figure of what was written."""
    steer = run.runs["steer"]
    curve = steer.curve()
    coeffs = [condition.coeff for condition in curve]
    frames = [
        points(
            coeffs, [steer.value(f"rate:{name}", at) for at in curve], [f"at {c}" for c in coeffs],
            name=name, panel="", axis="Share of completions", share=True,
        )
        for name in ("positive", "negative")
    ]  # fmt: skip
    figure = lines(
        pd.concat(frames), title="Praise and blame by dose", x_title="Coefficient",
        subtitle=f"n = {steer.record['n']['prompts']} prompts",
    )  # fmt: skip
    read = Interval.from_json(run.runs["fit"].record["report"]["auroc"])
    return {"figure": figure, "read": read, "standing": standing, "steer": steer}


STUDY = Study(
    name="praise",
    stages=stages,
    full=Size(rows=400, prompts=24, coeffs="-0.2:0.2:0.1"),
    quick=Size(rows=80, prompts=8, coeffs="-0.1:0.1:0.1"),
    template=Path(__file__).with_name("praise.html.j2"),
    page=page,
)
