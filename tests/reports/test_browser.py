"""Reports opened in headless Chromium: every figure is drawn, legible, and nothing goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probekit.reports import write_sweep_report
from tests.reports.browser import chromium, collisions, open_report
from tests.reports.factory import Made, ugly, write_fit

pytestmark = pytest.mark.browser

TAGS = {"source": ("wiki", "books"), "field": tuple(f"field {index}" for index in range(9))}
CASES = {
    "pair": (Made("pair", tags=TAGS), 1280),
    "label": (Made("label", positions=("prompt_end",), tags=TAGS), 1280),
    "rating": (Made("rating", positions=("last", "mean", "turn_end", "first:4"), tags=TAGS), 1280),
    "narrow": (Made("pair", layers=48, embedding=False), 900),
    "one-layer": (Made("label", layers=1, embedding=False), 900),
    "one-cell": (Made("rating", layers=1, embedding=False, positions=("mean",)), 1280),
    "ugly-pair": (ugly("pair"), 900),
    "ugly-label": (ugly("label"), 1280),
    "ugly-rating": (ugly("rating"), 900),
}


@pytest.mark.parametrize("name", CASES)
def test_every_figure_is_drawn(name: str, tmp_path: Path) -> None:
    chromium()
    made, width = CASES[name]
    report = write_sweep_report(write_fit(tmp_path / "fit", made))
    seen = open_report(report, tmp_path, width=width)
    found = seen.found

    assert found["problems"] == []
    assert seen.console == []
    assert found["resources"] == []
    assert found["title"] == f"researchers_{made.kind}s on smollm2-135m"
    assert {figure["id"] for figure in found["figures"]} == _expected(made)
    assert len(found["figures"]) == report.read_text(encoding="utf-8").count("<figure>")
    assert found["scroll"] <= found["inner"]
    assert found["buttons"] == 2 * len(found["figures"])
    assert found["png"] == "data:image/png;base64,"
    for figure in found["figures"]:
        _check_drawn(figure)
    for figure in found["printed"]:
        assert figure["svgWidth"] <= 680
        _check_drawn(figure, width=figure["svgWidth"])
    assert found["after"] == [figure["svgWidth"] for figure in found["figures"]]


def _check_drawn(figure: dict, *, width: float | None = None) -> None:
    types = figure["types"]
    assert figure["svgs"] >= 2, figure["id"]
    assert figure["scatter"] == types.count("scatter"), figure["id"]
    assert figure["bars"] == types.count("bar"), figure["id"]
    assert figure["images"] == types.count("heatmap"), figure["id"]
    assert collisions(figure["texts"]) == [], figure["id"]
    for text, left, top, right, bottom in figure["texts"]:
        inside = left >= -1 and top >= -1 and bottom <= figure["height"] + 1
        assert inside and right <= (width or figure["width"]) + 1, (figure["id"], text)


def _expected(made: Made) -> set[str]:
    found = {"controls", "scores", "reliability", *(f"tag-{i}" for i in range(len(made.tags)))}
    found |= {
        f"scores-by-tag-{sorted(made.tags).index(tag)}"
        for tag, values in made.tags.items()
        if 2 <= len(values) <= 4
    }
    if made.layers > 1:
        found |= {"cosine"}
    if made.layers * len(made.positions) > 1:
        found |= {"heatmap", "curves"}
    return found


def test_a_broken_figure_is_noticed(tmp_path: Path) -> None:
    """The checks above can fail: a figure whose data are no JSON shows up."""
    chromium()
    report = write_sweep_report(write_fit(tmp_path / "fit", Made("pair", layers=2)))
    text = report.read_text(encoding="utf-8")
    broken = text.replace('data-for="curves">{', 'data-for="curves">{{', 1)
    assert broken != text
    report.write_text(broken, encoding="utf-8")
    with pytest.raises(AssertionError):
        assert open_report(report, tmp_path).found["problems"] == []


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    chromium()
    report = write_sweep_report(write_fit(tmp_path / "fit", ugly("pair")))
    seen = open_report(report, tmp_path)
    assert seen.found["title"] != "owned"
    drawn = json.dumps([figure["texts"] for figure in seen.found["figures"]])
    assert "<script>alert(1)</script>" in drawn
