"""The page of `probekit steer`, and the run as frames, against the raw files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from probekit import open_run
from probekit.container import jsonable, write_json
from probekit.reports import write_steer_report
from probekit.reports.page import said
from probekit.results.intervals import Interval
from probekit.results.steer import BASELINE, Change
from tests.reports.steer_factory import BARE, SMALL, MadeSteer, make_steer, write_steer
from tests.reports.words import figures_of, jsonl, plain


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run with everything in it: its directory, steer.json, and its page."""
    folder = write_steer(tmp_path_factory.mktemp("steer") / "run", MadeSteer(**SMALL))
    return folder, json.loads((folder / "steer.json").read_text()), write_steer_report(folder)


def row(page, caption, name):
    """Cells of the first row of a name below a caption."""
    lines = plain(page).split(caption)[1].splitlines()
    return next(line for line in lines if line.startswith(f"| {name} |")).split(" | ")


def known(values):
    """Values with NaN for null."""
    return [math.nan if value is None else value for value in values]


def test_frames_are_the_files_numbers(small):
    folder, value, _ = small
    run = open_run(folder)
    of = ["quantity", "direction", "mode", "coeff", "measure"]
    frame = run.metrics.fillna({"coeff": math.inf}).set_index(of)[["value", "low", "high", "p"]]
    found = {key: list(row) for key, row in zip(frame.index, frame.to_numpy(), strict=True)}
    expected = {}
    for entry in value["conditions"]:
        coeff = math.inf if entry["coeff"] is None else entry["coeff"]
        for quantity in ("value", "difference"):
            for name, ends in entry[f"{quantity}s"].items():
                at = (quantity, entry["direction"], entry["mode"], coeff, name)
                expected[at] = [*known(ends.values()), math.nan]
    for quantity, mode, key in (("slope", "add", "doses"), ("ablation", "ablate", "ablation")):
        for name, entry in value[key].items():
            ends = entry.get("slope") or entry["difference"]
            of_probe = [*known(ends.values()), *known([entry["p"]])]
            expected[quantity, "probe", mode, math.inf, name] = of_probe
            names = ["random-01", "random-02", "shuffled-01", *MadeSteer.placebos]
            slopes = known([*entry["random"], *entry["shuffled"], *entry["placebo"]])
            for direction, slope in zip(names, slopes, strict=True):
                expected[quantity, direction, mode, math.inf, name] = [slope, *[math.nan] * 3]
    for entry in value["rerank"]["rows"]:
        for name in ("metric", "effect", "damage", "ratio"):
            at = ("ranking", f"layer-0{entry['layer']}", "add", 0.2, name)
            expected[at] = [*known(entry[name].values()), math.nan]
    np.testing.assert_equal(found, expected)
    lines = jsonl(folder / "completions.jsonl")
    assert list(run.rows["text"]) == [line["text"] for line in lines]
    scores = known(line["scores"]["2"] for line in lines)
    np.testing.assert_equal(run.rows["score@2"].to_numpy(), scores)


def test_dose_figure_holds_the_curves(small):
    _, value, page = small
    figure = figures_of(page)["dose-effect"]
    raw = {(c["direction"], c["coeff"]): c["values"]["score"] for c in value["conditions"]}
    base, coeffs = raw["none", 0.0]["value"], value["coeffs"]
    traces = {trace["name"]: trace for trace in figure["data"] if trace.get("name")}
    line = traces["probe direction"]
    assert line["x"] == coeffs
    assert line["y"] == [base if not c else raw["probe", c]["value"] for c in coeffs]
    band = next(trace for trace in figure["data"] if trace.get("fill") == "toself")
    assert max(band["y"]) == raw["probe", 0.6]["high"]
    drawn = [y for y in traces["random directions"]["y"] if y is not None]
    expected = [
        raw.get((f"random-0{i}", c), raw["none", 0.0])["value"] for i in (1, 2) for c in coeffs
    ]
    assert drawn == expected
    assert traces["probe direction ablated"]["y"] == [raw["probe", None]["value"]]
    assert traces["probe direction ablated"]["x"][0] > max(coeffs)
    usable = value["usable"]["coeffs"]
    shaded = [s for s in figure["layout"]["shapes"] if s["type"] == "rect"]
    for coeff in coeffs:
        assert any(s["x0"] <= coeff <= s["x1"] for s in shaded) is (coeff not in usable)
    for item in value["reference"]:
        [line] = [trace["y"] for name, trace in traces.items() if name.startswith(item["name"])]
        assert line == [item["mean"]] * 2


def test_other_figures_hold_the_files_numbers(small):
    _, value, page = small
    figures = figures_of(page)
    slopes = [value["doses"][f"score@{layer}"]["slope"]["value"] for layer in range(3)]
    layers = [t["y"] for t in figures["layer-slopes"]["data"] if t.get("mode") == "lines+markers"]
    assert layers == [slopes]
    probe = {c["coeff"]: c for c in value["conditions"] if c["direction"] == "probe"}
    (path,) = [t for t in figures["frontier"]["data"] if t["name"] == "probe direction"]
    assert path["y"][-1] == probe[0.6]["differences"]["score"]["value"]
    base = value["conditions"][0]["values"]["perplexity"]["value"]
    assert path["x"][-1] == probe[0.6]["values"]["perplexity"]["value"] / base
    rows = sorted(value["rerank"]["rows"], key=lambda item: item["layer"])
    drawn = [t["y"] for t in figures["layer-ranking"]["data"] if len(t["y"] or ()) == 3]
    assert drawn == [[item[key]["value"] for item in rows] for key in ("metric", "ratio")]


def test_tables_hold_the_numbers(small):
    _, value, page = small
    dose = value["doses"]["score"]
    cells = row(page, "corrected for the number of measures", "probe score (layer 1)")
    assert cells[1].startswith(f"{dose['slope']['value']:+.2f} [{dose['slope']['low']:+.2f}, ")
    assert cells[5] == f"{dose['p']:.3f}"
    hedges = value["conditions"][0]["values"]["rate:hedges"]["value"]
    cells = row(page, "Along the probe's direction, with", "Hedges")
    assert cells[2].startswith(f"{100 * hedges:.0f} %")
    best = min(value["rerank"]["rows"], key=lambda item: item["rank"])
    assert row(page, "Layers by effect per root", "1")[1].startswith(str(best["layer"]))


@pytest.mark.parametrize(
    ("verdict", "interval", "random", "words"),
    [
        ("unknown", (1.0,), (0.1,), "is not known: its slope has no interval (slope +1.00"),
        ("not shown", (0.1, -0.2, 0.4), (0.5, 0.2), "score is not shown to follow the dose: slope +0.100"),
        ("uncontrolled", (1.0, 0.5, 1.5), (), "no control direction was steered"),
        ("shared", (1.0, 0.5, 1.5), (0.4, -1.2),
         "is not shown to be specific: slope +1.00 [+0.50, +1.50] per mean residual norm, 1 of 2"),
        ("specific", (-2.0, -2.5, -1.5), (0.1, 0.2), "direction lowers its own score: slope −2.00"),
    ],
)  # fmt: skip
def test_every_verdict_has_its_headline(small, tmp_path, verdict, interval, random, words):
    slope = Interval(*interval)
    assert Change(slope, {"random": random} if random else {}).verdict == verdict
    entry = jsonable(dict(slope=slope._asdict(), random=random, p=None, coeffs=[0.0]))
    write_json(
        tmp_path / "steer.json", {**small[1], "doses": {**small[1]["doses"], "score": entry}}
    )
    assert words in said("steer_words.html.j2", "headline", open_run(tmp_path))


def test_warnings_and_sections_come_and_go(tmp_path):
    bare = MadeSteer(**{**BARE, "prompts": 4, "random": 0, "samples": 1})
    page = write_steer_report(write_steer(tmp_path / "bare", bare))
    text = plain(page)
    for words in ("No control direction was run", "4 prompts are too few for any interval"):
        assert words in text
    assert "No behaviour was counted" in text and "Judge" not in text
    for name in ("layers", "ranking"):
        assert f'<section id="{name}"' not in page.read_text(encoding="utf-8")
    two = MadeSteer(**{**BARE, "coeffs": "-2:2:1", "damage": 1.0, "random": 39, "nulls": True})
    text = plain(write_steer_report(write_steer(tmp_path / "two", two)))
    assert "over doses with damaged text among them" in text and "No dose but 0 is usable" in text
    assert "Fewer than three doses are usable" in text and "smallest possible p" not in text


def test_clamp_at_zero_is_a_dose_of_its_own(tmp_path):
    run = open_run(write_steer(tmp_path / "run", MadeSteer(**{**SMALL, **BARE, "mode": "clamp"})))
    zero = next(condition for condition in run.curve() if condition.coeff == 0)
    assert zero.direction == "probe" and zero != BASELINE
    assert run.value("score", zero) != run.value("score")


def test_planted_slopes_are_found():
    value, rows = make_steer(MadeSteer(slope=2.0, layers=6))
    reach = 1 / (1 + math.exp(-2))
    assert value["doses"]["score"]["slope"]["value"] == pytest.approx(2.0 * reach, abs=0.15)
    assert len(rows) == value["n"]["completions"] == len(value["conditions"]) * 24 * 2


def test_the_effect_stands_beside_the_strongest_shuffled_or_placebo_direction(tmp_path):
    """`over` is the difference of sizes, whatever the signs; a control as strong takes `specific` away."""
    for slope, strong in ((3.0, 0.3), (-3.0, 0.3), (0.3, 2.0)):
        made = MadeSteer(
            prompts=16, samples=1, layers=1, steered=(0,), random=2, shuffled=3, rerank=False,
            judge=False, behaviours={"hedges": 0.5}, slope=slope, random_slope=strong,
            coeffs="-0.6,-0.3,0.3,0.6",
        )  # fmt: skip
        run = open_run(write_steer(tmp_path / f"{slope}", made))
        for name in ("score", "finished"):
            entry = run.record["doses"][name]
            names = [n for kind in ("shuffled", "placebo") for n in run.controls[kind]]
            slopes = zip(names, entry["shuffled"] + entry["placebo"], strict=True)
            sizes = {n: abs(v) for n, v in slopes if v is not None}
            assert entry["over"]["direction"] == max(sizes, key=sizes.get)
            expected = abs(entry["slope"]["value"]) - max(sizes.values())
            assert entry["over"]["value"] == pytest.approx(expected)
            assert entry["over"]["low"] < entry["over"]["value"] < entry["over"]["high"]
        score = run.change("score")
        size = abs(score.interval.value)
        assert score.verdict == ("shared" if strong == 2.0 else "specific")
        assert score.times == pytest.approx(size / (size - score.over.value))
