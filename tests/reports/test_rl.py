"""The report of an RL run: its page, its frames against the files, and one line for what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from probekit import open_run
from probekit.cli.rl_output import finish
from probekit.container import write_json
from probekit.errors import ProbeError
from probekit.parsing import read_json
from probekit.reports import write_rl_report
from probekit.reports.formats import spanned
from probekit.reports.page import said
from probekit.reports.rl import outcomes, rl_headline, shown_risen
from probekit.results import goodhart
from probekit.results.diversity import TEXTS
from probekit.results.intervals import Interval
from probekit.results.outcomes import OUTCOMES
from probekit.results.rl import RLRun
from tests.cli.test_cli import run as command
from tests.reports.rl_factory import ALARMS, MadeRL, write_rl
from tests.reports.words import edited, figures_of, jsonl, plain, write_lines

REFITS = {"refits": (20, 40), "alarms": ALARMS}
HEALTH = ("entropy", "kl", "n_tokens", "finished", "distinct_2", *TEXTS, "mahalanobis", "drift")


def opened(folder: Path, **made: object) -> tuple[RLRun, list[dict], list[dict]]:
    """Return a made-up run, its evaluations, and its completions sorted by prompt and step."""
    path = write_rl(folder / "run", MadeRL(**made))  # type: ignore[arg-type]
    rows = sorted(jsonl(path / "samples.jsonl"), key=lambda row: (row["prompt_id"], row["step"]))
    return open_run(path), jsonl(path / "evaluations.jsonl"), rows


def page(run: RLRun, **how: object) -> tuple[str, dict]:
    """Return the text of a run's page and its figures by their ids."""
    path = write_rl_report(run.directory, force=True, **how)
    return plain(path), figures_of(path)


def named(figure: dict, name: str) -> list[dict]:
    return [trace for trace in figure["data"] if trace.get("name") == name]


def at(rows: list[dict], step: int, key: str) -> np.ndarray:
    return np.array([row[key] for row in rows if row["step"] == step], dtype=float)


# Frames.


def test_frames_are_the_files_numbers(tmp_path: Path) -> None:
    run, evaluations, rows = opened(tmp_path, samples=2, **REFITS)
    assert len(run.rows) == len(rows) == 6 * 64 and run.evaluated == [0, 10, 20, 30, 40, 50]
    part = evaluations[2]["evaluation"]["class=real"]["rate:hedges"]
    keys = {"step": 20, "part": "class=real", "measure": "rate:hedges"}
    [found] = run.metrics.query(" and ".join(f"{k} == {v!r}" for k, v in keys.items())).itertuples()
    assert (found.value, found.low, found.high) == (part["value"], part["low"], part["high"])
    assert run.level("rate:hedges", "class=real", 20) == Interval(**part)
    assert run.rows["tag:class"][1] == "real" and run.rows["sample"][:2].tolist() == [0, 1]
    assert run.steps["grad_norm"][3] == 0.4, "what no reader declares is kept"
    written = json.loads((run.directory / "run.json").read_text())
    assert written.pop("checksum") and run.record == written
    assert run.curve.to_json() == read_json(run.directory / goodhart.CURVE, ProbeError, "")


@pytest.mark.parametrize("samples", [1, 3])
def test_changes_are_paired_and_drawn_over_prompts(tmp_path: Path, samples: int) -> None:
    run, _, rows = opened(tmp_path, samples=samples)
    gap = at(rows, 50, "score") - at(rows, 0, "score")
    found = run.change("score")
    assert found.value == pytest.approx(gap.mean(), abs=1e-12)
    # By hand: draw prompts, not completions. Percentiles of 4,000 draws scatter by about 4 % of the
    # half-width.
    each = gap.reshape(32, samples).mean(axis=1)
    drawn = each[np.random.default_rng(7).integers(0, 32, (4000, 32))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert abs(found.low - low) < 0.12 * (high - low) > abs(found.high - high)
    entropy = [at(rows, step, "entropy").mean() for step in (0, 20)]
    assert run.ratio("entropy", at=20).value == pytest.approx(entropy[1] / entropy[0])


def test_parts_their_difference_and_the_last_third(tmp_path: Path) -> None:
    run, _, rows = opened(tmp_path)
    real = np.array([row["tags"]["class"] == "real" for row in rows if row["step"] == 0])
    kinds = np.array([row["category"] in ("hedges", "refuses") for row in rows]).reshape(32, 6)
    late = kinds[:, [4, 5]].mean(axis=1)
    name = "rate:hedges,refuses"
    assert run.level(name, "class=real", "late").value == pytest.approx(late[real].mean())
    gaps = late - kinds[:, 0]
    apart = run.change(name, ("class=invented", "class=real"), "late")
    assert apart.value == pytest.approx(gaps[~real].mean() - gaps[real].mean())
    assert run.prompts("class=real") == 16 and apart.has_interval
    assert not run.change("distance_to_chosen").has_interval


# The page.


def test_tables_hold_first_last_and_change_of_every_part(tmp_path: Path) -> None:
    run, evaluations, _ = opened(tmp_path, **REFITS)
    text = page(run)[0].split("n in held-out prompts")[1]
    for name, label in (("wanted", "Wanted behaviour"), ("score", "Optimised score score units")):
        unit = "share" if name == "wanted" else ""
        cells = text[text.index(f"| {label} |") :].splitlines()
        for line, evaluation in zip(cells[:2], (evaluations[0], evaluations[-1]), strict=True):
            ends = [Interval(**evaluation["evaluation"][part][name]) for part in run.parts]
            assert line.endswith(" | ".join(spanned(e, unit).replace("\u00a0", " ") for e in ends))
        assert spanned(run.change(name, "class=real"), unit, sign=True) in cells[2]
    assert "All prompts, n = 32 | Class: invented, n = 16 | Class: real, n = 16" in text
    assert "| Head ridge, resid_post layer 20" not in text, "the one optimised head is the score"


def test_figures_hold_the_evaluations_and_the_steps(tmp_path: Path) -> None:
    run, raw, rows = opened(tmp_path, **REFITS)
    figures = page(run)[1]

    def recorded(name: str, part: str = "all") -> list[float]:
        return [row["evaluation"][part][name]["value"] for row in raw]

    # The wanted behaviour is the category hedges here: one line, not two on top of each other.
    behaviour = figures["behaviour-steps"]
    assert named(behaviour, "hedges") == []
    for name, key in (("hedges (wanted)", "wanted"), ("answers", "rate:answers")):
        for trace, part in zip(named(behaviour, name), run.parts, strict=True):
            assert trace["y"] == recorded(key, part) and trace["x"] == run.evaluated
    score, distance = named(figures["score-steps"], "held-out prompts")
    assert (score["y"], distance["y"]) == (recorded("score"), recorded("distance_to_chosen"))
    [real] = named(figures["score-steps"], "Class: real")
    assert real["y"] == recorded("distance_to_chosen", "class=real")
    trained = named(figures["score-steps"], "training steps")
    for trace, name in zip(trained, ("score", "distance_to_chosen"), strict=True):
        assert trace["y"] == [row[name] for row in jsonl(run.directory / "metrics.jsonl")]
    marks = {s["x0"] for s in figures["score-steps"]["layout"]["shapes"] if s["type"] == "line"}
    assert marks == {19.5, 39.5}
    [line] = named(figures["independent-steps"], "Disjoint head")
    before, after = at(rows, 0, "disjoint"), at(rows, 50, "disjoint")
    assert line["y"][-1] == pytest.approx((after - before).mean() / before.std())
    curve = run.curve.to_json()["points"]
    trace = named(figures["goodhart-curve"], "training")[-1]  # the last panel
    assert trace["x"] == [point["root_kl"] for point in curve]
    assert trace["y"] == pytest.approx([100 * point["behaviour"]["value"] for point in curve])
    for trace, key in zip(named(figures["health-steps"], "held-out prompts"), HEALTH, strict=True):
        assert trace["y"] == recorded(key)
    shapes = figures["health-steps"]["layout"]["shapes"]
    shades = {(s["x0"], s["x1"]) for s in shapes if "fillcolor" in s}
    assert shades == {(11.5, 13.5), (30.5, 31.5), (43.5, 44.5)}
    for trace in figures["score-distributions"]["data"]:
        assert sum(trace["y"][2:-1:2]) == pytest.approx(1.0)


def test_alarms_refits_examples_and_settings_stand_in_words(tmp_path: Path) -> None:
    run, _, rows = opened(tmp_path, seed=4, **REFITS)
    text = page(run)[0]
    assert "| Entropy is at 30% of the start | 2 | 31, 44" in text, "alarms that differ in a number"
    assert "| 20 | 128 | 14 | 0.910 | 0.870" in text
    for index in np.random.default_rng(4).permutation(32)[:10]:
        for row in rows:
            if row["prompt_id"] == f"p{index:02}" and row["step"] in (0, 50):
                assert row["text"] in text
    for row in ("Steps | 50", "Further | none", "Clip | none", "Full weights | no"):
        assert f"| {row}" in text


def test_many_refits_are_named_and_not_drawn(tmp_path: Path) -> None:
    text, figures = page(opened(tmp_path, steps=60, refits=tuple(range(4, 61, 4)))[0])
    assert "Heads were fitted again at steps 4, 8, …, 60." in text
    assert figures["score-steps"]["layout"].get("shapes", []) == []


@pytest.mark.parametrize(
    ("made", "key", "warnings"),
    [
        ({}, goodhart.FOLLOWED, []),
        ({"follow": 0.0}, goodhart.SCORE_ONLY, []),
        ({"follow": 0.0, "prompts": 8}, goodhart.UNDECIDED, ["few prompts"]),
        ({"score": 0.0, "entropy": -1.0}, goodhart.BEHAVIOUR_ONLY, ["entropy"]),
        ({"score": 0.0, "follow": 0.0}, goodhart.NOTHING, []),
        ({"score": -2.0, "follow": 0.0, "done": 23}, goodhart.SCORE_FELL, ["unfinished"]),
        ({"categories": (), "tags": {}, **REFITS}, goodhart.UNKNOWN, ["no behaviour", "refits", "alarms"]),
    ],
)  # fmt: skip
def test_verdicts_and_warnings_are_keys_with_words(
    tmp_path: Path, made: dict, key: str, warnings: list[str]
) -> None:
    run = opened(tmp_path, **made)[0]
    assert (run.curve.verdict, run.warnings) == (key, warnings)
    text = page(run)[0]
    assert rl_headline(key) in text
    for word in warnings:
        said = {"unfinished": "stopped, or still runs, after 23 of 50", "few prompts": "Only 8 held",
                "refits": "step 20, 40", "alarms": "Alarms at 4 steps (12–13, 31, 44)"}  # fmt: skip
        assert said.get(word, "") in text


def test_each_class_has_its_verdict_on_the_page_and_in_the_closing_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {"real": (0.9, 0.2), "invented": (0.1, 0.8)}
    behaviour = "class=real: hedges; class=invented: hedges"
    run = opened(tmp_path, prompts=80, hedging=rates, behaviour=behaviour)[0]
    text = page(run)[0]
    assert run.curve.verdict == goodhart.TRADED
    assert "Class: real: −" in text and f"; {goodhart.REVERSED}." in text
    assert "The smallest effect that counts is 15" in text and "What can be detected" in text
    finish(run.directory, as_json=False)
    out = capsys.readouterr().out
    assert f"class    class=invented: {goodhart.FOLLOWED}; " in out
    with edited(run.directory / goodhart.CURVE) as old:
        del old["by_class"], old["smallest_effect"]
    finish(run.directory, as_json=False)
    assert "verdict  " in capsys.readouterr().out


def test_every_verdict_has_a_sentence() -> None:
    keys = [value for name, value in vars(goodhart).items() if name.isupper() and name != "CURVE"]
    sentences = [rl_headline(key) for key in keys if isinstance(key, str)]
    assert len(set(sentences)) == len(sentences) == 13


@pytest.mark.parametrize(("done", "figures"), [(0, 0), (4, 4), (20, 7)])
def test_a_killed_run_is_shown_as_far_as_it_got(tmp_path: Path, done: int, figures: int) -> None:
    run = opened(tmp_path, done=done)[0]
    with (run.directory / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"step": 21, "sco')
    text, drawn = page(run)
    assert len(drawn) == figures
    said = {0: "There is no evaluation yet", 4: "only the evaluation after 0 steps", 20: "20 of 50"}
    assert said[done] in text and ("Before and after" in text) is (done == 20)


def test_runs_are_compared_in_one_unit(tmp_path: Path) -> None:
    a, b = (write_rl(tmp_path / name, MadeRL(prompts=6, seed=i)) for i, name in enumerate("ab"))
    record = b / "run.json"
    write_json(record, json.loads(record.read_text().replace('"sweep"', '"another-sweep"')))
    figures = page(open_run(a), compare=[b])[1]
    run = open_run(b)
    scaled = (run.wide("score")["last"] - run.wide("score")["first"]).mean()
    scaled /= run.wide("score")["first"].std(ddof=0)
    for name in ("compare-steps", "compare-kl"):
        wanted, score, entropy = named(figures[name], "b")
        assert wanted["y"] == [run.level("wanted", at=step).value for step in run.evaluated]
        assert score["y"][-1] == pytest.approx(scaled)
        assert entropy["y"][-1] == pytest.approx(run.ratio("entropy").value)
    with pytest.raises(ProbeError, match="given twice"):
        write_rl_report(a, compare=[tmp_path / "a" / ".." / "a"])
    with pytest.raises(ProbeError, match="got 9, expected 8"):
        write_rl_report(a, compare=[tmp_path / str(index) for index in range(8)])


def test_the_command_draws_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = (write_rl(tmp_path / name, MadeRL(prompts=4)) for name in "ab")
    assert command("report", a, "--with", b, "--out", tmp_path / "both.html", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "both.html")}
    assert 'id="compare-kl"' in (tmp_path / "both.html").read_text(encoding="utf-8")


def test_diversity_is_recorded_at_every_evaluation_and_its_change_is_paired(tmp_path: Path) -> None:
    """Old runs have the measures of texts too: they are read from the completions."""
    run, raw, rows = opened(tmp_path, samples=2)
    for part in run.parts:
        for name in TEXTS:
            own = [row for row in rows if part in ("all", f"class={row['tags']['class']}")]
            sides = [[row for row in own if row["step"] == step] for step in (0, 50)]
            groups = [row["prompt_id"] for row in sides[0]]
            first, last = (TEXTS[name](groups, [row["text"] for row in side]) for side in sides)
            recorded = [row["evaluation"][part][name] for row in (raw[0], raw[-1])]
            ends = [run.level(name, part, "first"), run.level(name, part)]
            assert [Interval(**one) for one in recorded] == ends
            assert ends == [first.interval(), last.interval()]
            assert run.change(name, part) == last.interval(first)
    late = []
    for step in (40, 50):
        side = [(row["prompt_id"], row["text"]) for row in rows if row["step"] == step]
        late.append(TEXTS["alike"](*zip(*side, strict=True)).value)
    assert run.level("alike", at="late").value == pytest.approx(np.mean(late))
    for evaluation in raw:
        for measures in evaluation["evaluation"].values():
            for name in TEXTS:
                del measures[name]
    write_lines(run.directory / "evaluations.jsonl", raw)
    old = open_run(run.directory)
    assert old.measures == run.measures
    assert old.level("opening", "class=real", 20) == run.level("opening", "class=real", 20)


def test_where_the_score_moved_is_drawn_and_said(tmp_path: Path) -> None:
    run, _, rows = opened(tmp_path, samples=2, follow=0.0)
    text, figures = page(run)
    assert shown_risen(run) == ["policy"]
    assert "Obfuscated policy +" in text and "the texts fool the head" in text
    assert f"A reading passes from {run.threshold.value:.2f} on, the mean score at the fir" in text
    text = page(opened(tmp_path / "other", samples=2)[0])[0]
    assert "Honest +" in text and "show the wanted behaviour more often" in text
    for name in outcomes(run):
        label = {"policy": "Obfuscated policy", "activations": "Obfuscated activations"}
        name = name.partition(":")[2]
        own = named(figures["outcomes-steps"], label.get(name, name.capitalize()))
        assert [trace["y"] for trace in own] == [
            [run.level(f"outcome:{name}", part, step).value for step in run.evaluated]
            for part in run.parts
        ]
    for key in OUTCOMES:
        assert len(said("rl_words.html.j2", "moved", run, [key])) > 100
    assert "No outcome is shown" in said("rl_words.html.j2", "moved", run, [])
    bare = page(opened(tmp_path / "bare", categories=(), tags={})[0])
    assert "outcomes-steps" not in bare[1] and "Obfuscated" not in bare[0]


def test_the_sweet_spot_is_said_with_its_honest_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened(tmp_path, follow=0.0, seed=2)[0]
    kept, text = run.curve.kept, page(run)[0]
    assert f"chosen among {len(run.evaluated)} evaluations" in text
    assert spanned(kept.honest, "share", sign=True).replace("\u00a0", " ") in text
    finish(run.directory, as_json=False)
    line = f"kept     step {run.curve.sweet_spot}, chosen among 6 evaluations: wanted behaviour "
    assert line + spanned(kept.honest, "share", sign=True) in capsys.readouterr().out


def test_one_opening_is_a_warning(tmp_path: Path) -> None:
    run, _, rows = opened(tmp_path)
    for row in rows:
        row["text"] = f"I am not sure about {row['prompt_id']}." if row["step"] else row["text"]
    write_lines(run.directory / "samples.jsonl", rows)
    evaluations = run.directory / "evaluations.jsonl"
    for name in TEXTS:
        evaluations.write_text(evaluations.read_text().replace(f'"{name}"', f'"{name}_"'))
    run = open_run(run.directory)
    assert "opening" in run.warnings and run.level("opening").value == 1.0
    text = page(run)[0]
    assert re.search(r"100 % \[\d\d, 100\] of completions begin .* words, \+97 points", text)


def test_two_policies_are_compared_on_the_completions_that_both_have(tmp_path: Path) -> None:
    made = {"much": MadeRL(follow=0.7, prompts=40), "little": MadeRL(follow=0.1, prompts=40)}
    runs = much, little = [RLRun.open(write_rl(tmp_path / n, one)) for n, one in made.items()]
    last = [run.rows[run.rows["step"] == run.evaluated[-1]] for run in runs]
    sides = [rows.set_index(["prompt_id", "sample"])["wanted"].astype(float) for rows in last]
    gap = much.against(little, "wanted")
    assert gap.value == pytest.approx((sides[0] - sides[1]).mean()) and gap.side() > 0
    back = little.against(much, "wanted")
    assert (back.value, back.low) == (pytest.approx(-gap.value), pytest.approx(-gap.high))
    assert "each run minus that of much" in page(much, compare=[little.directory])[0]
    assert much.against(much, "score").value == 0
