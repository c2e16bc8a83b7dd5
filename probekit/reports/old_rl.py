"""`report.html` of an RL run: which figures and tables, in which order, with which captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.reports.output import write_page
from probekit.reports.rl_load import load_runs
from probekit.reports.rl_rows import RLRun
from probekit.reports.rl_words import heads_text, refits_text
from probekit.reports.steer_words import INTERVAL, listed

if TYPE_CHECKING:
    from probekit.reports.old_page import Plot, Section
    from probekit.reports.rl_verdict import RLVerdict

_BANDS = f"Bands: {INTERVAL}."
_BARS = f"Bars: {INTERVAL}."
_NO_EVALUATION = (
    "<p>No evaluation has been written, so there is nothing of held-out prompts to draw.</p>"
)


def write_rl_report(
    directory: Path, *, out: Path | None = None, force: bool = False, compare: Sequence[Path] = ()
) -> Path:
    """Write the report of an RL run as one self-contained HTML file and return its path.

    Parameters
    ----------
    directory
        What `probekit rl --out` wrote; a run that was killed is shown as far as it got.
    out
        Where to write; `report.html` in `directory` by default.
    force
        Replace the file when it exists.
    compare
        Directories of other RL runs, drawn together with this one at the top of the page.

    Raises
    ------
    ProbeError
        When a directory is not the output of an RL run or is damaged.
    OutputError
        When `out` exists and `force` is not set, or can not be written.
    """
    run, *others = load_runs(Path(directory), [Path(path) for path in compare])
    return write_page(Path(directory), lambda: render_rl(run, others), out=out, force=force)


def render_rl(run: RLRun, others: Sequence[RLRun] = ()) -> str:
    """Return the report of an RL run, beside others where there are any, as HTML."""
    from probekit.reports.old_page import render_page

    # Imported late: intervals are of the room of probes, which loads torch.
    from probekit.reports.rl_verdict import model_name, rl_verdict

    return render_page(
        title=f"{model_name(run)} trained on a head's score",
        eyebrow=f"probekit rl, {run.name}: {heads_text(run.optimised)}",
        lead=_lead(rl_verdict(run)),
        sections=list(_sections(run, others)),
        footer=f"Intervals are {INTERVAL}s. This file holds everything it shows and loads nothing.",
    )


def _lead(found: RLVerdict) -> str:
    points = "".join(f"<p>{escape(point)}</p>" for point in found.points)
    items = "".join(f"<li>{escape(warning)}</li>" for warning in found.warnings)
    warnings = f'<ul class="warnings" aria-label="Warnings">{items}</ul>' if items else ""
    return (
        f'<div class="verdict"><p class="headline">{escape(found.headline)}</p>'
        f"{points}{warnings}</div>"
    )


def _sections(run: RLRun, others: Sequence[RLRun]) -> Iterator[Section]:
    from probekit.reports import rl_tables as tables
    from probekit.reports.old_page import Section
    from probekit.reports.rl_examples import completions_html

    if others:
        yield Section("compare", "The runs together", list(_compare([run, *others])))
    if run.evaluations:
        behaviour = list(_behaviour(run))
        if behaviour:
            yield Section("behaviour", "Behaviour", behaviour)
        yield Section("score", "Score", list(_score(run)))
        if run.curve is not None and run.compared:
            yield Section("goodhart", "Score against behaviour", [_goodhart(run)])
        yield Section("scores", "Score distributions", [_scores(run)])
    else:
        yield Section("score", "Score", [_NO_EVALUATION, *_score(run)])
    yield Section("health", "Health", [*_health(run), tables.alarms_html(run)])
    if run.compared:
        yield Section("changes", "Before and after", [tables.changes_html(run)])
        yield Section("texts", "Completions", [completions_html(run)])
    yield Section("method", "How it was trained",
                  [tables.settings_table(run), tables.definitions_html(run)])  # fmt: skip
    yield Section("provenance", "Provenance", [tables.rl_provenance(run)])


def _compare(runs: Sequence[RLRun]) -> Iterator[Plot | str]:
    from probekit.reports import rl_compare
    from probekit.reports.old_page import Plot

    missing = [run.name for run in runs if not run.evaluations]
    gone = f" Without an evaluation, so not drawn: {escape(listed(missing))}." if missing else ""
    unit = (
        "Scores are in the units of the heads, which are the same in every run."
        if rl_compare.same_score(runs)
        else "The runs optimise different heads, so the score is drawn as its change in standard "
        "deviations over each run's own first completions."
    )
    if any(run.refitted for run in runs):
        unit += " Where heads were fitted again, the score is that of the newest ones."
    if rl_compare.drawn(runs):
        yield Plot(
            "compare-steps",
            rl_compare.compare_figure(runs, against_kl=False),
            f"One colour and sign a run. {_BANDS} {unit}{gone}",
            "Wanted behaviour, score and entropy of each run over training steps.",
        )
        yield Plot(
            "compare-kl",
            rl_compare.compare_figure(runs, against_kl=True),
            f"The same evaluations against how far each policy has gone; at one divergence, the "
            f"higher behaviour is the better run. {_BARS} Lines join evaluations in their order.",
            "Wanted behaviour, score and entropy of each run against the root of the divergence.",
        )
    yield rl_compare.compare_tables(runs)


def _behaviour(run: RLRun) -> Iterator[Plot]:
    from probekit.reports.old_page import Plot
    from probekit.reports.rl_figures import CATEGORIES, PARTS, behaviour_figure, twin

    figure = behaviour_figure(run)
    if figure is None:
        return
    rates = [name for name in run.measures if name.startswith("rate:")]
    rates = [name for name in rates if name not in (run.wanted, twin(run))]
    left = f" Only the {CATEGORIES} other categories that changed most are drawn."
    parts = f" Only {PARTS} of {len(run.parts)} groups are drawn."
    wanted = f" Wanted: {escape(run.behaviour)}." if run.behaviour else ""
    yield Plot(
        "behaviour-steps",
        figure,
        f"Share of completions of held-out prompts in each category.{wanted} {_BANDS}"
        f"{left if len(rates) > CATEGORIES else ''}{parts if len(run.parts) > PARTS else ''}",
        "Rates of the wanted behaviour and of the categories over training steps.",
    )


def _score(run: RLRun) -> Iterator[Plot]:
    from probekit.reports.old_page import Plot
    from probekit.reports.rl_figures import independent_figure, score_figure

    if not run.evaluations and not run.steps:
        return
    under = " under the first heads" if run.refitted else ""
    aimed = f" Green dashes: mean of the chosen scores{under}." if run.target_scores() else ""
    yield Plot(
        "score-steps",
        score_figure(run),
        f"Held-out prompts at every evaluation, and the training prompts of every step thin behind "
        f"(grey).{aimed}{refits_text(run)} {_BANDS} The distance has no interval.",
        "The optimised score over training steps.",
    )
    figure = independent_figure(run) if run.evaluations else None
    if figure is not None:
        yield Plot(
            "independent-steps",
            figure,
            "Paired change from the first evaluation, each in its own standard deviation over the "
            f"completions there. {_BANDS} A score that rises alone has been gamed, or is read "
            "differently elsewhere in the model.",
            "Changes of the optimised score and of independent readings over training steps.",
        )


def _goodhart(run: RLRun) -> Plot:
    from probekit.reports.old_page import Plot
    from probekit.reports.rl_figures import goodhart_figure
    from probekit.reports.rl_verdict import best_by

    assert run.curve is not None
    return Plot(
        "goodhart-curve",
        goodhart_figure(run, run.curve),
        f"Paired changes from the first evaluation; along the top, after how many steps. {_BARS} "
        f"Dotted upright: the sweet spot, the evaluation at which {best_by(run)} was highest. Where the "
        "score goes on rising to its right while the others fall, it is being gamed (Goodhart).",
        "Changes of score, independent readings and behaviour against the root of the divergence.",
    )


def _scores(run: RLRun) -> Plot:
    from probekit.reports.old_page import Plot
    from probekit.reports.rl_scores import scores_figure

    aimed = (
        " Green dashes: the chosen scores that the target aims at (those of the tag's value where "
        "the target is by tag)."
        if run.target_scores()
        else ""
    )
    refitted = (
        " The heads were fitted again in between, so before and after are in different units, "
        "and the chosen scores are those of the first heads."
        if run.refitted
        else ""
    )
    return Plot(
        "score-distributions",
        scores_figure(run),
        f"Scores of the completions at the first and at the last evaluation.{aimed}{refitted}",
        "Histograms of scores before and after training and of the chosen scores.",
    )


def _health(run: RLRun) -> Iterator[Plot]:
    from probekit.reports.old_page import Plot
    from probekit.reports.rl_figures import health_figure

    figure = health_figure(run)
    if figure is None:
        return
    alarmed = " Triangles: steps with an alarm." if run.alarms else ""
    yield Plot(
        "health-steps",
        figure,
        f"Held-out prompts (blue) and the training steps (thin, grey; their KL is the k3 estimate of "
        f"the loss).{alarmed}{refits_text(run)} {_BANDS}",
        "Entropy, KL, length, finished share, distinct bigrams and distances over training steps.",
    )
