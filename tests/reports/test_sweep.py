"""The report of a fit: its page, its frames against the files, and one line for what is wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import probekit
from probekit.reports import write_sweep_report
from probekit.reports.look import bin_edges, legend_rows, thinned
from tests.reports.factory import Made, write_fit
from tests.reports.words import edited, ends, figures_of, flat

TAGS = {"source": ("wiki", "books", "news")}


def figures(folder: Path, **made: object) -> tuple[dict, dict]:
    """Return sweep.json of a made-up fit and the figures of its page by their ids."""
    write_fit(folder / "fit", Made(**made))  # type: ignore[arg-type]
    page = write_sweep_report(folder / "fit")
    return json.loads((folder / "fit" / "sweep.json").read_text()), figures_of(page)


def values(record: dict, **where: object) -> list[float | None]:
    """Return the primary measure of the cells that are as `where` says."""
    return [
        row["choose"][record["primary"]]["value"]
        for row in record["rows"]
        if all(row[key] == value for key, value in where.items())
    ]


def test_the_map_and_the_curves_hold_the_rows(tmp_path: Path) -> None:
    record, drawn = figures(tmp_path, kind="pair", layers=4, positions=("last", "mean"))
    [map_] = drawn["heatmap"]["data"]
    order = {position: line for position, line in zip(("last", "mean"), map_["z"], strict=True)}
    curves = {trace["name"]: trace for trace in drawn["curves"]["data"] if trace.get("name")}
    for position, line in order.items():
        assert line == values(record, position=position)
        assert curves[position]["y"] == line
        assert curves[position]["x"] == [-1, 0, 1, 2, 3]
    axis = drawn["heatmap"]["layout"]["coloraxis"]
    assert (axis["cmin"], axis["cmax"]) == (0.5, max(values(record)))
    [frame] = drawn["heatmap"]["layout"]["shapes"]
    x, y = (frame["x0"] + frame["x1"]) / 2, (frame["y0"] + frame["y1"]) / 2
    assert map_["z"][round(y)][round(x)] == max(values(record))
    assert curves["chosen"]["y"] == [max(values(record))]
    levels = {t["y"][0] for t in drawn["curves"]["data"] if t["y"] and t["y"][1:] == t["y"][:1]}
    assert levels == {
        0.5,
        *(record["controls"][n]["pair_accuracy"]["value"] for n in ("tfidf", "length")),
    }
    shuffled = [r["controls"]["shuffled_labels"]["pair_accuracy"]["value"] for r in record["rows"]
                if r["position"] == record["chosen"]["position"]]  # fmt: skip
    assert next(t["y"] for name, t in curves.items() if name.startswith("shuffled")) == shuffled
    [band] = [t for t in drawn["curves"]["data"] if t.get("fill") and t["legendgroup"] == "mean"]
    ends = [r["choose"]["pair_accuracy"] for r in record["rows"] if r["position"] == "mean"]
    assert band["y"] == [e["high"] for e in ends] + [e["low"] for e in ends[::-1]]


def test_cells_without_a_value_are_grey_and_noise_stays_pale(tmp_path: Path) -> None:
    series = (("logistic", None, "resid_post"), ("logistic", None, "attn_out"))
    record, drawn = figures(tmp_path, kind="label", layers=6, series=series, nulls=True, signal=0.0)
    traces = drawn["heatmap"]["data"]
    grey = [v for t in traces if "coloraxis" not in t for line in t["z"] for v in line]
    assert grey.count(1.0) == values(record).count(None) > 0
    axis = drawn["heatmap"]["layout"]["coloraxis"]
    assert axis["cmax"] - axis["cmin"] == pytest.approx(0.2)


def test_many_positions_get_a_panel_each_and_one_layer_gets_points(tmp_path: Path) -> None:
    names = tuple(f"token:{index}" for index in range(8))
    made = {"kind": "label", "positions": names, "embedding": False}
    record, drawn = figures(tmp_path / "a", layers=3, **made)
    lines = [trace for trace in drawn["curves"]["data"] if trace.get("name") == "logistic"]
    assert [t["y"] for t in lines] == [values(record, position=name) for name in names]
    assert len({trace["xaxis"] for trace in lines}) == 8
    record, drawn = figures(tmp_path / "b", layers=1, **made)
    [points] = [trace for trace in drawn["curves"]["data"] if trace["mode"] == "markers"]
    assert points["y"] == values(record)
    assert "cosine" not in drawn


def test_controls_and_tags_are_compared_with_the_probe(tmp_path: Path) -> None:
    record, drawn = figures(tmp_path, kind="pair", layers=3, n=31, tags=TAGS)
    main, rest = drawn["controls"]["data"]
    ends = [(x, x - low, x + high) for t in (main, rest) for x, low, high in
            zip(t["x"], t["error_x"]["arrayminus"], t["error_x"]["array"], strict=True)]  # fmt: skip
    expected = [record["report"], *record["controls"].values()]
    expected = sorted(tuple(item["pair_accuracy"].values()) for item in expected)
    np.testing.assert_allclose(sorted(ends), expected, rtol=1e-12)
    labels = " ".join(drawn["tag-0"]["layout"]["yaxis"]["ticktext"])
    assert "wiki  (n = 11)" in labels and "news  (n = 10)" in labels


def test_histograms_count_every_example(tmp_path: Path) -> None:
    _, drawn = figures(tmp_path, kind="pair", layers=2, n=64, signal=0.4, tags=TAGS)
    rows = probekit.open_run(tmp_path / "fit").rows
    scores = {
        side: rows.loc[rows["side"] == side, "score"].to_numpy() for side in ("chosen", "rejected")
    }
    margins = scores["chosen"] - scores["rejected"]

    def counts(trace: dict) -> tuple[float, float]:
        x, y = np.array(trace["x"]), np.array(trace["y"])
        return y[1:-1:2].sum(), y[1:-1:2][x[1:-1:2] > 1e-9].sum()

    [margin] = [trace for trace in drawn["margins"]["data"] if trace["mode"] == "lines"]
    assert counts(margin)[0] == 64
    for trace, values in zip(drawn["scores"]["data"], scores.values(), strict=True):
        assert counts(trace)[0] == len(values)
    assert f"{(margins > 0).sum()} of 64 above 0" in drawn["margins"]["layout"]["title"]["text"]
    split = [trace for trace in drawn["margins-1"]["data"] if trace["mode"] == "lines"]
    assert sum(counts(trace)[0] for trace in split) == 64


def test_predicted_reliability_and_cosine_hold_the_files(tmp_path: Path) -> None:
    record, drawn = figures(tmp_path, kind="rating", layers=7, n=90)
    rows = probekit.open_run(tmp_path / "fit").rows
    _, line, points = drawn["predicted"]["data"]
    assert points["x"] == rows["prediction"].tolist() and points["y"] == rows["target"].tolist()
    fitted = np.polyfit(points["x"], points["y"], 1)
    assert line["y"] == pytest.approx(np.polyval(fitted, line["x"]))
    r = np.corrcoef(points["x"], points["y"])[0, 1]
    assert f"r = {r:.2f}" in drawn["predicted"]["layout"]["title"]["text"]
    observed = drawn["reliability"]["data"][1]
    assert observed["x"] == [item["predicted"] for item in record["reliability"]["bins"]]
    assert observed["y"] == [item["observed"] for item in record["reliability"]["bins"]]
    assert drawn["cosine"]["data"][0]["z"] == record["cosine"]["matrix"]
    assert drawn["cosine"]["layout"]["coloraxis"]["cmin"] == -1


@pytest.mark.parametrize(
    ("report", "tfidf", "rest", "keys", "words"),
    [
        ((0.91, 0.86, 0.95), 0.7, 0.8, "above above", "It clears every control. With length partialled "
         "out it is 0.80 [0.70, 0.90], still above chance."),
        ((0.72, 0.65, 0.78), 0.7, 0.5, "above includes", "It is not shown to do better than TF-IDF (0.70). "
         "It clears length alone (0.10). With length partialled out it is 0.50 [0.40, 0.60]: "
         "length may explain the score."),
        ((0.64, 0.60, 0.68), 0.7, 0.5, "above below", "Better without this probe: TF-IDF (0.70)."),
        ((0.52, 0.46, 0.58), 0.7, 0.8, "includes below", "includes chance (0.50): no signal is shown."),
        ((0.35, 0.30, 0.40), 0.2, 0.8, "below above", "below chance (0.50): something is the wrong way"),
        ((0.91, 0.86, 0.95), None, 0.8, "above unknown", "there is no value for TF-IDF."),
        ((0.91, None, None), 0.7, 0.8, "unknown unknown", "Too few groups for an interval ("),
        ((None, None, None), 0.7, 0.8, "unknown unknown", "no value on the report split"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_interval(
    tmp_path: Path, report: tuple, tfidf: float | None, rest: float, keys: str, words: str
) -> None:
    folder = write_fit(tmp_path / "fit", Made("pair", layers=1, n=4))
    controls = {"tfidf": (tfidf, tfidf, tfidf), "length": (0.1, None, None),
                "length_partialled": (rest, rest - 0.1, rest + 0.1)}  # fmt: skip

    def metric(ends: tuple) -> dict:
        return {"pair_accuracy": dict(zip(("value", "low", "high"), ends, strict=True))}

    with edited(folder / "sweep.json") as record:
        record["report"] |= metric(report)
        record["controls"] = {name: metric(value) for name, value in controls.items()}
    found = probekit.open_run(folder).findings
    assert [found["chance"].key, found["tfidf"].key] == keys.split()
    text = flat(write_sweep_report(folder))
    assert words in text
    assert ("clears every control" in text) == (found["tfidf"].key == "above")


def test_the_page_says_how_many_cells_are_at_an_end_of_l2(tmp_path: Path) -> None:
    folder = write_fit(tmp_path / "fit", Made("label", layers=4))
    assert "largest l2" not in flat(write_sweep_report(folder))
    with edited(folder / "sweep.json") as record:
        rows = record["rows"]
        for row in rows:
            row |= {"l2_end": "high" if row["layer"] < 2 else None, "converged": True}
        rows[0]["converged"] = False
    n = sum(row["layer"] < 2 for row in rows)
    words = f"Of {len(rows)} cells {n} chose the largest l2: their folds found no signal; 1 did not"
    text = flat(write_sweep_report(folder, force=True))
    assert words in text and "chose the smallest" not in text


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys, probekit.reports; assert not {'plotly', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_labels_bins_and_ticks_of_every_figure() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.normal(rng.normal(0, 3), 10 ** rng.uniform(-3, 3), size=200)
        edges = bin_edges(np.append(scores, 0.0))
        assert np.histogram(scores, bins=edges)[0].sum() == 200
        assert np.abs(edges).min() == 0 and 10 <= len(edges) <= 45
    for few in ([], [2.5], [1.0, 1.0], [0.0], [math.nan, 1.0]):
        assert (np.diff(bin_edges(np.array(few))) > 0).all()
    assert thinned(["emb", *range(30)], 16) == [0, *range(3, 31, 2)]
    assert thinned([3, 7, 11], 9) == [0, 1, 2]
    assert [legend_rows(names) for names in ([], ["a"], ["x" * 50] * 3)] == [0, 1, 3]


def test_outer_folds_stand_on_the_page_only_where_there_are_some(tmp_path: Path) -> None:
    folder = write_fit(tmp_path / "fit", Made(kind="label", layers=3))
    assert "outer folds" not in write_sweep_report(folder).read_text()
    with edited(folder / "sweep.json") as record:
        record["outer"] = {
            "n_folds": 5, "report": {"auroc": ends(0.712)},
            "controls": {n: {"auroc": ends(v, 0.06)} for n, v in (("length", 0.523), ("tfidf", 0.689))},
            "differences": {"length": ends(0.189, 0.08), "tfidf": ends(0.023, 0.07)},
            "folds": [record["chosen"] | {"n": 40, "value": 0.7, "layer": k % 2} for k in range(5)],
        }  # fmt: skip
    text = flat(write_sweep_report(folder, force=True))
    assert "Over all rows, in 5 outer folds" in text
    assert "AUROC 0.712 [0.662, 0.762]: the whole procedure" in text
    assert "The interval lies above chance (0.50)." in text
    assert "length alone 0.523 +0.189 [+0.109, +0.269] yes" in text
    assert "TF-IDF 0.689 +0.023 [−0.047, +0.093] not shown" in text


def test_the_page_says_which_cells_are_as_good_as_the_chosen_one(tmp_path: Path) -> None:
    folder = write_fit(tmp_path / "fit", Made(kind="label", layers=6, positions=("mean",)))
    assert "not shown to be worse" not in write_sweep_report(folder).read_text(), "an earlier fit"
    for low, words in (
        ((-0.01, 0.02, -0.03), "2 are not shown to be worse than the chosen one (layers {} to {})"),
        ((0.01, -0.02, 0.03), "1 is not shown to be worse than the chosen one (layer {})"),
        ((0.01, 0.02, 0.03), "each is worse than the chosen one."),
    ):
        with edited(folder / "sweep.json") as record:
            others = [row for row in record["rows"] if not row["chosen"]]
            for row, end in zip(others, (*low, 0.01, 0.01), strict=False):
                row["below"] = {"value": 0.1, "low": end, "high": 0.2}
        near = [r["layer"] for r, end in zip(others, low, strict=False) if end < 0]
        layers = dict.fromkeys((min(near, default=0), max(near, default=0)))
        assert words.format(*layers) in flat(write_sweep_report(folder, force=True))
