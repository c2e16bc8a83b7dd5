"""The report of the study knowledge-awareness: its numbers, its words, and what is absent."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from probekit.errors import OutputError, ProbeError
from probekit.reports import load_study, write_study_report
from probekit.reports.rl_changes import level
from probekit.reports.rows import NO_VALUE, Metric
from probekit.reports.study_claims import GONE, NO, OPEN, YES, against, claims
from probekit.reports.study_figures import rates_figures
from probekit.reports.study_limits import accuracy_of_patterns, limitations
from probekit.reports.study_rates import (
    Course,
    course,
    kept_answers,
    outside,
    outside_separation,
    score_change,
    separation,
)
from probekit.reports.study_rl_tables import course_tables
from probekit.reports.study_rows import (
    HEDGE_INVENTED,
    HEDGE_REAL,
    HEDGES,
    PUBLISHED_RATES,
    Answer,
    Study,
)
from probekit.reports.study_tables import heads_table, leak_table
from probekit.reports.study_texts import drawn_pairs, methods_html
from probekit.reports.study_words import Outcome, findings, headline, outcome
from probekit.reports.words import upper_first
from tests.cli.test_cli import run as command
from tests.reports.browser import chromium, collisions, open_report
from tests.reports.factory import Made, write_fit
from tests.reports.rl_factory import MadeRL
from tests.reports.study_factory import (
    DENIES,
    RISES,
    STAGES,
    STAYS,
    MadeStudy,
    arm,
    write_study,
)
from tests.reports.words import HOSTILE

HEDGING = ("hedges", "refuses")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole study."""
    return write_study(tmp_path_factory.mktemp("study") / "made")


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return load_study(folder)


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return write_study_report(folder, out=out).read_text(encoding="utf-8")


def one(tmp_path: Path, made: MadeRL) -> Study:
    """A study of nothing but one RL run."""
    return load_study(write_study(tmp_path / "one", MadeStudy(("rl",), {"chosen": made})))


def text_of(html: str) -> str:
    parser, found = HTMLParser(), []
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(html.split("<script>", 1)[0])
    return " ".join(" ".join(found).split()).replace("\N{NO-BREAK SPACE}", " ")


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_prompt(folder: Path, name: str, step: int, value: str, kinds: tuple[str, ...]) -> np.ndarray:
    """Whether each held-out prompt of a class was answered in one of the categories, read anew."""
    rows = jsonl(folder / "rl" / name / "samples.jsonl")
    own = {
        row["prompt_id"]: float(row["category"] in kinds)
        for row in rows
        if row["step"] == step and row["tags"]["class"] == value
    }
    return np.array([own[key] for key in sorted(own)])


def interval(values: np.ndarray, seed: int = 7) -> tuple[float, float]:
    """A percentile interval of the mean by drawing rows, by hand."""
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    return tuple(np.quantile(drawn, [0.025, 0.975]))


def near(found: Metric, ends: tuple[float, float]) -> bool:
    """Percentiles of a share of 24 prompts come in steps of 1/24; two seeds may differ by one."""
    return abs(found.low - ends[0]) <= 1.01 / 24 and abs(found.high - ends[1]) <= 1.01 / 24


# Numbers.


@pytest.mark.parametrize("rate", PUBLISHED_RATES, ids=lambda rate: rate.label)
def test_the_four_rates_are_those_of_the_samples(folder: Path, study: Study, rate) -> None:
    run = next(run for run in study.arms if run.name == "max-unbalanced")
    first, last = (by_prompt(folder, run.name, at, rate.value, rate.categories) for at in (0, 60))
    late = np.mean(
        [by_prompt(folder, run.name, at, rate.value, rate.categories) for at in (40, 50, 60)],
        axis=0,
    )
    found = course(run, rate)
    assert found.start.value == pytest.approx(first.mean())
    assert found.end.value == pytest.approx(last.mean())
    assert found.change.value == pytest.approx((last - first).mean())
    assert found.late.value == pytest.approx(late.mean())
    assert found.late_change.value == pytest.approx((late - first).mean())
    assert near(found.start, interval(first))
    assert near(found.change, interval(last - first))
    assert near(found.late_change, interval(late - first))


def test_a_rate_of_one_category_is_that_of_the_evaluation(study: Study) -> None:
    run = study.arms[0]
    for item in run.evaluations:
        stored = item.value("rate:hedges", "class=real")
        assert level(run, "rate:hedges", "class=real", step=item.step) == pytest.approx(
            tuple(stored)
        )


def test_separation_and_kept_answers(folder: Path, study: Study) -> None:
    run = next(run for run in study.arms if run.name == "max")
    parts = {
        (value, step): by_prompt(folder, "max", step, value, HEDGING)
        for value in ("invented", "real")
        for step in (0, 60)
    }
    found = separation(run)
    gaps = {step: parts["invented", step].mean() - parts["real", step].mean() for step in (0, 60)}
    assert found.start.value == pytest.approx(gaps[0])
    assert found.end.value == pytest.approx(gaps[60])
    assert found.change.value == pytest.approx(gaps[60] - gaps[0])
    # Two independent means: the half-width of the normal interval, to the bootstrap's own scatter.
    moved = [parts[value, 60] - parts[value, 0] for value in ("invented", "real")]
    half = 1.96 * np.sqrt(sum(values.var() / len(values) for values in moved))
    assert (found.change.high - found.change.low) / 2 == pytest.approx(half, rel=0.2)
    answers = [by_prompt(folder, "max", step, "real", ("answers",)).mean() for step in (0, 60)]
    assert kept_answers(run).value == pytest.approx(answers[1] / answers[0])


def test_the_score_of_refitted_heads_is_under_the_first_ones(folder: Path, study: Study) -> None:
    rows = jsonl(folder / "rl" / "refits" / "samples.jsonl")
    mean = {
        step: np.mean([row["score_first"] for row in rows if row["step"] == step])
        for step in (0, 60)
    }
    run = next(run for run in study.arms if run.name == "refits")
    assert score_change(run).value == pytest.approx(mean[60] - mean[0])
    assert score_change(run).has_interval


def test_outside_is_paired_by_completion_with_groups(folder: Path, study: Study) -> None:
    before = {row["id"]: row for row in jsonl(folder / "ood" / "before.jsonl")}
    after = {row["id"]: row for row in jsonl(folder / "ood" / "max.jsonl")}
    gap = np.array([
        (after[key]["tags"]["category"] in HEDGING) - (row["tags"]["category"] in HEDGING)
        for key, row in before.items() if row["tags"]["class"] == "invented"
    ], dtype=float)  # fmt: skip
    found = outside(study.before, study.after["max"], HEDGES, value="invented")
    assert (found.n, found.groups) == (40, 40)
    assert found.change.value == pytest.approx(gap.mean())
    assert found.after.value - found.before.value == pytest.approx(gap.mean())
    low, high = interval(gap)
    assert abs(found.change.low - low) < 0.03 and abs(found.change.high - high) < 0.03
    half = [
        outside(study.before, study.after["max"], HEDGES, topic=t).n for t in ("books", "music")
    ]
    assert half == [40, 40]


def test_outside_leaves_out_what_only_one_side_has() -> None:
    def answer(key: str, category: str, value: str = "invented") -> Answer:
        return Answer(key, key, value, "", category)

    before = [answer("a", "answers"), answer("b", "answers"), answer("c", "hedges")]
    after = [answer("b", "hedges"), answer("c", "hedges"), answer("d", "hedges")]
    found = outside(before, after, HEDGES)
    assert (found.n, found.before.value, found.after.value) == (2, 0.5, 1.0)
    assert outside([], after, HEDGES).n == 0
    assert outside_separation(before, after) == (NO_VALUE, NO_VALUE, NO_VALUE) or not any(
        metric.known for metric in outside_separation(before, after)
    )
    lone = outside(before[1:2], after, HEDGES)
    assert lone.change == pytest.approx((1.0, np.nan, np.nan), nan_ok=True)


def test_the_page_shows_these_numbers(study: Study, page: str) -> None:
    said = text_of(page)
    for run in study.arms:
        found = course(run, HEDGE_INVENTED)
        sign = "+" if found.change.value > 0 else ""
        for text in (
            f"{100 * found.start.value:.0f} % [{100 * found.start.low:.0f}, {100 * found.start.high:.0f}]",
            f"{sign}{100 * found.change.value:.0f} points [+{100 * found.change.low:.0f}, "
            f"+{100 * found.change.high:.0f}]",
        ):
            assert text in said
    assert study.linear is not None and study.projection is not None
    for sweep in (study.linear, study.projection):
        for value in ("real", "invented"):
            metrics = sweep.by_tag["class"][value]
            assert f"{metrics['margin'].value:.2f} [{metrics['margin'].low:.2f}" in said
            assert f"{100 * metrics['pair_accuracy'].value:.1f} % [" in said
    for number in ("2.08", "0.36", "1.73", "1.88", "0.50", "1.38"):
        assert number in said
    assert "51.0 % [48.0, 54.0] not shown to tell" in said
    assert "97.0 % [94.0, 100] tells chosen from rejected" in said


def test_the_figure_holds_the_rates(study: Study) -> None:
    (figure,) = rates_figures(study.arms)
    run = study.arms[2]
    drawn = [trace for trace in figure.data if trace.name == "hedges or refuses"]
    assert len(drawn) == 8
    expected = [
        level(run, HEDGE_REAL.measure, HEDGE_REAL.part, step=item.step).value
        for item in run.evaluations
    ]
    assert list(drawn[4 + 2].y) == pytest.approx(expected)
    assert len(rates_figures([*study.arms, study.arms[0]])) == 2


# Words.


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (dict(hedging=RISES), Outcome.FOLLOWED),
        (dict(hedging=DENIES), Outcome.ALIKE),
        (dict(hedging={"invented": (0.1, 0.4), "real": (0.1, 0.4)}), Outcome.ALIKE),
        # Neither "alike" nor told apart is shown.
        (dict(hedging={"invented": (0.0, 0.2), "real": (0.0, 0.05)}), Outcome.INVENTED_ONLY),
        (dict(hedging={"invented": (0.1, 0.1), "real": (0.1, 0.9)}, score=0.0), Outcome.REAL_ONLY),
        (dict(hedging=RISES, score=0.0), Outcome.BEHAVIOUR_ONLY),
        (dict(hedging=STAYS), Outcome.SCORE_ONLY),
        (dict(hedging=STAYS, score=-1.0), Outcome.FELL),
        (dict(hedging=STAYS, score=0.0), Outcome.NOTHING),
        (dict(hedging=RISES, prompts=8), Outcome.UNKNOWN),
    ],
    ids=lambda value: value.name if isinstance(value, Outcome) else "",
)  # fmt: skip
def test_the_words_follow_what_moved(tmp_path: Path, made: dict, expected: Outcome) -> None:
    found = one(tmp_path, arm(**made))
    assert outcome(found.arms[0]) is expected
    assert headline(found).endswith(f". {upper_first(expected.value)}.")
    followed = next(item for item in claims(found) if "behaviour follows" in item.claim)
    assert (followed.verdict == YES) == (expected is Outcome.FOLLOWED)
    denied = any("It came to deny knowing most real people" in line for line in findings(found))
    assert denied == (made["hedging"]["real"][1] == 0.9)


def test_claims_stand_by_their_intervals(study: Study) -> None:
    assert [against(Metric(0.5, *ends), 0.4) for ends in ((0.45, 0.6), (0.3, 0.6), (0.1, 0.2))] == [
        YES, OPEN, NO
    ]  # fmt: skip
    found = claims(study)
    assert [item.verdict for item in found] == [YES] * 10
    # Those on behaviour twice: of the run that aims at the chosen scores, and with heads fitted again.
    again = [item for item in found if item.claim.startswith("With heads fitted again: ")]
    assert found[-4:] == again and all(item.here.endswith("(refits)") for item in again)
    assert [item.published for item in again] == [item.published for item in found[2:6]]


def test_a_claim_can_fail(tmp_path: Path) -> None:
    arms = {
        "max-unbalanced": arm(STAYS, seed=1),
        "chosen": arm(DENIES, entropy=-1.2, balance="class", seed=2),
    }
    made = MadeStudy(("rl", "ood"), arms, outside=(0.1, 0.1))
    found = claims(load_study(write_study(tmp_path / "failed", made)))
    assert [item.verdict for item in found] == [GONE, NO, OPEN, NO, NO, OPEN]


def test_a_head_no_better_than_words_does_not_stand(tmp_path: Path) -> None:
    made = MadeStudy(("projection",), {}, signal=0.8)
    found = claims(load_study(write_study(tmp_path / "weak", made)))[0]
    assert found.verdict == OPEN and found.here.endswith("not above TF-IDF")


def test_limitations_are_counted(study: Study, tmp_path: Path) -> None:
    said = " ".join(limitations(study))
    assert "one seed (5)" in said
    assert "48 held-out prompts are about 4 names" in said
    assert "175 of 735 completions were dropped" in said
    # Against the same labels by hand: the share of equal labels on the test split.
    assert f"accuracy is {accuracy_of_patterns().value:.2f} [" in said
    assert accuracy_of_patterns().value == pytest.approx(0.82, abs=0.005)
    assert "In run refits the patterns that count behaviour also choose" in said
    assert "find the name fluent" not in said and "were cut after" not in said
    assert study.elicitation is not None
    known = {"real": {"n": 9, "n_kept": 4, "median_logprob": -9.0, "median_logprob_kept": -3.0}}
    told = {"real": {"n": 375, "n_kept": 160}}
    chosen = dataclasses.replace(study.elicitation, familiarity=known, known=told)
    again = limitations(dataclasses.replace(study, elicitation=chosen))
    assert any("find the name fluent" in line for line in again)
    assert any("215 of 375 real names were left out: too few" in line for line in again)
    assert study.main is not None
    short = [
        dataclasses.replace(row, values={**row.values, "finished": float(i % 4 == 0)})
        for i, row in enumerate(study.main.samples)
    ]
    settings = {**study.main.settings, "max_new_tokens": 24}
    cut = dataclasses.replace(study.main, samples=short, settings=settings)
    again = limitations(dataclasses.replace(study, arms=[*study.arms[:-1], cut]))
    assert any(
        "75 % of the completions of run refits at its end were cut after 24" in a for a in again
    )
    quick = load_study(write_study(tmp_path / "quick", MadeStudy((), {}, quick=True)))
    assert limitations(quick)[0].startswith("This is a quick run")


def test_example_pairs_are_drawn_by_the_seed_from_every_class(study: Study) -> None:
    assert study.elicitation is not None
    shown = drawn_pairs(study.elicitation.pairs, 5)
    assert shown == drawn_pairs(study.elicitation.pairs, 5)
    assert shown != drawn_pairs(study.elicitation.pairs, 6)
    assert sorted(pair.tags["class"] for pair in shown) == ["invented"] * 2 + ["real"] * 2
    assert len({pair.group for pair in shown}) == 4


def test_the_methods_name_what_sets_runs_apart_and_how_time_adds_up(study: Study) -> None:
    (run,) = [run for run in study.arms if run.name == "refits"]
    more = dict(decay="cosine", entropy_bonus=0.005, ood_penalty=1.0, learning_rate=4e-4)
    more |= dict(entropy_target=0.9)
    run = dataclasses.replace(run, settings={**run.settings, **more})
    said = text_of(methods_html(dataclasses.replace(study, arms=(run,))))
    assert "learning rate 0.0004, falling to 0 (cosine)" in said
    assert (
        "entropy bonus 0.005, moved to hold 0.9 of the entropy at the start, OOD penalty 1" in said
    )
    assert " in all: " in said and "at once" not in said
    record = {**study.record, "arguments": {"jobs": 2}}
    said = text_of(methods_html(dataclasses.replace(study, record=record)))
    assert " in all (a sum over stages, up to 2 of which ran at once): " in said


def test_the_methods_say_what_completions_had_to_tell(study: Study) -> None:
    assert study.elicitation is not None
    assert "names a field" not in text_of(methods_html(study))
    recipe = {
        **study.elicitation.recipe,
        "mentions": True,
        "skip": {"template": ["why"]},
        "facts": {"field": {"music": ["sing"]}},
        "fact_of": {"real": "own", "invented": "any"},
        "knows": {"real": 0.5},
        "variants": [{"name": "plain", "facts": True, "name_within": 5}],
    }
    known = {"real": {"n": 375, "n_kept": 160}}
    elicitation = dataclasses.replace(study.elicitation, recipe=recipe, known=known)
    said = text_of(methods_html(dataclasses.replace(study, elicitation=elicitation)))
    assert (
        "Each uses the name that it is asked about; questions whose template is why were left out; "
        "plain has the name among its first 5 words; "
        "plain names a field (real: its own; invented: any); real names are those of which at least 50 % of "
        "these completions do (160 of 375)"
    ) in said


def test_the_table_of_heads_says_how_many_names_of_each_class_it_rests_on(study: Study) -> None:
    assert study.linear is not None
    names = {(row.tags["class"], row.group) for row in study.linear.predictions}
    real, made = (sum(value == own for own, _ in names) for value in ("real", "invented"))
    assert real and made and f"names ({made} invented, {real} real)" in text_of(heads_table(study))


def test_pairs_taken_out_for_their_words_are_told(study: Study, tmp_path: Path) -> None:
    made = study.elicitation
    assert made is not None and "taken out" not in text_of(methods_html(study))
    filtered = {**made.recipe, "filter_words": True}
    elicitation = dataclasses.replace(made, recipe=filtered, told_by_words=20)
    said = text_of(methods_html(dataclasses.replace(study, elicitation=elicitation)))
    assert "20 pairs that words alone told were taken out of 80" in said
    assert "at chance by that choice" in text_of(leak_table(elicitation))
    assert "at chance by that choice" not in text_of(leak_table(made))


def test_a_change_from_nothing_is_marked_as_a_change(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the start is 0 the change equals the end, number for number.
    none, moved = Metric(0.0, 0.0, 0.0), Metric(0.6, 0.5, 0.7)
    made = Course(start=none, end=moved, change=moved, late=moved, late_change=moved)
    monkeypatch.setattr("probekit.reports.study_rl_tables.separation", lambda run: made)
    page = course_tables(study.arms[:1])
    cells = page.split("Separation</b>", 1)[1].split("</tr>", 1)[0].split("<td")[1:]
    assert ["<b>" in cell for cell in cells] == [False, False, True, False, True]


# Parts that are not there.


@pytest.mark.parametrize("gone", STAGES)
def test_an_absent_stage_is_named(folder: Path, tmp_path: Path, gone: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / gone)
    record = json.loads((copy / "study.json").read_text())
    for stage in record["stages"]:
        if stage["name"].startswith(gone):
            stage["state"] = "failed"
    (copy / "study.json").write_text(json.dumps(record))
    said = text_of(write_study_report(copy).read_text(encoding="utf-8"))
    assert f"The stage {gone} is absent: the stage failed" in said
    assert f"{gone} (the stage failed)" in said


def test_a_study_that_has_only_begun_still_has_a_page(tmp_path: Path) -> None:
    made = write_study(tmp_path / "begun", MadeStudy((), {}))
    said = text_of(write_study_report(made).read_text(encoding="utf-8"))
    assert "nothing can be concluded" in said
    assert said.count(" is absent: ") == 8 - 1


def test_runs_of_other_names_come_after_and_unfinished_ones_are_shown(tmp_path: Path) -> None:
    arms = {
        "another": arm(RISES), "chosen": arm(RISES, seed=1), "max": arm(RISES, done=0),
        "aside": arm(RISES, done=30),
    }  # fmt: skip
    found = load_study(write_study(tmp_path / "named", MadeStudy(("rl",), arms)))
    assert [run.name for run in found.arms] == ["max", "chosen", "another", "aside"]
    assert found.main is not None and found.main.name == "aside"
    said = text_of(write_study_report(found.path).read_text(encoding="utf-8"))
    assert "30 of 60" in said and "No evaluation was written, so nothing can be compared" in said


def test_what_is_damaged_or_foreign_is_one_line(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "ood" / "max.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ProbeError, match=r"max\.jsonl:1: key 'class' is missing"):
        load_study(copy)
    shutil.rmtree(copy / "fit")
    write_fit(copy / "fit", Made("label", layers=1))
    with pytest.raises(ProbeError, match="is a fit of label data, expected one of pairs"):
        load_study(copy)
    (copy / "study.json").write_text('{"study": "another"}')
    with pytest.raises(ProbeError, match="is of the study 'another'"):
        load_study(copy)
    with pytest.raises(ProbeError, match=r"has no study\.json"):
        load_study(copy / "rl")


def test_the_command_draws_it_and_links_the_stages(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "page" / "study.html"
    out.parent.mkdir()
    assert command("report", folder, "--out", out) == 0
    text = out.read_text(encoding="utf-8")
    assert text_of(text).startswith("Knowledge awareness")
    links = re.findall(r'<a href="([^"#]+)"', text.split("<script>", 1)[0])
    assert len(links) == 2 and all((out.parent / link).is_file() for link in links)
    assert "probekit elicit --out study/elicit" in text_of(text)
    with pytest.raises(OutputError):
        write_study_report(folder, out=out)


# The page in a browser.


def ugly() -> MadeStudy:
    text = HOSTILE + " " + "x" * 120
    arms = {f"run-{i}": arm(RISES, seed=i) for i in range(3)} | {
        "a-run-with-a-name-that-is-long": arm(DENIES, text="")
    }
    return MadeStudy(arms=arms, text=text, layers=26, quick=True)


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    page = write_study_report(write_study(tmp_path / "ugly", ugly())).read_text(encoding="utf-8")
    assert "<script>document.title" not in page and "<img src=x" not in page
    assert "&lt;script&gt;document.title" in page


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "width"), [("whole", 1280), ("whole", 900), ("whole", 500), ("ugly", 900)]
)
def test_every_figure_is_drawn(folder: Path, tmp_path: Path, name: str, width: int) -> None:
    chromium()
    made = folder if name == "whole" else write_study(tmp_path / "ugly", ugly())
    report = write_study_report(made, out=tmp_path / "report.html")
    seen = open_report(report, tmp_path, width=width)
    found = seen.found
    assert found["problems"] == [] and seen.console == [] and found["resources"] == []
    assert found["title"].startswith("Knowledge awareness")
    assert found["scroll"] <= found["inner"]
    names = {figure["id"] for figure in found["figures"]}
    assert {
        "study-rates-0",
        "study-cost",
        "study-heatmap",
        "study-doses",
        "dynamics-rates",
    } <= names
    for figure in [*found["figures"], *found["printed"]]:
        assert figure["svgs"] >= 2, figure["id"]
        if figure["id"].startswith("study-"):
            assert collisions(figure["texts"]) == [], figure["id"]
            for text, left, top, right, bottom in figure["texts"]:
                assert left >= -1 and top >= -1 and bottom <= figure["height"] + 1, text
                assert right <= figure["svgWidth"] + 1, (figure["id"], text)
