"""`report.html` of the study knowledge-awareness: the whole story on one page, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.reports.output import write_page
from probekit.reports.steer_words import INTERVAL
from probekit.reports.study_load import load_study
from probekit.reports.study_rows import Study

if TYPE_CHECKING:
    from probekit.reports.old_page import Plot, Section

QUESTION = (
    "Can one direction in one layer tell whether a model's answer about a name is the "
    "right kind of answer, and does a model that is trained on that score come to say when it does not know?"
)


def write_study_report(directory: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the report of the study `knowledge-awareness` as one HTML file and return its path.

    Parameters
    ----------
    directory
        What `probekit study knowledge-awareness --out` wrote: `study.json` and a directory for each stage. A
        stage that left nothing is named as absent.
    out
        Where to write; `report.html` in `directory` by default.
    force
        Replace the file when it exists.

    Raises
    ------
    ProbeError
        When `directory` is not that of the study, or a stage in it is damaged.
    OutputError
        When `out` exists and `force` is not set, or can not be written.
    """
    study = load_study(Path(directory))
    base = Path(out).parent if out is not None else Path(directory)
    return write_page(Path(directory), lambda: render_study(study, base=base), out=out, force=force)


def render_study(study: Study, *, base: Path | None = None) -> str:
    """Return the report as HTML; links to the stages' reports are relative to the folder `base`."""
    from probekit.reports.old_page import render_page

    quick = ", quick run" if study.record.get("quick") else ""
    return render_page(
        title=f"Knowledge awareness: does {study.model} come to say when it does not know?",
        eyebrow=f"probekit study knowledge-awareness{quick}, {study.record.get('created') or ''}",
        lead=_lead(study),
        sections=list(_sections(study, base or study.path)),
        footer="Intervals are 95 % bootstrap intervals over prompts, names or groups of questions, as each "
        "caption says. This file holds everything it shows and loads nothing.",
    )


def _lead(study: Study) -> str:
    # Imported late: intervals are of the room of probes, which loads torch.
    from probekit.reports.study_words import findings, headline

    items = "".join(f"<li>{_named(item)}</li>" for item in findings(study))
    quick = (
        '<ul class="warnings" aria-label="Warnings"><li>A quick run: it shows that every stage works, '
        "and its sizes are too small to conclude anything.</li></ul>"
        if study.record.get("quick")
        else ""
    )
    return (
        f'<p class="question">{QUESTION}</p><div class="verdict">'
        f'<p class="headline">{escape(headline(study))}</p><ul class="findings">{items}</ul>{quick}</div>'
    )


def _named(sentence: str) -> str:
    """Return a finding with what it is about in bold."""
    head, colon, rest = sentence.partition(": ")
    return (
        f"<b>{escape(head)}.</b> {escape(rest[:1].upper() + rest[1:])}" if colon else escape(head)
    )


def _sections(study: Study, base: Path) -> Iterator[Section]:
    from probekit.reports import study_tables, study_texts
    from probekit.reports.old_page import Section
    from probekit.reports.study_claims import claims
    from probekit.reports.study_limits import limitations

    yield Section("claims", "The published claims", [study_tables.claims_table(claims(study))])
    yield Section("method", "Methods", [study_texts.methods_html(study)])
    yield Section("data", "Data", list(_data(study)))
    yield Section("heads", "What the head reads", list(_heads(study)))
    yield Section("dynamics", "How the head trains", list(_dynamics(study)))
    yield Section("steering", "Steering", list(_steering(study)))
    yield Section("rl", "Training on the score", list(_rl(study)))
    yield Section("outside", "Outside the training distribution", list(_outside(study)))
    yield Section("texts", "Completions before and after", list(_texts(study)))
    yield Section("limits", "Limitations", [study_texts.limits_html(limitations(study))])
    yield Section("stages", "Stages", [study_texts.stages_html(study, base)])


def _absent(study: Study, name: str) -> str:
    why = study.absent.get(name, "it left nothing")
    return f'<p class="absent">The stage <code>{escape(name)}</code> is absent: {escape(why)}.</p>'


def _data(study: Study) -> Iterator[str]:
    from probekit.reports import study_tables, study_texts

    found = study.elicitation
    if found is None:
        yield _absent(study, "elicit")
        return
    yield study_tables.drops_table(found)
    if found.leaks:
        yield study_tables.leak_table(found)
    yield study_texts.pairs_html(found, study.seed)


def _heads(study: Study) -> Iterator[Plot | str]:
    from probekit.reports import study_tables
    from probekit.reports.heatmap import heatmap_figure
    from probekit.reports.old_page import Plot

    for name, sweep in (("fit", study.linear), ("projection", study.projection)):
        if sweep is None:
            yield _absent(study, name)
    if study.linear is None and study.projection is None:
        return
    yield study_tables.heads_table(study)
    yield study_tables.controls_table(study)
    if study.linear is not None and len(study.linear.rows) > 1:
        yield Plot(
            "study-heatmap",
            heatmap_figure(study.linear),
            "Pair accuracy of a linear head fitted at each cell, on the choose split: the best cell of "
            "many is "
            "flattered, the table above is not. Empty: not fitted.",
            "Heat map of pair accuracy by layer and position.",
        )


def _dynamics(study: Study) -> Iterator[Plot | str]:
    from probekit.reports.head_dynamics import dynamics_lead, dynamics_sections

    if study.dynamics is None:
        yield _absent(study, "dynamics")
        return
    yield dynamics_lead(study.dynamics)
    for section in dynamics_sections(study.dynamics):
        yield f"<h3>{escape(section.heading)}</h3>"
        yield from section.parts


def _steering(study: Study) -> Iterator[Plot | str]:
    from probekit.reports.old_page import Plot
    from probekit.reports.steer_dose import dose_figure
    from probekit.reports.study_words import steering

    steer = study.steer
    if steer is None:
        yield _absent(study, "steer")
        return
    yield f"<p>{escape(steering(steer))}</p>"
    names = ("rate:hedges", "score", "perplexity")
    measures = [item for item in map(steer.measure, names) if item is not None]
    if measures:
        yield Plot(
            "study-doses",
            dose_figure(steer, measures, title="Hedging, score and damage under steering"),
            f"Adding the direction while the model writes. Bands: {INTERVAL}. Grey: random directions "
            "of the same "
            "length; shaded doses damage the text.",
            "Dose-response curves of hedging, score and perplexity with random directions.",
        )


def _rl(study: Study) -> Iterator[Plot | str]:
    from probekit.reports import rl_compare, study_rl_tables
    from probekit.reports.old_page import Plot
    from probekit.reports.study_figures import rates_figures

    if not study.arms:
        yield _absent(study, "rl")
        return
    drawn = [run for run in study.arms if run.evaluations]
    for index, figure in enumerate(rates_figures(drawn)):
        yield Plot(
            f"study-rates-{index}",
            figure,
            "A column a run; above, invented names, below, real ones. What a knowing model does: the "
            "blue line "
            "high above and low below, the other the other way round. Completions that do neither are "
            "the rest "
            f"to 100 %. Bands: {INTERVAL}.",
            "Rates of hedging and of answering about invented and real names over training steps, by run.",
        )
    if drawn:
        same = rl_compare.same_score(drawn)
        unit = "in score units" if same else "as its change in each run's own standard deviations"
        yield Plot(
            "study-cost",
            rl_compare.cost_figure(drawn),
            f"Score ({unit}), entropy in parts of its start, and divergence from the frozen model. "
            "Where heads "
            f"were fitted again the score is that of the newest ones. Bands: {INTERVAL}.",
            "Score, entropy and divergence of every run over training steps.",
        )
    yield study_rl_tables.runs_table(study.arms)
    yield study_rl_tables.course_tables(study.arms)


def _outside(study: Study) -> Iterator[str]:
    from probekit.reports import study_rl_tables

    if not study.before or not study.after:
        yield _absent(study, "ood")
        return
    yield study_rl_tables.outside_tables(study)
    names = list(study.after)
    main = study.main.name if study.main is not None else ""
    yield study_rl_tables.topics_table(study, main if main in names else names[-1])


def _texts(study: Study) -> Iterator[str]:
    from probekit.reports.rl_examples import completions_html
    from probekit.reports.study_tables import bdi

    run = study.main
    if run is None:
        yield "<p>No RL run has two evaluations, so there is no before and after.</p>"
        return
    yield f"<p>Of the run {bdi(run.name)}, on held-out prompts.</p>"
    yield completions_html(run)
