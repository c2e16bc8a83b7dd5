"""A page of texts, every token with its score and its colour."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from probekit.activations.table import Cell
from probekit.models.load import load_model
from probekit.probes import Probe
from probekit.probes.probe import save_probes
from tests.cli.test_cli import run
from tests.tiny import D_MODEL


@pytest.fixture(scope="module")
def folders(tiny_llama, tmp_path_factory):
    found, rng = [], np.random.default_rng()
    about = load_model(str(tiny_llama), dtype="float32").describe()
    for name, kind in (("one", "label"), ("two", "rating")):
        folder = tmp_path_factory.mktemp("probes") / name
        folder.mkdir()
        of = {"classes": ("bad", "good")} if kind == "label" else {"score_range": (1.0, 5.0)}
        head = {"label": "logistic", "rating": "ridge"}[kind]
        cell, coef = Cell("resid_post", 1, "mean"), rng.normal(size=D_MODEL)
        probe = Probe(head, None, cell, coef, 0.1, 1.0, kind, provenance=about, **of)
        save_probes(folder, [probe], 0)
        found.append(folder)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    rows = [{"text": f"alpha <b>beta</b> {'gamma ' * i}end"} for i in range(3)]
    rows += [{"prompt": "Q <i>?", "completion": f"an answer {i}"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Page(HTMLParser):
    """The tokens of every text, by probe: look, token, score."""

    def __init__(self, text):
        super().__init__()
        self.tokens, self.tags, self.probe = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag == "div" and attrs.get("class", "").startswith("as "):
            self.probe = attrs["class"].split()[1]
        if tag == "p" and attrs.get("class") == "tokens":
            self.tokens.setdefault(self.probe, []).append([])
        if "data-score" in attrs:
            assert attrs["tabindex"] == "0" and attrs["title"] == attrs["data-score"]
            one = (attrs["class"], attrs["data-token"], attrs["data-score"])
            self.tokens[self.probe][-1].append(one)


def number(text):
    return float(text.replace("−", "-").replace(",", ""))


def test_every_token_has_its_score_and_its_colour(folders, data, tmp_path, capsys):
    out = tmp_path / "page.html"
    probes = [word for folder in folders for word in ("--probe", folder)]
    assert run("view", *probes, "--data", data, "--rows", 5, "--tokens", 6, "--out", out) == 0
    text = out.read_text()
    page = Page(text)
    assert "script" not in page.tags and "script-src &#39;none&#39;" in text
    assert page.tags.count("input") == 2 and "2 more left out" in text and "<b>beta" not in text
    for nth, folder in enumerate(folders):
        capsys.readouterr()
        assert run("score", "--probe", folder, "--data", data, "--per-token") == 0
        truth = [json.loads(line) for line in capsys.readouterr().out.splitlines()][:5]
        shown = page.tokens[f"p{nth}"]
        assert len(shown) == 5
        own = [
            row["scores"][i < 3 : 6] for i, row in enumerate(truth)
        ]  # the first of raw texts apart
        centre = 0.0 if nth == 0 else np.median(np.concatenate(own))
        reach = np.quantile(np.abs(np.concatenate(own) - centre), 0.98)
        for i, (row, tokens) in enumerate(zip(truth, shown, strict=True)):
            assert [token for _, token, _ in tokens] == row["tokens"][:6]
            for at, (look, _, score) in enumerate(tokens):
                value = row["scores"][at]
                assert number(score) == pytest.approx(
                    value, abs=0.5 if abs(value) >= 100 else 0.006
                )
                if i < 3 and at == 0:
                    assert look == "apart"
                    continue
                share = np.clip(5 * (value - centre) / reach, -5, 5)
                assert abs(int(look[1:]) - share) <= 0.5 + 1e-6
    assert "log-odds of good, centred at 0.00" in text and "ratings of 1 and 5" in text


def test_the_threshold_moves_the_colours(folders, data, tmp_path):
    looks = []
    for at in ("-1000", "1000"):
        out = tmp_path / f"{at}.html"
        command = ["view", "--probe", folders[0], "--data", data, "--threshold", at, "--out", out]
        assert run(*command) == 0
        tokens = Page(out.read_text()).tokens["p0"]
        looks.append({int(look[1:]) for row in tokens for look, *_ in row if look != "apart"})
    assert min(looks[0]) > 0 > max(looks[1])


def test_bad_input_is_one_line_and_leaves_nothing(folders, data, tmp_path, capsys):
    out = tmp_path / "page.html"
    command = ["view", "--probe", folders[0], "--data", data, "--out", out]
    assert run(*command, "--threshold", 1, "--threshold", 2) == 1
    assert "got 2 for 1 probes, expected one, or one of each" in capsys.readouterr().err
    assert run(*command, *["--probe", folders[0]] * 6) == 1
    assert "got 7 probes, expected 1 to 6" in capsys.readouterr().err
    assert run(*command, "--kind", "mlp") == 1
    assert "holds no such mlp probe" in capsys.readouterr().err
    assert not out.exists()
    out.write_text("mine")
    assert run(*command, "--force") == 1 and out.read_text() == "mine"
    capsys.readouterr()
