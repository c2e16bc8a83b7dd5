"""The page: self-contained, escaped, accessible, and plain about what was found."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from probekit.reports import load_sweep, write_sweep_report
from probekit.reports.examples import best_and_worst, examples_html, ranked
from probekit.reports.rows import Metric, Sweep, pair_rows
from probekit.reports.verdict import Standing, verdict
from probekit.reports.words import number, plot_text, with_interval
from tests.reports.factory import Made, ugly, write_fit


class Page(HTMLParser):
    """Every start tag with its attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module", params=["pair", "label", "rating"])
def ugly_page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_fit(tmp_path_factory.mktemp("ugly") / "fit", ugly(request.param))
    return write_sweep_report(folder).read_text(encoding="utf-8")


def test_nothing_is_loaded_from_anywhere(ugly_page: str) -> None:
    page = Page(ugly_page)
    for tag, attrs in page.tags:
        for name in ("src", "srcset", "data", "action", "poster", "background"):
            assert name not in attrs, (tag, attrs)
        if "href" in attrs:
            assert (attrs["href"] or "").startswith("#")
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
    style = ugly_page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    (policy,) = [a for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_plotly_is_embedded_once(ugly_page: str) -> None:
    assert ugly_page.count("* plotly.js v") == 1
    scripts = [attrs for attrs in Page(ugly_page).named("script") if "data-for" not in attrs]
    assert len(scripts) == 2


def test_texts_are_escaped(ugly_page: str) -> None:
    page = Page(ugly_page)
    assert not page.named("img")
    assert "document.title='owned'" in "".join(page.text)
    outside = ugly_page.split("<body>")[1]
    assert "<script>alert(1)" not in outside
    assert "<script>document" not in outside


def test_page_can_be_heard(ugly_page: str) -> None:
    page = Page(ugly_page)
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("title")) == 1 and len(page.named("h1")) == 1
    plots = [attrs for attrs in page.named("div") if attrs.get("class") == "plot"]
    assert len(plots) == len(page.named("figcaption")) == len(page.named("figure")) > 4
    for attrs in plots:
        assert attrs["role"] == "img"
        assert attrs["aria-label"]
    assert all(attrs["scope"] in ("col", "row") for attrs in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_every_figure_has_a_title_units_and_n(ugly_page: str) -> None:
    for block in ugly_page.split('class="figure-data"')[1:]:
        value = json.loads(block.split(">", 1)[1].split("</script>")[0])
        layout = value["layout"]
        assert "n = " in layout["title"]["text"]
        axes = [axis for name, axis in layout.items() if name.startswith("xaxis")]
        assert any("text" in axis.get("title", {}) for axis in axes)


def test_report_is_the_same_every_time(tmp_path: Path) -> None:
    fit = write_fit(tmp_path / "fit", Made("pair", layers=2))
    first = write_sweep_report(fit, out=tmp_path / "a.html").read_bytes()
    assert first == write_sweep_report(fit, out=tmp_path / "b.html").read_bytes()


def test_plotly_is_imported_only_when_a_report_is_written() -> None:
    code = "import sys, probekit.reports; assert 'plotly' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def sweep_of(tmp_path: Path, **made: object) -> Sweep:
    return load_sweep(write_fit(tmp_path / "fit", Made(**made)))


def with_best(sweep: Sweep, low: float, value: float, high: float) -> Sweep:
    report = {**sweep.report, sweep.primary: Metric(value, low, high)}
    controls = {
        name: {sweep.primary: Metric(at, at - 0.02, at + 0.02)}
        for name, at in {"length": 0.55, "tfidf": 0.7, "shuffled_labels": 0.5}.items()
    }
    return dataclasses.replace(sweep, report=report, controls=controls)


def test_verdict_when_everything_is_cleared(tmp_path: Path) -> None:
    found = verdict(with_best(sweep_of(tmp_path, kind="pair", layers=2), 0.86, 0.91, 0.95))
    assert found.headline.startswith("Held-out pair accuracy 0.91 [0.86, 0.95] at layer ")
    assert "length alone 0.55, TF-IDF 0.70, shuffled labels 0.50" in found.headline
    assert found.conclusion == "The interval lies above chance (0.50). It clears every control."
    assert set(found.standings.values()) == {Standing.ABOVE}


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.46, 0.52, 0.58, "The interval includes chance (0.50): no signal is shown."),
        (0.65, 0.72, 0.78, "It includes TF-IDF (0.70): the probe is not shown to do better."),
        (0.60, 0.64, 0.68, "It lies below TF-IDF (0.70)"),
        (0.30, 0.35, 0.40, "The interval lies below chance (0.50)"),
        (float("nan"),) * 3 + ("no value on the report split",),
    ],
)
def test_verdict_says_what_is_not_cleared(
    tmp_path: Path, low: float, value: float, high: float, said: str
) -> None:
    sweep = with_best(sweep_of(tmp_path, kind="pair", layers=2), low, value, high)
    found = verdict(sweep).conclusion
    assert said in found
    assert "every control" not in found


def test_verdict_on_length_partialled_out(tmp_path: Path) -> None:
    sweep = with_best(sweep_of(tmp_path, kind="pair", layers=2), 0.86, 0.91, 0.95)
    for metric, said in (
        (Metric(0.8, 0.7, 0.9), "still above"),
        (Metric(0.5, 0.4, 0.6), "length may"),
    ):
        controls = {**sweep.controls, "length_partialled": {"pair_accuracy": metric}}
        found = verdict(dataclasses.replace(sweep, controls=controls))
        assert said in found.conclusion
        assert "length_partialled" not in found.standings


def test_verdict_names_controls_without_a_value(tmp_path: Path) -> None:
    sweep = with_best(sweep_of(tmp_path, kind="pair", layers=2), 0.86, 0.91, 0.95)
    controls = {**sweep.controls, "tfidf": {"pair_accuracy": Metric(float("nan"))}}
    found = verdict(dataclasses.replace(sweep, controls=controls)).conclusion
    assert "no value for TF-IDF" in found and "every control" not in found


def test_examples_are_ranked_by_how_well_they_are_read(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, kind="pair", layers=2, n=50)
    margins = {row.chosen.id: row.margin for row in pair_rows(sweep.predictions)}
    best, worst = best_and_worst(ranked(sweep))
    order = sorted(margins, key=lambda key: -margins[key])
    assert [row.id for row in best] == order[:10]
    assert [row.id for row in worst] == order[::-1][:10]
    assert examples_html(sweep).count("<details>") == 20


@pytest.mark.parametrize("kind", ["label", "rating"])
def test_merit_of_single_examples(tmp_path: Path, kind: str) -> None:
    sweep = sweep_of(tmp_path, kind=kind, layers=2, n=30)
    merits = {row.id: row.merit for row in ranked(sweep)}
    for row in sweep.predictions:
        if kind == "rating":
            assert merits[row.id] == -abs(row.prediction - row.target)
        else:
            assert merits[row.id] == (row.prediction if row.target else 1 - row.prediction)


@pytest.mark.parametrize("n", [1, 2, 7, 19, 20, 21])
def test_no_example_is_both_best_and_worst(tmp_path: Path, n: int) -> None:
    rows = ranked(sweep_of(tmp_path, kind="label", layers=2, n=n))
    best, worst = best_and_worst(rows)
    assert len(best) + len(worst) == min(n, 20)
    assert not {row.id for row in best} & {row.id for row in worst}


def test_pairs_with_the_same_id_stay_apart(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, kind="pair", layers=2, n=6)
    same = [dataclasses.replace(row, id="same") for row in sweep.predictions]
    assert [pair.margin for pair in pair_rows(same)] == [
        pair.margin for pair in pair_rows(sweep.predictions)
    ]


def test_numbers_and_names() -> None:
    assert number(-0.5) == "\N{MINUS SIGN}0.50"
    assert number(-0.001) == "0.00"
    assert number(float("nan")) == "–"
    assert number(24_800.0) == "24,800"
    assert with_interval(Metric(0.914, 0.86, 0.951)) == "0.91 [0.86, 0.95]"
    assert with_interval(Metric(0.914)) == "0.91"
    assert plot_text("<b>a</b>" + "x" * 50, 12) == "&lt;b&gt;a&lt;/b&gt;xxx…"
