"""The report of a steering run: what is read, what figures and tables hold, and what it says."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from probekit.errors import OutputError, ProbeError
from probekit.reports import load_steer, write_steer_report
from probekit.reports.rows import Metric
from probekit.reports.steer_axis import dose_axis, dose_ticks, measure_axis, unusable_bands
from probekit.reports.steer_dose import dose_figure, dose_figures
from probekit.reports.steer_examples import columns, examples_html, first_samples, shown_prompts
from probekit.reports.steer_frontier import frontier, frontier_figure
from probekit.reports.steer_layers import layer_changes, layers_figure
from probekit.reports.steer_method import method_html
from probekit.reports.steer_rerank import rerank_figure, rerank_table
from probekit.reports.steer_rows import Change, Steer
from probekit.reports.steer_tables import judge_table, slopes_table, summary_table
from probekit.reports.steer_traces import ABLATED, EACH, RANGE, STEERED
from probekit.reports.steer_verdict import steer_verdict
from probekit.reports.steer_words import (
    against_controls,
    change_text,
    coeff_text,
    digits_for,
    p_text,
    signed,
    value_text,
    wrapped,
)
from tests.reports.browser import chromium, collisions, open_report
from tests.reports.steer_factory import MadeSteer, make_steer, write_steer
from tests.reports.words import HOSTILE

BARE = dict(behaviours={}, rerank=False, judge=False, reference=False, layers=0, ablation=False)
SMALL = MadeSteer(prompts=4, samples=1, layers=3, random=2)


def load(tmp_path: Path, **made: object) -> Steer:
    return load_steer(write_steer(tmp_path / "run", MadeSteer(**made)))


def page(tmp_path: Path, **made: object) -> str:
    report = write_steer_report(write_steer(tmp_path / "run", MadeSteer(**made)))
    return report.read_text(encoding="utf-8")


def named(figure, name: str) -> list:
    return [trace for trace in figure.data if trace.name == name]


def text_of(html: str) -> str:
    parser, found = HTMLParser(), []
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(html)
    return " ".join(" ".join(found).split())


# What is read.


def test_reads_back_every_number(tmp_path: Path) -> None:
    made = MadeSteer(nulls=True, prompts=4)
    value, rows = make_steer(made)
    steer = load_steer(write_steer(tmp_path / "run", made))
    for item, raw in zip(steer.conditions, value["conditions"], strict=True):
        assert item.coeff == raw["coeff"] or (math.isnan(item.coeff) and raw["coeff"] is None)
        for name, metric in raw["values"].items():
            expected = None if metric is None else metric["value"]
            found = item.value(name).value
            assert found == expected or (math.isnan(found) and expected is None)
    for name, dose in value["doses"].items():
        found = steer.doses[name].metric.value
        assert found == dose["slope"]["value"] or math.isnan(found)
    assert [row.text for row in steer.completions] == [row["text"] for row in rows]
    assert steer.rerank is not None and len(steer.rerank.rows) == 24
    assert steer.controls == [f"random-{i:02}" for i in range(1, 6)]


def test_directions_of_other_layers_are_no_controls(tmp_path: Path) -> None:
    folder = write_steer(tmp_path / "run", SMALL)
    path = folder / "steer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["conditions"].append({**value["conditions"][-1], "direction": "layer-07"})
    path.write_text(json.dumps(value), encoding="utf-8")
    assert load_steer(folder).controls == ["random-01", "random-02"]


def _edit(key: str, value: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = run / "steer.json"
        whole = json.loads(path.read_text(encoding="utf-8"))
        if value is KeyError:
            del whole[key]
        else:
            whole[key] = value
        path.write_text(json.dumps(whole), encoding="utf-8")

    return change


def _text(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        path = run / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return apply


BREAKS = {
    "no steer.json": (lambda run: (run / "steer.json").unlink(), "has no steer.json"),
    "no completions": (lambda run: (run / "completions.jsonl").unlink(), "jsonl: missing"),
    "cut json": (_text("steer.json", lambda text: text[:400]), "steer.json:1: not JSON"),
    "list": (_text("steer.json", lambda text: "[]"), "got a list, expected an object"),
    "a fit": (_edit("format", "probekit.sweep"), "'probekit.sweep', expected 'probekit.steer'"),
    "newer": (_edit("format_version", 2), "version is 2, this probekit reads up to 1. Upgrade"),
    "no version": (_edit("format_version", None), "format_version is None"),
    "not complete": (_edit("complete", False), "did not finish"),
    "no baseline": (_edit("conditions", []), "no condition is unsteered"),
    "missing key": (_edit("measures", KeyError), "key 'measures' is missing"),
    "wrong type": (_edit("conditions", 3), "wrong type"),
    "wrong mode": (_edit("mode", "push"), "mode is 'push', expected add, clamp, ablate"),
    "lost rows": (_text("completions.jsonl", lambda text: text.split("\n", 3)[-1]), "from another"),
    "cut row": (_text("completions.jsonl", lambda text: text[:-40]), "not a completion row"),
    "row without a prompt": (
        _text("completions.jsonl", lambda text: text.replace('"prompt_id"', '"name"', 1)),
        "completions.jsonl:1: key 'prompt_id' is missing",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_bad_directory_gives_one_line_and_no_file(tmp_path: Path, name: str) -> None:
    run = write_steer(tmp_path / "run", SMALL)
    change, message = BREAKS[name]
    change(run)
    with pytest.raises(ProbeError) as caught:
        write_steer_report(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_missing_directory_and_existing_report(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="no such directory"):
        write_steer_report(tmp_path / "nothing")
    run = write_steer(tmp_path / "run", SMALL)
    first = write_steer_report(run).read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        write_steer_report(run)
    assert write_steer_report(run, force=True).read_bytes() == first
    assert write_steer_report(run, out=tmp_path / "a.html").read_bytes() == first


# Figures.


def test_dose_figure_holds_the_curves(tmp_path: Path) -> None:
    made = MadeSteer()
    value, _ = make_steer(made)
    steer = load_steer(write_steer(tmp_path / "run", made))
    figure = dose_figure(steer, steer.grouped("effect"), title="Score")
    raw = {(c["direction"], c["coeff"]): c["values"]["score"] for c in value["conditions"]}
    base = raw["none", 0.0]["value"]
    (line,) = named(figure, STEERED)
    assert list(line.x) == list(made.coeffs)
    expected = [base if not c else raw["probe", c]["value"] for c in made.coeffs]
    assert list(line.y) == expected
    assert [s == "circle" for s in line.marker.symbol] == [c in made.usable for c in made.coeffs]
    (band,) = named(figure, "interval")
    assert max(band.y) == raw["probe", 0.6]["high"] and min(band.y) == raw["probe", -0.6]["low"]
    assert len(named(figure, EACH)) == 5
    for trace in named(figure, EACH):
        assert trace.y[-1] == raw[trace.meta, 0.6]["value"]
        assert trace.y[list(made.coeffs).index(0.0)] == base
    (grey,) = named(figure, RANGE)
    ends = [raw[name, 0.6]["value"] for name in steer.controls]
    assert (max(ends) in grey.y) and (min(ends) in grey.y)
    (ablated,) = named(figure, ABLATED)
    assert ablated.y[0] == raw["probe", None]["value"]
    assert ablated.x[0] > max(made.coeffs)
    assert {t.y[0] for t in figure.data if t.name in ("chosen", "rejected")} == {1.9, -0.6}
    assert "n = 24 prompts × 2 samples" in figure.layout.title.text
    assert figure.layout.xaxis.title.text == "coeff (mean residual norms)"
    assert figure.layout.yaxis.title.text == "Score (log-odds of being preferred)"


def test_doses_that_are_not_usable_are_shaded(tmp_path: Path) -> None:
    steer = load(tmp_path, ablation=False)
    axis = dose_axis(steer, 600)
    bands = unusable_bands(steer, axis)
    assert bands == [(axis.low, -0.5), (0.5, axis.edge)]
    figure = dose_figure(steer, steer.grouped("effect"), title="Score")
    assert [(s.x0, s.x1) for s in figure.layout.shapes if s.type == "rect"] == bands
    assert all(shape.layer == "below" for shape in figure.layout.shapes)
    everything = dataclasses.replace(steer.usable, coeffs=tuple(steer.coeffs))
    assert unusable_bands(dataclasses.replace(steer, usable=everything), axis) == []


@pytest.mark.parametrize("pixels", [150, 260, 520])
def test_dose_ticks_keep_zero_and_the_ends(tmp_path: Path, pixels: float) -> None:
    steer = load(tmp_path)
    ticks = dose_ticks(steer, dose_axis(steer, pixels), pixels)
    assert {"\N{MINUS SIGN}0.6", "0", "+0.6", "ablated"} <= set(ticks["ticktext"])


def test_a_wide_perplexity_is_logarithmic_and_shares_stay_shares(tmp_path: Path) -> None:
    narrow = load(tmp_path / "a")
    assert not measure_axis(narrow, narrow.measure("perplexity")).log
    coeffs = (-2.0, -1.0, 0.0, 1.0, 2.0)
    wide = load(tmp_path / "b", coeffs=coeffs, usable=(0.0,))
    axis = measure_axis(wide, wide.measure("perplexity"))
    assert axis.log and axis.low > 0
    assert axis.layout()["type"] == "log" and 10.0 in axis.layout()["tickvals"]
    share = measure_axis(wide, wide.measure("finished"))
    assert share.low >= -0.03 and share.high <= 1.03


def test_many_measures_are_split_over_figures(tmp_path: Path) -> None:
    steer = load(tmp_path, behaviours={f"b{i}": 0.1 * i for i in range(11)}, judge=False)
    figures = dose_figures(steer, steer.grouped("behaviour"), title="Behaviour")
    assert [len(named(figure, STEERED)) for figure in figures] == [9, 2]
    assert "continued" in figures[1].layout.title.text


def test_clamp_at_zero_is_a_dose_of_its_own(tmp_path: Path) -> None:
    steer = load(tmp_path, mode="clamp")
    zero = next(item for item in steer.curve("probe") if item.coeff == 0)
    assert zero.direction == "probe" and zero is not steer.baseline
    assert "is not the unsteered model" in page(tmp_path / "p", mode="clamp")


def test_layers_figure_holds_the_slopes(tmp_path: Path) -> None:
    made = MadeSteer(layers=12, steered=(6,))
    value, _ = make_steer(made)
    steer = load_steer(write_steer(tmp_path / "run", made))
    figure = layers_figure(steer)
    (line,) = [trace for trace in figure.data if "probe of each layer" in trace.name]
    assert list(line.x) == list(range(12))
    assert list(line.y) == [value["doses"][f"score@{i}"]["slope"]["value"] for i in range(12)]
    assert any(shape.x0 == 6 for shape in figure.layout.shapes)
    assert len(named(figure, EACH)) == 5
    without = [item for item in steer.measures if item.name != "score@6"]
    changes = layer_changes(dataclasses.replace(steer, measures=without))
    assert changes[6].metric == steer.doses["score"].metric


def test_frontier_holds_effect_and_damage(tmp_path: Path) -> None:
    steer = load(tmp_path)
    found = frontier(steer)
    assert found is not None and found.by_perplexity
    base, top = steer.baseline, steer.curve("probe")[-1]
    assert found.path[-1].y == top.value("score").value - base.value("score").value
    assert found.path[-1].x == top.value("perplexity").value / base.value("perplexity").value
    assert len(found.random) == 5 * 6
    assert found.path[-1].effect == top.differences["score"]
    figure = frontier_figure(steer, found)
    (path,) = named(figure, "probe direction")
    assert path.error_y.array[-1] == pytest.approx(0.15)
    texts = {note.text for note in figure.layout.annotations}
    assert {"+0.6", "+0.4", "\N{MINUS SIGN}0.4", "bound of usable text, 1.5"} <= texts


def test_frontier_falls_back_to_divergence(tmp_path: Path) -> None:
    steer = load(tmp_path)
    bare = [
        dataclasses.replace(
            item, values={k: v for k, v in item.values.items() if k != "perplexity"}
        )
        for item in steer.conditions
    ]
    found = frontier(dataclasses.replace(steer, conditions=bare))
    assert found is not None and not found.by_perplexity
    assert found.path[-1].x == steer.curve("probe")[-1].value("kl").value
    assert found.path[3].x == 0.0


def test_ranking_marks_the_best_layers(tmp_path: Path) -> None:
    steer = load(tmp_path, nulls=True)
    ranking = steer.rerank
    assert ranking is not None
    figure = rerank_figure(steer, ranking)
    causal = max((r for r in ranking.rows if r.ratio.known), key=lambda r: r.ratio.value)
    predictive = max(ranking.rows, key=lambda r: r.metric.value)
    rings = [trace.x[0] for trace in named(figure, "best")]
    assert rings == [predictive.layer, causal.layer]
    (line,) = named(figure, "effect")
    assert line.y[1] is None and line.y[5] == ranking.rows[5].ratio.value
    html = rerank_table(ranking)
    assert html.count("<tr>") == 24 + 2
    assert "<b>18, steered</b>" in html and "The other 12 layers" in html


# Words and tables.


def test_verdict_of_a_run_that_worked(tmp_path: Path) -> None:
    found = steer_verdict(load(tmp_path))
    assert found.headline == (
        "The score rises with the dose: slope +3.00 [+2.60, +3.40] per mean residual norm, more "
        "than any of 5 random directions (p\xa0=\xa00.17)."
    )
    said = " ".join(found.points)
    assert "Usable doses: \N{MINUS SIGN}0.4 to +0.4" in said and "2 of 7 doses are not" in said
    assert "hedges rises from" in said and "nvents falls from" in said
    assert "Not shown to follow the dose: refuses" in said
    assert "Layer 13 has the largest effect for its damage" in said
    warned = " ".join(found.warnings)
    assert "smallest possible p is 1/6 = 0.167" in warned
    assert "12 of 2,064 completions are empty." in warned
    assert "no verdict on 7 of 100 completions" in warned


def with_score(steer: Steer, metric: Metric, random: tuple[float, ...], p: float) -> Steer:
    doses = {**steer.doses, "score": Change(metric, random, p, (-0.4, 0.0, 0.4))}
    return dataclasses.replace(steer, doses=doses)


@pytest.mark.parametrize(
    ("metric", "random", "said"),
    [
        (Metric(-2.0, -2.5, -1.5), (0.1, 0.2), "Steering up the direction lowers its own score"),
        (Metric(0.1, -0.2, 0.4), (0.1, 0.2), "The score is not shown to follow the dose"),
        (Metric(1.0, 0.5, 1.5), (1.1, -1.2), "but this is not shown to be specific"),
        (Metric(1.0, 0.5, 1.5), (), "no random direction was steered"),
        (Metric(1.0), (0.1,), "is not known"),
        (Metric(math.nan), (0.1,), "is not known"),
    ],
)
def test_verdict_says_what_is_not_shown(
    tmp_path: Path, metric: Metric, random: tuple[float, ...], said: str
) -> None:
    found = steer_verdict(with_score(load(tmp_path, **BARE), metric, random, 0.33))
    assert said in found.headline
    causal = any("correlated is not causal" in point for point in found.points)
    assert causal is (metric.value < 0)


def test_warnings(tmp_path: Path) -> None:
    none = steer_verdict(load(tmp_path / "a", **BARE, random=0, prompts=5)).warnings
    assert any("No random control" in item for item in none)
    assert any("Only 5 prompts" in item for item in none)
    many = steer_verdict(load(tmp_path / "b", **BARE, random=19)).warnings
    assert not any("smallest possible p" in item for item in many)
    nulls = steer_verdict(load(tmp_path / "c", nulls=True)).warnings
    assert any("has no value at some doses" in item for item in nulls)
    two = steer_verdict(load(tmp_path / "d", usable=(0.0, 0.2))).warnings
    assert "The slopes rest on 2 doses only." in two
    only = steer_verdict(load(tmp_path / "e", usable=(0.0,))).points
    assert any("No dose but 0 is usable" in item for item in only)


def test_slopes_over_damaged_doses_are_named(tmp_path: Path) -> None:
    steer = load(tmp_path)
    few = dataclasses.replace(steer.usable, coeffs=(0.0, 0.2))
    steer = dataclasses.replace(steer, usable=few)
    found = steer_verdict(steer)
    assert "over doses with damaged text among them" in found.headline
    assert any("Fewer than three doses are usable" in item for item in found.warnings)
    assert "over the doses" in text_of(slopes_table(steer))
    assert "the three doses nearest to 0 here" in method_html(steer)


def test_a_judge_is_not_held_against_random_directions(tmp_path: Path) -> None:
    steer = load(tmp_path)
    assert steer.doses["judge:hedges"].controls == []
    found = steer_verdict(steer)
    assert "no random direction to compare with" in " ".join(found.points)
    assert not any("no value at some doses" in item for item in found.warnings)
    assert "Agrees with the rules 0.87" in text_of(judge_table(steer))


def test_whose_direction_it_is(tmp_path: Path) -> None:
    metric = Metric(-2.0, -2.5, -1.5)
    steer = with_score(load(tmp_path), metric, (0.1,), 0.5)
    for source, said in (
        ("bradley-terry probe at mean", "lowers its own score"),
        ("difference of means", "lowers the probe's score"),
    ):
        other = dataclasses.replace(steer, source=source)
        assert said in steer_verdict(other).headline
        assert (source in method_html(other)) is (source == "difference of means")


def test_ablation_alone(tmp_path: Path) -> None:
    html = page(tmp_path, mode="ablate")
    assert "Projecting the direction out lowers the score: \N{MINUS SIGN}0.450" in html
    assert "slope" not in text_of(html.split("<header>")[1].split("</header>")[0]).lower()
    assert 'id="frontier"' not in html and 'id="dose-score"' in html
    steer = load_steer(tmp_path / "run")
    assert [item.heading for item in columns(steer)] == ["unsteered", "ablated", "ablated"]
    assert steer.change("score").metric == steer.ablation["score"].metric


def test_tables_hold_the_numbers(tmp_path: Path) -> None:
    steer = load(tmp_path)
    said = text_of(slopes_table(steer))
    assert "probe score (layer 18) +3.00 [+2.60, +3.40]" in said
    ends = [min(steer.doses["score"].random), max(steer.doses["score"].random)]
    digits = digits_for(Metric(ends[0]), Metric(ends[1]))
    assert f"{signed(ends[0], digits)} to {signed(ends[1], digits)} 0.167" in said
    assert "probe score (layer 23) +" in said
    summary = text_of(summary_table(steer))
    assert "Measure \N{MINUS SIGN}0.4 unsteered +0.4 ablated" in summary
    top = next(item for item in steer.curve("probe") if item.coeff == 0.4)
    expected = value_text(steer.measure("rate:hedges"), top.value("rate:hedges"))
    assert "Hedges" in summary and expected.replace("\xa0", " ") in summary


def test_examples_are_beside_each_other(tmp_path: Path) -> None:
    steer = load(tmp_path)
    shown = columns(steer)
    assert [item.heading for item in shown] == [
        "coeff \N{MINUS SIGN}0.4", "unsteered", "coeff +0.4", "ablated", "coeff +0.4",
    ]  # fmt: skip
    assert shown[-1].direction == "random-01"
    prompts, rows = shown_prompts(steer, shown), first_samples(steer)
    moved = [rows[p, "probe", 0.4].score - rows[p, "probe", -0.4].score for p in prompts]
    assert len(prompts) == 6 and moved == sorted(moved, reverse=True)
    html = examples_html(steer)
    assert html.count("<tbody>") == 6 and html.count("<td>") == 30
    row = rows[prompts[0], "probe", 0.4]
    assert f"score {row.score:.2f}" in html and row.sample == 0
    assert "<details" in html and row.text[:60] in html


def test_formats() -> None:
    assert coeff_text(-0.4) == "\N{MINUS SIGN}0.4" and coeff_text(0.0) == "0"
    assert coeff_text(math.nan) == "ablated"
    assert p_text(0.0476) == "p\xa0=\xa00.048" and p_text(math.nan) == ""
    assert change_text(Metric(2.91, 2.5, 3.32)) == "+2.91 [+2.50, +3.32]"
    assert change_text(Metric(math.nan)) == "–"
    change = Change(Metric(1.0), (0.5, -1.5, math.nan), 0.67)
    assert (
        against_controls(change)
        == "1 of 2 random directions changes it at least as much (p\xa0=\xa00.67)"
    )
    assert wrapped("a <b> long title of three lines", 10) == "a &lt;b&gt; long<br>title of…"


# The page.


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    html = page(tmp_path, text=HOSTILE, prompts=6, samples=1)
    outside = html.split("<body>")[1]
    assert "<script>document" not in outside and "<img" not in outside
    assert "document.title='owned'" in text_of(outside)
    assert html.count("<script") == html.count("</script>")


def test_page_can_be_heard_and_ids_are_unique(tmp_path: Path) -> None:
    found: list[tuple[str, dict]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))  # type: ignore
    parser.feed(page(tmp_path))
    ids = [attrs["id"] for _, attrs in found if "id" in attrs]
    assert len(ids) == len(set(ids))
    tags = [tag for tag, _ in found]
    assert tags.count("figcaption") == tags.count("figure") == 6
    assert tags.count("caption") == tags.count("table")
    assert all(attrs.get("aria-label") for tag, attrs in found if attrs.get("class") == "plot")
    assert all(attrs.get("scope") for tag, attrs in found if tag == "th")


def test_sections_come_and_go(tmp_path: Path) -> None:
    whole, bare = page(tmp_path / "a"), page(tmp_path / "b", **BARE)
    for name in ("layers", "ranking"):
        assert f'<section id="{name}"' in whole and f'<section id="{name}"' not in bare
    order = [whole.index(f'<section id="{name}"') for name in
             ("doses", "layers", "slopes", "damage", "ranking", "texts", "method", "provenance")]  # fmt: skip
    assert order == sorted(order)
    assert "No behaviour was counted" in bare and "judge-7b" in whole and "judge-7b" not in bare
    assert "0123456789abcdef" in whole


CASES = {
    "whole": (MadeSteer(), 1280),
    "narrow": (MadeSteer(coeffs=(-1.5, -0.6, -0.3, -0.1, 0.0, 0.1, 0.3, 0.6, 1.5),
                         usable=(-0.3, -0.1, 0.0, 0.1, 0.3), random=20, layers=48), 900),
    "bare": (MadeSteer(**BARE, random=1, slope=-2.0), 900),
    "no-controls": (MadeSteer(**BARE, random=0), 1280),
    "ablate": (MadeSteer(mode="ablate"), 900),
    "nulls": (MadeSteer(nulls=True, layers=1, steered=(0,)), 1280),
    "hostile": (MadeSteer(text=HOSTILE, behaviours={f"b{i}": 0.1 for i in range(6)}), 900),
    "all-layers": (MadeSteer(mode="clamp", steered=tuple(range(8, 16))), 1280),
}  # fmt: skip


@pytest.mark.browser
@pytest.mark.parametrize("name", CASES)
def test_every_figure_is_drawn(name: str, tmp_path: Path) -> None:
    chromium()
    made, width = CASES[name]
    report = write_steer_report(write_steer(tmp_path / "run", made))
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


def test_slopes_are_as_planted() -> None:
    value, rows = make_steer(MadeSteer(slope=2.0, random=0, layers=0))
    scores = {c["coeff"]: c["values"]["score"]["value"] for c in value["conditions"]
              if c["coeff"] is not None}  # fmt: skip
    slope = np.polyfit(list(scores), list(scores.values()), 1)[0]
    assert abs(slope - 2.0) < 0.2
    assert value["doses"]["score"]["slope"]["value"] == 2.0
    assert len(rows) == value["n"]["completions"] == len(value["conditions"]) * 24 * 2
