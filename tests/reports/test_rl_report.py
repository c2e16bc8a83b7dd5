"""The report of an RL run: what is read, what figures and tables hold, and what it says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from probekit.errors import OutputError, ProbeError
from probekit.reports import load_rl, write_rl_report
from probekit.reports.rl_changes import change, ratio, scaled_change
from probekit.reports.rl_compare import compare_figure, compare_tables, same_score
from probekit.reports.rl_examples import completions_html, drawn_prompts
from probekit.reports.rl_figures import (
    behaviour_figure,
    goodhart_figure,
    health_figure,
    independent_figure,
    score_figure,
)
from probekit.reports.rl_load import load_runs
from probekit.reports.rl_rows import Curve, RLRun
from probekit.reports.rl_scores import histograms, scores_figure
from probekit.reports.rl_tables import alarms_html, changes_html, definitions_html
from probekit.reports.rl_verdict import rl_verdict
from probekit.reports.rl_words import changed_text, head_name, level_text, ranges, refits_text
from probekit.reports.rows import Metric
from probekit.results.intervals import Resampler
from tests.cli.test_cli import run as command
from tests.reports.browser import chromium, collisions, open_report
from tests.reports.rl_factory import OTHERS, MadeRL, write_rl
from tests.reports.words import HOSTILE

EQUAL = "every group's rewards are equal: nothing is learnt from this step"
PAST = "the mean score is past every chosen one"
REFITS = dict(refits=(20, 40), alarms={12: EQUAL, 13: EQUAL, 14: EQUAL, 31: EQUAL, 44: PAST})


def load(tmp_path: Path, **made: object) -> RLRun:
    return load_rl(write_rl(tmp_path / "run", MadeRL(**made)))


def page(tmp_path: Path, **made: object) -> str:
    return write_rl_report(write_rl(tmp_path / "run", MadeRL(**made))).read_text(encoding="utf-8")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def named(figure, name: str) -> list:
    return [trace for trace in figure.data if trace.name == name]


def text_of(html: str) -> str:
    parser, found = HTMLParser(), []
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(html)
    return " ".join(" ".join(found).split())


def column(run: RLRun, step: int, key: Callable[[dict], float]) -> np.ndarray:
    """Read the rows of a step again, in the order of the file."""
    rows = [row for row in lines(run.path / "samples.jsonl") if row["step"] == step]
    return np.array([key(row) for row in rows], dtype=float)


# Numbers.


@pytest.mark.parametrize("samples", [1, 3])
def test_the_change_is_that_of_prompts_paired(tmp_path: Path, samples: int) -> None:
    run = load(tmp_path, samples=samples)
    prompts = column(run, 0, lambda row: int(row["prompt_id"][1:])).astype(int)
    for name, key in {
        "score": lambda row: row["score"],
        "rate:hedges": lambda row: row["category"] == "hedges",
        "wanted": lambda row: row["wanted"],
        f"head:{OTHERS[1]}": lambda row: row["heads"][OTHERS[1]],
        "mahalanobis": lambda row: row["mahalanobis"],
    }.items():
        gap = column(run, 50, key) - column(run, 0, key)
        found = change(run, name)
        assert found.value == pytest.approx(gap.mean(), abs=1e-12)
        # By hand: draw prompts, not completions. Percentiles of 4,000 draws scatter by about 4 % of
        # the half-width.
        each = np.array([gap[prompts == prompt].mean() for prompt in range(32)])
        rng = np.random.default_rng(7)
        drawn = each[rng.integers(0, 32, (4000, 32))].mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert abs(found.low - low) < 0.12 * (high - low)
        assert abs(found.high - high) < 0.12 * (high - low)
        exact = Resampler(column(run, 0, lambda row: int(row["prompt_id"][1:]))).mean(gap)
        assert found == pytest.approx(tuple(exact))


def test_changes_of_a_part_scaled_and_as_ratio(tmp_path: Path) -> None:
    run = load(tmp_path)
    real = column(run, 0, lambda row: row["tags"]["class"] == "real").astype(bool)
    before, after = (column(run, step, lambda row: row["score"]) for step in (0, 50))
    assert change(run, "score", "class=real").value == pytest.approx((after - before)[real].mean())
    scaled = scaled_change(run, "score", step=50)
    assert scaled.value == pytest.approx((after - before).mean() / before.std())
    entropy = [column(run, step, lambda row: row["entropy"]).mean() for step in (0, 20)]
    found = ratio(run, "entropy", step=20)
    assert found.value == pytest.approx(entropy[1] / entropy[0])
    assert found.low < found.value < found.high < 1
    assert not change(run, "distance_to_chosen").has_interval


def test_the_table_holds_first_last_and_change(tmp_path: Path) -> None:
    run = load(tmp_path, **REFITS)
    said = text_of(changes_html(run))
    evaluations = lines(run.path / "evaluations.jsonl")
    for name, label in (("wanted", "Wanted behaviour"), ("score", "Optimised score")):
        texts = [
            level_text(name, Metric(**evaluations[at]["evaluation"]["all"][name])) for at in (0, -1)
        ]
        row = f"{label} {texts[0]} {texts[1]} {changed_text(name, change(run, name))}"
        assert " ".join(row.split()) in said
    part = Metric(**evaluations[-1]["evaluation"]["class=invented"]["wanted"])
    assert level_text("wanted", part).replace("\xa0", " ") in said.split("Class: invented, n")[1]
    assert "Class: real, n = 16 held-out prompts" in said
    # The one optimised head is the score itself.
    assert "Head ridge, resid_post layer 20, mean" not in said


def test_refits_are_marked_where_lines_do_not_hide_the_curve(tmp_path: Path) -> None:
    few, many = (load(tmp_path / name, steps=60, refits=at)
                 for name, at in (("few", (20, 40)), ("many", range(4, 61, 4))))  # fmt: skip
    assert few.refitted == [20, 40] and len(many.refitted) == 15
    assert refits_text(few) == " Dotted upright: heads fitted again."
    assert refits_text(many) == " Heads were fitted again at steps 4, 8, …, 60."
    lengths = [len(named(health_figure(run), "heads fitted again")) for run in (few, many)]
    assert lengths[0] > 0 and lengths[1] == 0
    drawn = [len(health_figure(run).layout.shapes) for run in (few, many)]
    assert drawn[0] > drawn[1]


def test_bold_means_that_the_interval_leaves_zero(tmp_path: Path) -> None:
    run = load(tmp_path, score=0.0)
    html = changes_html(run)
    cell = re.search(r"Optimised score</b></th>(?:<td>.*?</td>){2}<td>(.*?)</td>", html)
    assert cell and not cell.group(1).startswith("<b>")
    cell = re.search(r"Mahalanobis distance.*?</th>(?:<td>.*?</td>){2}<td>(.*?)</td>", html)
    assert cell and cell.group(1).startswith("<b>+0.")


# What is read.


def test_without_behaviours_and_tags(tmp_path: Path) -> None:
    folder = write_rl(tmp_path / "run", MadeRL(tags={}, categories=()))
    run = load_rl(folder)
    assert run.wanted is None and behaviour_figure(run) is None and run.parts == ["all"]
    found = rl_verdict(run)
    assert "No wanted behaviour was measured" in found.headline
    assert "No behaviour was counted" in " ".join(found.warnings)
    html = write_rl_report(folder).read_text(encoding="utf-8")
    assert '<section id="behaviour"' not in html and 'id="goodhart-curve"' in html


def _record(folder: Path, **changed: object) -> None:
    path = folder / "run.json"
    whole = {**json.loads(path.read_text(encoding="utf-8")), **changed}
    path.write_text(json.dumps(whole), encoding="utf-8")


def test_a_killed_run_is_shown_as_far_as_it_got(tmp_path: Path) -> None:
    run = load(tmp_path, done=23)
    assert run.curve is not None and [point.step for point in run.curve.points] == [0, 10, 20]
    assert run.curve.points[-1].score.value == pytest.approx(change(run, "score").value)
    behaviour = run.curve.points[-1].behaviour
    assert behaviour.value == pytest.approx(change(run, "wanted").value)
    assert "after 23 of 50 steps" in " ".join(rl_verdict(run).warnings)
    assert "Last, step 20" in text_of(changes_html(run))


@pytest.mark.parametrize("trained", [0, 4])
def test_a_run_without_an_evaluation_says_so(tmp_path: Path, trained: int) -> None:
    folder = write_rl(tmp_path / "run", MadeRL(done=trained))
    for name in ("evaluations.jsonl", "samples.jsonl"):
        (folder / name).unlink()
    html = write_rl_report(folder).read_text(encoding="utf-8")
    assert "There is no evaluation yet" in html
    assert ('id="health-steps"' in html) is (trained > 0) is ('id="score-steps"' in html)
    assert '<section id="changes"' not in html


def test_one_evaluation_compares_nothing(tmp_path: Path) -> None:
    html = page(tmp_path, done=4)
    assert "There is only the evaluation after 0 steps" in html
    assert 'id="score-distributions"' in html and '<section id="changes"' not in html


def test_rows_cut_by_a_kill_are_left_out(tmp_path: Path) -> None:
    folder = write_rl(tmp_path / "run", MadeRL(done=20))
    whole = load_rl(folder)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"step": 21, "sco')
    with (folder / "evaluations.jsonl").open("a", encoding="utf-8") as handle:
        # Its samples were never written.
        row = lines(folder / "evaluations.jsonl")[-1]
        handle.write(json.dumps({**row, "step": 30}) + "\n")
    run = load_rl(folder)
    assert len(run.steps) == 20 and [item.step for item in run.evaluations] == [0, 10, 20]
    assert run.evaluations == whole.evaluations


def test_a_curve_that_the_run_has_gone_past_is_not_used(tmp_path: Path) -> None:
    folder = write_rl(tmp_path / "run", MadeRL())
    value = json.loads((folder / "goodhart.json").read_text(encoding="utf-8"))
    value["points"], value["verdict"] = value["points"][:3], "score fell"
    (folder / "goodhart.json").write_text(json.dumps(value), encoding="utf-8")
    run = load_rl(folder)
    assert run.curve is not None and run.curve.verdict == "behaviour followed"
    assert run.curve.points[-1].step == 50


def _text(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        path = run / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return apply


BREAKS = {
    "no run.json": (lambda run: (run / "run.json").unlink(), "has no run.json"),
    "cut json": (_text("run.json", lambda text: text[:300]), "run.json:1: not JSON"),
    "list": (_text("run.json", lambda text: "[]"), "got a list, expected an object"),
    "a fit": (lambda run: _record(run, command="fit"), "is of the command 'fit', expected 'rl'"),
    "settings": (lambda run: _record(run, settings=3), "wrong type"),
    "cut in the middle": (_text("metrics.jsonl", lambda text: text.replace('"step"', "}", 1)),
                          "metrics.jsonl:1: not a training step row"),
    "no key": (_text("samples.jsonl", lambda text: text.replace('"prompt_id"', '"name"', 1)),
               "samples.jsonl:1: key 'prompt_id' is missing"),
    "no part": (_text("evaluations.jsonl", lambda text: text.replace('"all"', '"some"', 1)),
                "not a held-out evaluation row"),
    "lost samples": (_text("samples.jsonl", lambda text: text[text.index('{"step": 20'):]),
                     "no rows of the evaluation after step 0"),
    "no verdict": (_text("goodhart.json", lambda text: text.replace('"verdict"', '"word"')),
                   "goodhart.json: key 'verdict' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_bad_directory_gives_one_line_and_no_file(tmp_path: Path, name: str) -> None:
    run = write_rl(tmp_path / "run", MadeRL(prompts=4))
    breaks, message = BREAKS[name]
    breaks(run)
    with pytest.raises(ProbeError) as caught:
        write_rl_report(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_missing_directory_and_existing_report(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="no such directory"):
        write_rl_report(tmp_path / "nothing")
    run = write_rl(tmp_path / "run", MadeRL(prompts=4))
    first = write_rl_report(run).read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        write_rl_report(run)
    assert write_rl_report(run, force=True).read_bytes() == first


# Figures.


def test_behaviour_figure_holds_the_rates(tmp_path: Path) -> None:
    run = load(tmp_path)
    figure = behaviour_figure(run)
    raw = lines(run.path / "evaluations.jsonl")
    parts = ["all", "class=invented", "class=real"]
    # The wanted behaviour is the category hedges here: one line, not two on top of each other.
    assert named(figure, "hedges") == []
    for name, key in (("hedges (wanted)", "wanted"), ("answers", "rate:answers")):
        for trace, part in zip(named(figure, name), parts, strict=True):
            assert list(trace.x) == [0, 10, 20, 30, 40, 50]
            assert list(trace.y) == [row["evaluation"][part][key]["value"] for row in raw]
    band = named(figure, "hedges (wanted) interval")[0]
    assert max(band.y) == max(row["evaluation"]["all"]["wanted"]["high"] for row in raw)
    assert "n = 32 held-out prompts" in figure.layout.title.text
    assert "<b>Class: invented (n = 16)</b>" in {note.text for note in figure.layout.annotations}


def test_a_behaviour_of_several_categories_has_a_line_of_its_own(tmp_path: Path) -> None:
    run = load(tmp_path, behaviour="invented: hedges,refuses; real: answers")
    figure = behaviour_figure(run)
    assert len(named(figure, "wanted behaviour")) == len(named(figure, "hedges")) == 3
    assert "invented: hedges,refuses; real: answers" in " ".join(rl_verdict(run).points)


def test_score_figure_holds_target_steps_and_refits(tmp_path: Path) -> None:
    run = load(tmp_path, **REFITS)
    figure = score_figure(run)
    raw = lines(run.path / "evaluations.jsonl")
    score, distance = named(figure, "held-out prompts")
    assert list(score.y) == [row["evaluation"]["all"]["score"]["value"] for row in raw]
    assert list(distance.y) == [
        row["evaluation"]["all"]["distance_to_chosen"]["value"] for row in raw
    ]
    (first,) = named(figure, "under the first heads")
    assert list(first.y) == [row["evaluation"]["all"]["score_first"]["value"] for row in raw]
    thin = named(figure, "training steps")[0]
    assert list(thin.y) == [row["score"] for row in lines(run.path / "metrics.jsonl")]
    chosen = json.loads((run.path / "run.json").read_text())["target"]["chosen"][""]
    (level,) = [trace for trace in figure.data if "mean of the chosen" in (trace.name or "")]
    assert level.y[0] == pytest.approx(np.mean(chosen))
    assert sorted({shape.x0 for shape in figure.layout.shapes}) == [19.5, 39.5]


def test_independent_figure_is_in_own_deviations(tmp_path: Path) -> None:
    run = load(tmp_path)
    figure = independent_figure(run)
    before, after = (column(run, step, lambda row: row["disjoint"]) for step in (0, 50))
    (line,) = named(figure, "Disjoint head")
    assert line.y[0] == 0 and line.y[-1] == pytest.approx((after - before).mean() / before.std())
    assert len([trace for trace in figure.data if (trace.name or "").startswith("Head ridge") and
                "interval" not in trace.name]) == 3  # fmt: skip


def test_goodhart_figure_marks_the_sweet_spot(tmp_path: Path) -> None:
    run = load(tmp_path)
    value = json.loads((run.path / "goodhart.json").read_text())
    curve = Curve(run.curve.points, 30, "score only", [])
    figure = goodhart_figure(run, curve)
    at = {point["step"]: point["root_kl"] for point in value["points"]}
    assert {shape.x0 for shape in figure.layout.shapes} == {at[30]}
    (score,), (behaviour,) = named(figure, "Optimised score"), named(figure, "Wanted behaviour")
    assert list(score.x) == list(at.values())
    assert list(score.y) == [point["score"]["value"] for point in value["points"]]
    assert list(behaviour.y) == [
        pytest.approx(100 * point["behaviour"]["value"]) for point in value["points"]
    ]
    last = value["points"][-1]["score"]
    assert score.error_y.array[-1] == pytest.approx(last["high"] - last["value"])


def test_distributions_hold_before_after_and_target(tmp_path: Path) -> None:
    run = load(tmp_path)
    record = json.loads((run.path / "run.json").read_text())
    before, after, target = histograms(run, "class=real")
    assert target.values.tolist() == record["target"]["chosen"]["real"]
    real = column(run, 0, lambda row: row["tags"]["class"] == "real").astype(bool)
    assert before.values.tolist() == column(run, 0, lambda row: row["score"])[real].tolist()
    assert after.values.tolist() == column(run, 50, lambda row: row["score"])[real].tolist()
    figure = scores_figure(run)
    for trace in figure.data:
        assert sum(trace.y[2:-1]) == pytest.approx(1.0)


def test_health_figure_marks_alarms_and_refits(tmp_path: Path) -> None:
    run = load(tmp_path, **REFITS)
    figure = health_figure(run)
    raw = lines(run.path / "evaluations.jsonl")
    keys = ["entropy", "kl", "n_tokens", "finished", "distinct_2", "mahalanobis", "drift"]
    for trace, key in zip(named(figure, "held-out prompts"), keys, strict=True):
        assert list(trace.y) == [row["evaluation"]["all"][key]["value"] for row in raw]
    assert {tuple(trace.x) for trace in named(figure, "alarm")} == {(12, 13, 14, 31, 44)}
    said = text_of(alarms_html(run))
    assert "Every group's rewards are equal: nothing is learnt from this step 4 12–14, 31" in said
    assert "20 128 14 0.910 0.870" in said
    assert "No alarm was raised in 50" in alarms_html(load(tmp_path / "quiet"))


def test_alarms_of_evaluations_and_changing_numbers(tmp_path: Path) -> None:
    worded = {
        step: f"entropy is at {60 - step}% of the start: the policy collapses"
        for step in (30, 31, 33)
    }
    folder = write_rl(tmp_path / "run", MadeRL(alarms=worded))
    path = folder / "evaluations.jsonl"
    rows = lines(path)
    rows[-1]["alarms"] = ["activations are 3.2 times as far from the head's data as its own rows"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = load_rl(folder)
    said = text_of(alarms_html(run))
    assert "Entropy is at 27% of the start: the policy collapses 3 30–31, 33" in said
    assert "Activations are 3.2 times as far from the head's data as its own rows 1 50" in said
    assert {tuple(t.x) for t in named(health_figure(run), "alarm")} == {(30, 31, 33, 50)}


# Words.


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, "Behaviour followed the score"),
        (dict(follow=0.0), "Only the score rose"),
        (dict(score=0.0), "Only the behaviour moved"),
        (dict(score=0.0, follow=0.0), "Nothing moved"),
        (dict(score=-2.0, follow=0.0), "The score fell"),
    ],
)
def test_verdicts(tmp_path: Path, made: dict, said: str) -> None:
    run = load(tmp_path, **made)
    found = rl_verdict(run)
    assert found.headline.startswith(said)
    points = " ".join(found.points)
    assert changed_text("score", change(run, "score")) in points
    assert f"√KL from the frozen model is {run.last.root_kl:.2f}" in points
    assert "times that at the start" in points and "50 of 50 steps" in points


def test_warnings(tmp_path: Path) -> None:
    run = load(tmp_path, prompts=8, **REFITS)
    said = " ".join(rl_verdict(run).warnings)
    assert "Only 8 held-out prompts" in said
    assert "Alarms at 5 steps (12–14, 31, 44)" in said
    assert "fitted again at step 20, 40" in said


def test_formats() -> None:
    assert head_name("ridge/resid_post/020/mean") == "ridge, resid_post layer 20, mean"
    assert head_name("something else") == "something else"
    assert ranges([3, 1, 2, 7]) == "1–3, 7"
    assert ranges(range(5, 20)) == "5–19"
    assert ranges([5, 9, 13, 17]) == "5, 9, 13, 17"
    assert ranges(range(237, 4, -4)) == "5, 9, …, 237"
    assert changed_text("wanted", Metric(0.25, 0.1, 0.4)) == "+25 points [+10, +40]"
    assert changed_text("kl", Metric(math.nan)) == "–"


def test_completions_are_drawn_with_the_seed(tmp_path: Path) -> None:
    run = load(tmp_path, seed=4)
    prompts = drawn_prompts(run)
    order = np.random.default_rng(4).permutation(32)[:10]
    assert prompts == [f"p{index:02}" for index in order]
    html = completions_html(run)
    assert "drawn at random with seed 4" in html and html.count("<tbody>") == 10
    for row in lines(run.path / "samples.jsonl"):
        if row["prompt_id"] == prompts[0] and row["step"] in (0, 50):
            assert row["text"] in html and f"score {row['score']:.2f}".replace("-", "−") in html


def test_definitions_name_what_is_measured(tmp_path: Path) -> None:
    said = text_of(definitions_html(load(tmp_path)))
    for words in ("Mahalanobis distance", "1-Wasserstein", "One run with one seed", "Rates of"):
        assert words in said


# Several runs.


def test_compare_holds_every_run(tmp_path: Path) -> None:
    a = write_rl(tmp_path / "a" / "run", MadeRL())
    b = write_rl(tmp_path / "b" / "run", MadeRL(follow=0.0, seed=3))
    c = write_rl(tmp_path / "c", MadeRL(done=0))
    runs = load_runs(a, [b, c])
    assert [run.name for run in runs] == ["a/run", "b/run", "c"]
    for against_kl in (False, True):
        figure = compare_figure(runs, against_kl=against_kl)
        for run in runs[:2]:
            wanted, score, entropy = named(figure, run.name)
            steps = [item.root_kl if against_kl else item.step for item in run.evaluations]
            assert list(wanted.x) == list(score.x) == steps
            assert list(wanted.y) == [item.value("wanted").value for item in run.evaluations]
            assert list(score.y) == [item.value("score").value for item in run.evaluations]
            assert entropy.y[0] == 1.0
            last = ratio(run, "entropy", step=50).value
            assert entropy.y[-1] == pytest.approx(last)
            assert (wanted.error_y.array is not None) is against_kl
    said = text_of(compare_tables(runs))
    for run in runs[:2]:
        assert f"{run.name} 50 of 50" in said
        assert changed_text("score", change(run, "score")) in said
    assert "c 0 of 50 – – –" in said
    html = write_rl_report(a, compare=[b, c]).read_text(encoding="utf-8")
    assert html.index('<section id="compare"') < html.index('<section id="behaviour"')
    assert "Without an evaluation, so not drawn: c." in html


def test_other_heads_are_compared_in_deviations(tmp_path: Path) -> None:
    a, b = (write_rl(tmp_path / name, MadeRL(prompts=6)) for name in "ab")
    _record(b, probes=["another-sweep"])
    runs = load_runs(a, [b])
    assert not same_score(runs)
    figure = compare_figure(runs, against_kl=False)
    assert named(figure, "b")[1].y[-1] == pytest.approx(
        scaled_change(runs[1], "score", step=50).value
    )


def test_runs_that_can_not_be_compared(tmp_path: Path) -> None:
    a = write_rl(tmp_path / "a", MadeRL(prompts=4))
    with pytest.raises(ProbeError, match="given twice"):
        write_rl_report(a, compare=[tmp_path / "a" / ".." / "a"])
    with pytest.raises(ProbeError, match="no such directory"):
        write_rl_report(a, compare=[tmp_path / "b"])
    with pytest.raises(ProbeError, match="9 runs: are too many"):
        write_rl_report(a, compare=[tmp_path / str(index) for index in range(8)])
    assert not (a / "report.html").exists()


def test_the_command_draws_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = (write_rl(tmp_path / name, MadeRL(prompts=4)) for name in "ab")
    assert command("report", a) == 0
    assert capsys.readouterr().out.strip() == str(a / "report.html")
    assert '<section id="compare"' not in (a / "report.html").read_text(encoding="utf-8")
    assert command("report", a, "--with", b, "--out", tmp_path / "both.html", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "both.html")}
    assert '<section id="compare"' in (tmp_path / "both.html").read_text(encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert command("report", empty) == 1
    assert "holds none of study.json, steer.json, sweep.json" in capsys.readouterr().err
    _record(b, command="fit")
    assert command("report", b) == 1
    assert "has no sweep.json" in capsys.readouterr().err
    assert command("report", b, "--with", a) == 2


# The page.


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    html = page(tmp_path, text=HOSTILE, prompts=6)
    outside = html.split("<body>")[1]
    assert "<script>document" not in outside and "<img" not in outside
    assert "document.title='owned'" in text_of(outside)
    assert html.count("<script") == html.count("</script>")
    assert "&amp;lt;script" not in outside


def test_page_can_be_heard_and_ids_are_unique(tmp_path: Path) -> None:
    found: list[tuple[str, dict]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))  # type: ignore
    html = page(tmp_path, **REFITS)
    parser.feed(html)
    ids = [attrs["id"] for _, attrs in found if "id" in attrs]
    assert len(ids) == len(set(ids))
    tags = [tag for tag, _ in found]
    assert tags.count("figcaption") == tags.count("figure") == 6
    assert tags.count("caption") == tags.count("table")
    assert all(attrs.get("aria-label") for tag, attrs in found if attrs.get("class") == "plot")
    assert all(attrs.get("scope") for tag, attrs in found if tag == "th")
    order = [html.index(f'<section id="{name}"') for name in ("behaviour", "score", "goodhart",
             "scores", "health", "changes", "texts", "method", "provenance")]  # fmt: skip
    assert order == sorted(order)


CASES = {
    "refits": (MadeRL(**REFITS), 1280),
    "two-tags": (MadeRL(tags={"class": ("real", "invented"), "lang": ("en", "de", "fr")}), 900),
    "killed": (MadeRL(done=7), 1280),
    "hostile": (MadeRL(text=HOSTILE, prompts=8), 900),
}


@pytest.mark.browser
@pytest.mark.parametrize("name", CASES)
def test_every_figure_is_drawn(name: str, tmp_path: Path) -> None:
    chromium()
    made, width = CASES[name]
    run = write_rl(tmp_path / "run", made)
    others = [write_rl(tmp_path / "run-hack", MadeRL(follow=0.0, seed=3))] if width == 900 else []
    report = write_rl_report(run, compare=others)
    seen = open_report(report, tmp_path, width=width)
    found = seen.found
    assert found["problems"] == [] and seen.console == [] and found["resources"] == []
    assert found["title"] != "owned"
    assert len(found["figures"]) == report.read_text(encoding="utf-8").count("<figure>")
    assert found["scroll"] <= found["inner"]
    for figure in found["figures"]:
        _check_drawn(figure, figure["width"])
    for figure in found["printed"]:
        assert figure["svgWidth"] <= 680
        _check_drawn(figure, figure["svgWidth"])


def _check_drawn(figure: dict, width: float) -> None:
    assert figure["svgs"] >= 2, figure["id"]
    assert collisions(figure["texts"]) == [], figure["id"]
    for text, left, top, right, bottom in figure["texts"]:
        assert left >= -1 and top >= -1 and bottom <= figure["height"] + 1, (figure["id"], text)
        assert right <= width + 1, (figure["id"], text)
