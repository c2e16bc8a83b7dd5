"""Figures carry the numbers of the rows, worked out here from the rows themselves."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from probekit.reports import load_sweep
from probekit.reports.cosine import cosine_figure
from probekit.reports.curves import curves_figure, runs
from probekit.reports.distributions import bin_edges, distribution_figure
from probekit.reports.forest import controls_figure, tag_figure
from probekit.reports.heatmap import _edges, heatmap_figure
from probekit.reports.predicted import fit_line, predicted_figure, tick_step
from probekit.reports.reliability import reliability_figure
from probekit.reports.rows import Metric, Sweep
from probekit.reports.theme import layer_ticks, legend_rows, spread
from tests.reports.factory import Made, write_fit

TAGS = {"source": ("wiki", "books", "news")}


def load(tmp_path: Path, **made: object) -> Sweep:
    return load_sweep(write_fit(tmp_path / "fit", Made(**made)))


def values(sweep: Sweep, **where: object) -> list[float]:
    return [
        row.choose[sweep.primary].value
        for row in sweep.rows
        if all(getattr(row, key) == value for key, value in where.items())
    ]


def test_heatmap_holds_the_rows(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="label", layers=5, embedding=False)
    figure = heatmap_figure(sweep)
    (panel,) = figure.data
    assert list(panel.x) == [0, 1, 2, 3, 4]
    for line, position in zip(panel.z, ("last", "turn_end", "mean"), strict=True):
        assert list(line) == values(sweep, position=position)
    frame = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (frame.x0 + frame.x1) / 2 == sweep.chosen.layer
    row = round((frame.y0 + frame.y1) / 2)
    assert panel.z[row][sweep.chosen.layer] == max(values(sweep))
    assert figure.layout.coloraxis.cmin == 0.5
    assert figure.layout.coloraxis.cmax == pytest.approx(max(values(sweep)))
    assert f"n = {sweep.n['choose']}" in figure.layout.title.text


def test_heatmap_gives_the_embedding_its_own_column(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="pair", layers=4, positions=("mean",))
    (panel,) = heatmap_figure(sweep).data
    assert list(panel.x) == [-1, 0, 1, 2, 3]
    assert panel.z[0][0] == values(sweep, site="resid_pre")[0]
    assert list(panel.z[0][1:]) == values(sweep, site="resid_post")


def test_heatmap_panel_a_kind_and_site_and_grey_where_nothing_is_known(tmp_path: Path) -> None:
    series = (("logistic", None, "resid_post"), ("logistic", None, "attn_out"))
    sweep = load(tmp_path, kind="label", layers=6, series=series, nulls=True, embedding=False)
    shown = [trace for trace in heatmap_figure(sweep).data if trace.coloraxis]
    assert len(shown) == 2
    missing = sum(value is None for trace in shown for line in trace.z for value in line)
    assert missing == sum(math.isnan(value) for value in values(sweep)) > 0
    grey = [trace for trace in heatmap_figure(sweep).data if not trace.coloraxis]
    assert sum(value == 1.0 for trace in grey for line in trace.z for value in line) == missing


def test_noise_does_not_fill_the_colour_scale(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="pair", layers=8, signal=0.0)
    axis = heatmap_figure(sweep).layout.coloraxis
    assert axis.cmax - axis.cmin == pytest.approx(0.2)


def test_curves_hold_the_rows_and_their_references(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="rating", layers=6, positions=("last", "mean"))
    figure = curves_figure(sweep)
    for position in ("last", "mean"):
        (line,) = [trace for trace in figure.data if trace.name == position]
        assert list(line.x) == [-1, 0, 1, 2, 3, 4, 5]
        assert list(line.y) == values(sweep, position=position)
        (band,) = [trace for trace in figure.data if trace.name == f"{position}: interval"]
        rows = [row.choose["pearson"] for row in sweep.rows if row.position == position]
        assert list(band.y) == [row.high for row in rows] + [row.low for row in reversed(rows)]
    expected = {
        "length alone": sweep.controls["length"]["pearson"].value,
        "TF-IDF": sweep.controls["tfidf"]["pearson"].value,
        "chance": 0.0,
    }
    for name, value in expected.items():
        (reference,) = [trace for trace in figure.data if trace.name == name]
        assert set(reference.y) == {value}
    labels = {note.text: note.y for note in figure.layout.annotations}
    assert set(labels.values()) == set(expected.values())
    (ring,) = [trace for trace in figure.data if trace.name == "chosen cell"]
    assert (ring.x[0], ring.y[0]) == (sweep.chosen.layer, max(values(sweep)))


def test_curves_draw_the_controls_of_every_cell(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="pair", layers=4, positions=("mean",), embedding=False)
    (line,) = [t for t in curves_figure(sweep).data if (t.name or "").startswith("shuffled")]
    expected = [row.controls["shuffled_labels"][sweep.primary].value for row in sweep.rows]
    assert list(line.y) == expected


def test_many_positions_get_a_panel_each(tmp_path: Path) -> None:
    names = tuple(f"token:{index}" for index in range(8))
    sweep = load(tmp_path, kind="label", layers=3, positions=names, embedding=False)
    figure = curves_figure(sweep)
    titles = [note.text for note in figure.layout.annotations if note.yanchor == "bottom"]
    assert len(titles) == 8
    assert sum("(chosen)" in title for title in titles) == 1
    drawn = [trace for trace in figure.data if trace.name == "logistic"]
    assert [list(t.y) for t in drawn] == [values(sweep, position=name) for name in names]
    assert len({trace.xaxis for trace in drawn}) == 8


def test_one_layer_is_drawn_over_positions(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="label", layers=1, embedding=False)
    figure = curves_figure(sweep)
    (points,) = [trace for trace in figure.data if trace.mode == "markers"]
    assert list(points.y) == values(sweep)
    upper = [row.choose["auroc"].high - row.choose["auroc"].value for row in sweep.rows]
    assert list(points.error_y.array) == pytest.approx(upper)


def test_bands_break_where_there_is_no_interval() -> None:
    full, none = Metric(1.0, 0.9, 1.1), Metric(math.nan)
    assert runs([none, full, full, none, full]) == [(1, 3), (4, 5)]


def test_controls_figure_holds_every_control(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="pair", layers=3)
    figure = controls_figure(sweep)
    drawn = [
        (x, x - low, x + high)
        for trace in figure.data
        if trace.mode == "markers"
        for x, low, high in zip(trace.x, trace.error_x.arrayminus, trace.error_x.array, strict=True)
    ]
    metrics = [sweep.best, *(control[sweep.primary] for control in sweep.controls.values())]
    expected = sorted(tuple(metric) for metric in metrics)
    np.testing.assert_allclose(sorted(drawn), expected, rtol=1e-12)
    (chance,) = [trace for trace in figure.data if trace.name == "chance"]
    assert set(chance.x) == {0.5}
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (band.x0, band.x1) == (sweep.best.low, sweep.best.high)


def test_tag_figure_counts_pairs_once(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="pair", layers=2, n=31, tags=TAGS)
    figure = tag_figure(sweep, "source")
    labels = " ".join(figure.layout.yaxis.ticktext)
    assert "wiki  (n = 11)" in labels and "news  (n = 10)" in labels


def test_class_histograms_count_every_example(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="label", layers=2, n=83)
    bars = [trace for trace in distribution_figure(sweep).data if trace.type == "bar"]
    for target, trace in enumerate(bars):
        scores = [row.score for row in sweep.predictions if row.target == target]
        assert sum(trace.y) == len(scores)
        right = sum(y for x, y in zip(trace.x, trace.y, strict=True) if x > 0)
        assert right == sum(score > 0 for score in scores)


def test_margins_count_the_pairs_that_are_right(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="pair", layers=2, n=64, signal=0.4)
    chosen = {row.id: row.score for row in sweep.predictions if row.side == "chosen"}
    rejected = {row.id: row.score for row in sweep.predictions if row.side == "rejected"}
    right = sum(chosen[key] > rejected[key] for key in chosen)
    bars = [trace for trace in distribution_figure(sweep).data if trace.type == "bar"]
    assert [sum(trace.y) for trace in bars] == [64, 64, 64]
    assert sum(y for x, y in zip(bars[2].x, bars[2].y, strict=True) if x > 0) == right
    by_tag = dataclasses.replace(
        sweep, predictions=[dataclasses.replace(r, tags={"t": r.id[-1]}) for r in sweep.predictions]
    )
    split = [t for t in distribution_figure(by_tag, "t").data if t.type == "bar"]
    assert sum(sum(trace.y) for trace in split) == 3 * 64


@pytest.mark.parametrize("seed", range(5))
def test_bins_hold_everything_and_meet_at_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(rng.normal(0, 3), 10 ** rng.uniform(-3, 3), size=200)
    edges = bin_edges(scores)
    assert np.histogram(scores, bins=edges)[0].sum() == 200
    assert 0.0 in edges
    assert 10 <= len(edges) <= 45


@pytest.mark.parametrize("scores", [[], [2.5], [1.0, 1.0, 1.0], [0.0], [math.nan, 1.0]])
def test_bins_of_hardly_any_score(scores: list[float]) -> None:
    edges = bin_edges(np.array(scores))
    assert (np.diff(edges) > 0).all()
    known = [score for score in scores if not math.isnan(score)]
    assert np.histogram(known, bins=edges)[0].sum() == len(known)


def test_predicted_figure_draws_points_and_both_lines(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="rating", layers=2, n=90)
    points, identity, line = predicted_figure(sweep).data
    assert list(points.x) == [row.prediction for row in sweep.predictions]
    assert list(points.y) == [row.target for row in sweep.predictions]
    assert list(identity.x) == list(identity.y)
    slope, intercept = np.polyfit(points.x, points.y, 1)
    assert list(line.y) == pytest.approx([slope * x + intercept for x in line.x])
    r = np.corrcoef(points.x, points.y)[0, 1]
    assert f"r = {r:.2f}" in predicted_figure(sweep).layout.title.text


def test_few_ratings_are_spread_but_stay_nearest_their_own(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="rating", layers=2, n=90)
    rounded = [dataclasses.replace(row, target=round(row.target)) for row in sweep.predictions]
    points = predicted_figure(dataclasses.replace(sweep, predictions=rounded)).data[0]
    assert list(points.y) != [row.target for row in rounded]
    assert [round(y) for y in points.y] == [row.target for row in rounded]


def test_fit_line_without_spread_is_nan() -> None:
    assert math.isnan(fit_line(np.ones(5), np.arange(5.0)).slope)
    assert math.isnan(fit_line(np.array([1.0]), np.array([1.0])).r)


@pytest.mark.parametrize("kind", ["label", "rating", "pair"])
def test_reliability_holds_the_bins(tmp_path: Path, kind: str) -> None:
    sweep = load(tmp_path, kind=kind, layers=2, n=70)
    figure = reliability_figure(sweep)
    held = [item for item in sweep.reliability if item.n]
    (observed,) = [trace for trace in figure.data if trace.name == "observed"]
    assert list(observed.x) == [item.predicted for item in held]
    assert list(observed.y) == [item.observed for item in held]
    (counts,) = [trace for trace in figure.data if trace.type == "bar"]
    assert list(counts.y) == [item.n for item in held]
    if kind != "rating":
        assert "ECE = " in figure.layout.title.text


def test_cosine_scale_is_fixed(tmp_path: Path) -> None:
    sweep = load(tmp_path, kind="pair", layers=7)
    (trace,) = cosine_figure(sweep).data
    assert (trace.zmin, trace.zmax) == (-1, 1)
    assert [list(line) for line in trace.z] == sweep.cosine


def test_spread_keeps_order_and_gap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        at = rng.uniform(0, 200, size=rng.integers(1, 8)).tolist()
        moved = spread(at, 15)
        assert np.argsort(moved).tolist() == np.argsort(at).tolist()
        assert all(np.diff(np.sort(moved)) >= 15 - 1e-9)
    assert spread([0.0, 100.0], 15) == [0.0, 100.0]


def test_ticks_and_steps_are_round() -> None:
    assert layer_ticks([-1, *range(30)], 16)["ticktext"] == ["emb", *map(str, range(2, 30, 2))]
    assert layer_ticks([3, 7, 11], 9)["tickvals"] == [3, 7, 11]
    assert [tick_step(span) for span in (1.0, 9.0, 100.0)] == [0.1, 1.0, 10.0]
    assert legend_rows([]) == 0 and legend_rows(["a"]) == 1 and legend_rows(["x" * 50] * 3) == 3


def test_cells_of_sparse_layers_are_whole_and_framed_whole() -> None:
    assert _edges([6, 12, 24]) == [3, 9, 18, 30]
    assert _edges([0, 1, 2]) == [-0.5, 0.5, 1.5, 2.5]
    assert _edges([7]) == [6.5, 7.5]
