"""The page of the study `knowledge-awareness`: its numbers, its findings, and what is absent."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from probekit import open_run
from probekit.errors import DataError, ProbeError
from probekit.reports.knowledge_awareness import drawn_pairs
from probekit.results.intervals import Resampler
from probekit.results.knowledge_awareness import (
    ABOUT,
    ANSWERS,
    APART,
    HEDGES,
    KnowledgeAwareness,
    score_change,
)  # fmt: skip
from probekit.studies import write_study_report
from tests.cli.test_cli import run as command
from tests.reports.factory import Made, write_fit
from tests.reports.study_factory import DENIES, RISES, STAGES, STAYS, MadeStudy, arm, write_study
from tests.reports.words import edited, jsonl, plain, write_lines

HEDGING = ("hedges", "refuses")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The whole study."""
    return write_study(tmp_path_factory.mktemp("study") / "made")


@pytest.fixture(scope="module")
def study(folder):
    return KnowledgeAwareness(open_run(folder))


@pytest.fixture(scope="module")
def drawn(folder, tmp_path_factory):
    """Its page, drawn by the command in another folder."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert command("report", folder, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def page(drawn):
    return plain(drawn)


def said(folder):
    """What a reader reads on the page of a study."""
    return plain(write_study_report(folder))


def made_of(tmp_path, *stages, arms=None, **made):
    """What a smaller study found."""
    folder = write_study(tmp_path / "m", MadeStudy(stages, arms or {}, **made))
    return KnowledgeAwareness(open_run(folder))


def by_prompt(folder, name, step, value, kinds):
    """Whether each held-out prompt of a class was answered in one of the categories, read anew."""
    own = {
        row["prompt_id"]: float(row["category"] in kinds)
        for row in jsonl(folder / "rl" / name / "samples.jsonl")
        if row["step"] == step and row["tags"]["class"] == value
    }
    return np.array([own[key] for key in sorted(own)])


def interval(values, seed=7):
    """A percentile interval of the mean by drawing rows, by hand."""
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    return np.quantile(drawn, [0.025, 0.975])


def cells(page, begins):
    """The cells of the first row of a table that begins with these words."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {begins}"))
    return [cell.strip() for cell in line[2:].split(" | ")]


# Numbers.


@pytest.mark.parametrize(
    ("label", "value", "kinds"),
    [
        ("Hedges or refuses about invented", "invented", HEDGING),
        ("Of these, refuses", "invented", ("refuses",)),
        ("Of these, hedges", "invented", ("hedges",)),
        ("Answers about invented", "invented", ("answers",)),
        ("Answers about real", "real", ("answers",)),
        ("Hedges or refuses about real", "real", HEDGING),
    ],
)
def test_the_rates_are_those_of_the_samples(folder, page, label, value, kinds):
    at = {
        step: by_prompt(folder, "max-unbalanced", step, value, kinds) for step in range(0, 70, 10)
    }
    late = np.mean([at[step] for step in (40, 50, 60)], axis=0)
    row = cells(page.split("Run max-unbalanced on", 1)[1], label)
    sample = Resampler(np.arange(len(late)))
    levels = [sample.share(values) for values in (at[0], at[60], late)]
    gaps = [sample.share_change(values - at[0]) for values in (at[60], late)]
    expected = (levels[0], levels[1], gaps[0], levels[2], gaps[1])
    for cell, ends in zip(row[1:], expected, strict=True):
        shown = [int(end.replace("−", "-")) for end in re.findall(r"[+−]?\d+", cell)]
        assert shown == pytest.approx([100 * end for end in ends], abs=0.51)


def test_separation_kept_answers_and_the_score_under_the_first_heads(folder, study):
    run = study.arms["max"]
    at = {(v, s): by_prompt(folder, "max", s, v, HEDGING) for v in ABOUT for s in (0, 60)}
    gaps = [at["invented", step].mean() - at["real", step].mean() for step in (0, 60)]
    change = run.change(HEDGES, APART)
    assert run.level(HEDGES, APART, "first").value == pytest.approx(gaps[0])
    assert change.value == pytest.approx(gaps[1] - gaps[0])
    # Two independent means: the half-width of the normal interval, to the bootstrap's own scatter.
    moved = [at[value, 60] - at[value, 0] for value in ABOUT]
    half = 1.96 * np.sqrt(sum(values.var() / len(values) for values in moved))
    assert (change.high - change.low) / 2 == pytest.approx(half, rel=0.2)
    answers = [by_prompt(folder, "max", step, "real", ("answers",)).mean() for step in (0, 60)]
    assert run.ratio(ANSWERS, ABOUT["real"]).value == pytest.approx(answers[1] / answers[0])
    rows = jsonl(folder / "rl" / "refits" / "samples.jsonl")
    first = [np.mean([r["score_first"] for r in rows if r["step"] == step]) for step in (0, 60)]
    assert score_change(study.arms["refits"]).value == pytest.approx(first[1] - first[0])


def test_outside_is_paired_by_completion_with_groups(folder, study):
    before, after = (
        {row["id"]: row for row in jsonl(folder / "ood" / f"{name}.jsonl")}
        for name in ("before", "max")
    )
    hedged = {
        value: np.array([
            [(rows[key]["tags"]["category"] in HEDGING) for rows in (before, after)]
            for key, row in before.items() if row["tags"]["class"] == value
        ], dtype=float)
        for value in ABOUT
    }  # fmt: skip
    moved = {value: both[:, 1] - both[:, 0] for value, both in hedged.items()}
    made = study.outside("max", HEDGES, "invented")
    assert (made.n, made.before.value) == (40, pytest.approx(hedged["invented"][:, 0].mean()))
    assert made.change.value == pytest.approx(moved["invented"].mean())
    assert list(made.change[1:]) == pytest.approx(interval(moved["invented"]), abs=0.03)
    apart = study.outside("max").change
    assert apart.value == pytest.approx(moved["invented"].mean() - moved["real"].mean())
    halves = [study.outside("max", HEDGES, "invented", topic).n for topic in ("books", "music")]
    assert halves == [20, 20]


def test_outside_leaves_out_what_only_one_side_has(tmp_path):
    found = made_of(tmp_path)
    folder = found.study.directory / "ood"
    folder.mkdir()
    for name, kinds in (
        ("before", dict(a="answers", b="answers", c="hedges")),
        ("max", dict(b="hedges", c="hedges", d="hedges")),
        ("one", dict(b="hedges")),
    ):
        tags = {k: {"class": "invented", "category": kind} for k, kind in kinds.items()}
        write_lines(
            folder / f"{name}.jsonl", [dict(id=k, group=k, tags=t) for k, t in tags.items()]
        )
    made = found.outside("max", HEDGES, "invented")
    assert (made.n, made.before.value, made.after.value) == (2, 0.5, 1.0)
    assert not found.outside("max").change.known, "no real things, no separation"
    lone = found.outside("one", HEDGES, "invented").change
    assert lone.value == 1.0 and not lone.has_interval


def test_heads_and_leaks_are_the_files_numbers(folder, page):
    for name, label in (("fit", "linear"), ("projection", "projection")):
        sweep = json.loads((folder / name / "sweep.json").read_text())
        for value in ("real", "invented"):
            metrics = sweep["by_tag"]["class"][value]
            row = cells(page, f"{value}, {label} head")
            for key, cell in zip(("chosen", "rejected", "margin"), row[1:], strict=False):
                assert cell == "{value:.2f} [{low:.2f}, {high:.2f}]".format(**metrics[key])
            assert row[4].startswith(f"{100 * metrics['pair_accuracy']['value']:.1f} % [")
    assert cells(page, "real, Qwen3-8B")[1:] == ["2.08", "0.36", "1.73", "100 %"]
    names = {(r["tags"]["class"], r["group"]) for r in jsonl(folder / "fit/predictions.jsonl")}
    real, invented = (sum(value == own for own, _ in names) for value in ("real", "invented"))
    assert f"names ({invented} invented, {real} real)" in page
    assert cells(page, "Words (TF-IDF) | both")[2:] == ["51.0 % [48.0, 54.0]", "not shown to tell"]
    assert cells(page, "Words (TF-IDF) | real")[3] == "tells chosen from rejected"
    assert cells(page, "Length | invented")[2:] == ["–", "too few names"]


# Findings.


@pytest.mark.parametrize(
    ("made", "key"),
    [
        (dict(hedging=RISES), "followed"),
        (dict(hedging=DENIES), "alike"),
        (dict(hedging={"invented": (0.1, 0.6), "real": (0.1, 0.6)}), "alike"),
        # Neither "alike" nor told apart is shown.
        (dict(hedging={"invented": (0.0, 0.2), "real": (0.0, 0.05)}), "invented only"),
        (dict(hedging={"invented": (0.1, 0.1), "real": (0.1, 0.9)}, score=0.0), "real only"),
        (dict(hedging=RISES, score=0.0), "behaviour only"),
        (dict(hedging=STAYS), "score only"),
        (dict(hedging=STAYS, score=-1.0), "fell"),
        (dict(hedging=STAYS, score=0.0), "nothing"),
        (dict(hedging=RISES, prompts=8), "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_outcome_follows_what_moved(tmp_path, made, key):
    found = made_of(tmp_path, "rl", arms={"chosen": arm(**made)})
    assert found.outcome(found.main) == key
    assert (found.claims[0][2].key == "above") == (key == "followed")
    assert found.denies(found.main) == (made["hedging"]["real"][1] == 0.9)
    assert said(found.study.directory), "there are words for it"


def test_claims_stand_by_their_intervals(study):
    first, again = study.claims
    assert [claim.key for claim in (*first, *again)] == ["above"] * 10
    assert {claim.run for claim in again} == {"refits"}
    assert [claim.id for claim in again] == [claim.id for claim in first[2:]]


def test_a_claim_can_fail(tmp_path):
    arms = {
        "max-unbalanced": arm(STAYS, seed=1),
        "chosen": arm(DENIES, entropy=-1.2, balance="class", seed=2),
    }
    found = made_of(tmp_path, "rl", "ood", arms=arms, outside=(0.1, 0.1))
    keys = [claim.key for part in found.claims for claim in part]
    assert keys == ["not run", "below", "includes", "below", "below", "includes"]


def test_a_head_no_better_than_words_does_not_stand(tmp_path):
    claim = made_of(tmp_path, "projection", signal=0.8).claims[0][0]
    assert claim.key == "includes" and claim.rivals == ["tfidf"]


def test_limitations_are_counted(study, page, folder):
    assert "48 held-out prompts are about 4 names" in page
    assert "In run refits the patterns that count behaviour also choose" in page
    assert "finding the name fluent" not in page and "were cut after" not in page
    rows = jsonl(folder / "rl/refits/samples.jsonl")
    cut = np.mean([not row["finished"] for row in rows if row["step"] == 60])
    assert study.limits["cut"] == pytest.approx(cut)


def test_the_recipe_is_told(tmp_path):
    recipe = dict(
        mentions=True, skip={"template": ["why"]}, facts={"field": {"music": ["sing"]}}, knows={"real": 0.5},
        fact_of={"real": "own", "invented": "any"}, filter_words=True, familiar={"real": -6.0},
        variants=[dict(name="plain", system="", shots=[], prefill="", keep="", facts=True, name_within=5)],
    )  # fmt: skip
    known = {"real": {"n": 9, "n_kept": 4, "median_logprob": -9.0, "median_logprob_kept": -3.0}}
    made = MadeStudy(
        ("elicit",), {}, recipe=recipe, familiarity=known, known={"real": {"n": 375, "n_kept": 160}},
        told_by_words=20, quick=True, jobs=2,
    )  # fmt: skip
    page = said(write_study(tmp_path / "made", made))
    for words in (
        "Each uses the name that it is asked about; questions whose template is why were left out; plain "
        "has the name among its first 5 words; plain names a field (real: its own; invented: any); real "
        "names are those of which at least 50 % of these completions do (160 of 375)",
        "at least (real: −6.0 nats), then equally many of each class. real: 4 of 9 questions kept, median",
        "The 20 of 80 pairs that words told best",
        "finding the name fluent", "215 of 375 real names were left out: too few",
        "A quick run: it shows that every stage works",
        " in all (a sum over stages, up to 2 at once): ",
    ):  # fmt: skip
        assert words in page


def test_example_pairs_are_drawn_by_the_seed_from_every_class(folder):
    found = KnowledgeAwareness(open_run(folder))
    shown = drawn_pairs(found)
    assert [pair["tag:class"] for pair in shown] == ["invented", "real"] * 2
    assert len({pair["group"] for pair in shown}) == 4
    other = KnowledgeAwareness(open_run(folder))
    other.study.record["seed"] = 6
    assert [p["id"] for p in drawn_pairs(other)] != [p["id"] for p in shown]


# Parts that are not there.


@pytest.mark.parametrize("gone", STAGES)
def test_an_absent_stage_is_named(tmp_path, gone):
    stages = tuple(name for name in STAGES if name != gone)
    made = MadeStudy(stages, {"chosen": arm(RISES, prompts=12, steps=20)}, questions=6, layers=2)
    page = said(write_study(tmp_path / "made", made))
    assert f"The stage {gone} is absent: the stage failed" in page
    assert f"{gone} (the stage failed)" in page


def test_a_study_that_has_only_begun_still_has_a_page(tmp_path):
    page = said(write_study(tmp_path / "begun", MadeStudy((), {})))
    assert "nothing can be concluded" in page and page.count(" is absent: ") == len(STAGES)


def test_runs_of_other_names_come_after_and_unfinished_ones_are_shown(tmp_path):
    arms = {
        "another": arm(RISES), "chosen": arm(RISES, seed=1), "max": arm(RISES, done=0),
        "aside": arm(RISES, done=30),
    }  # fmt: skip
    found = made_of(tmp_path, "rl", arms=arms)
    assert list(found.arms) == ["max", "chosen", "another", "aside"] and found.main.name == "aside"
    page = said(found.study.directory)
    assert "30 of 60" in page and "No evaluation was written, so nothing can be compared" in page


def test_what_is_damaged_or_foreign_is_one_line(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    write_lines(copy / "ood/max.jsonl", [dict(id="a", group="g", tags=dict(category="hedges"))])
    with pytest.raises(ProbeError, match=r"max\.jsonl:1: .*'tags\.class' is missing"):
        write_study_report(copy)
    shutil.rmtree(copy / "fit")
    write_fit(copy / "fit", Made("label", layers=1))
    with pytest.raises(ProbeError, match="is a fit of label data, expected one of pairs"):
        write_study_report(copy)
    with edited(copy / "study.json") as record:
        record["study"] = "another"
    with pytest.raises(DataError, match="study 'another': unknown"):
        write_study_report(copy)
    with pytest.raises(ProbeError, match=r"has no study\.json"):
        write_study_report(copy / "rl")


def test_the_page_links_those_of_the_stages(folder, drawn):
    body = drawn.read_text(encoding="utf-8").split("<script>", 1)[0]
    links = re.findall(r'<a href="([^"#]+)"', body)
    assert len(links) == 2 and all((drawn.parent / link).is_file() for link in links)
