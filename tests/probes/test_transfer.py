"""Probes on other data: controls fitted there, thresholds from a control set, tables and their page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import brier_score_loss, roc_auc_score

import probekit as pk
from probekit.activations.table import Cell
from probekit.data import open_dataset
from probekit.errors import ProbeError
from probekit.models.load import load_model
from probekit.probes import Probe, evaluate
from probekit.probes.monitor import (
    SHARES,
    Costs,
    cascades,
    needed,
    rank_of_threshold,
    recall_at,
)
from probekit.probes.probe import save_probes
from probekit.probes.transfer import evaluate_all
from probekit.reports.evaluate import evaluate_figures
from tests.cli.test_cli import run
from tests.tiny import D_MODEL


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


@pytest.fixture(scope="module")
def folders(loaded, tmp_path_factory):
    """Two probes with random weights, where `probekit fit` would leave them."""
    found, rng = [], np.random.default_rng()
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp("probes") / name
        folder.mkdir()
        probe = Probe(
            kind="logistic", head=None, cell=Cell("resid_post", 1, "mean"), coef=rng.normal(size=D_MODEL),
            bias=0.1, l2=1.0, data_kind="label", classes=("bad", "good"), provenance=loaded.describe(),
        )  # fmt: skip
        save_probes(folder, [probe], 0)
        found.append(folder)
    return found


def write(path, n, *, long, names=("bad", "good")):
    """Write rows whose class is told by their length, or by nothing."""
    rng = np.random.default_rng(n)
    rows = []
    for i in range(n):
        label = i % 2
        words = rng.integers(2, 6) + (6 * label if long else 0)
        text = " ".join(rng.choice(["alpha", "beta", "gamma", "delta"], size=words))
        rows.append(
            {"text": f"{text} {i}", "label": names[label], "tags": {"half": "ab"[i // 2 % 2]}}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return [
        write(folder / "long.jsonl", 80, long=True), write(folder / "even.jsonl", 60, long=False),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def table(folders, files, tmp_path_factory):
    """Both probes on both data sets, through the command line."""
    out = tmp_path_factory.mktemp("out") / "transfer"
    probes = [word for folder in folders for word in ("--probe", folder)]
    data = [word for file in files for word in ("--data", file)]
    assert run("evaluate", *probes, *data, "--fpr", "0.2", "--out", out) == 0
    return out


def test_a_table_has_what_evaluate_finds_of_each(table, folders, files, loaded):
    record = json.loads((table / "evaluate.json").read_text())
    assert [(r["probe"], r["data"]) for r in record["results"]] == [
        (p, d) for p in ("one", "two") for d in ("long.jsonl", "even.jsonl")
    ]
    rows = pk.open_run(table).rows
    for result in record["results"]:
        folder = folders[("one", "two").index(result["probe"])]
        file = files[("long.jsonl", "even.jsonl").index(result["data"])]
        found = evaluate(Probe.load(folder), file, model=loaded)
        same = found.to_json()
        for part in ("metrics", "by_tag", "at", "reliability", "n"):
            assert leaves(result[part]) == pytest.approx(leaves(same[part]), nan_ok=True)
        own = rows[(rows["probe"] == result["probe"]) & (rows["data"] == result["data"])]
        np.testing.assert_allclose(own["score"], found.scores)
        truth = own["target"].to_numpy()
        assert result["metrics"]["auroc"]["value"] == pytest.approx(
            roc_auc_score(truth, own["score"])
        )
        chance = 1 / (1 + np.exp(-own["score"]))
        assert result["metrics"]["brier"]["value"] == pytest.approx(brier_score_loss(truth, chance))


def leaves(value):
    """Return the numbers of a JSON value by their place, null as NaN."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    if isinstance(value, (dict, list)):
        return {f"{k}.{place}": x for k, item in items for place, x in leaves(item).items()}
    return {"": np.nan if value is None else float(value)}


def test_controls_are_fitted_to_the_data_out_of_fold(table):
    frame = pk.open_run(table).metrics.set_index(["probe", "data", "part", "control", "measure"])
    told = frame.loc[("one", "long.jsonl", "folds", "length", "auroc")]
    assert told["value"] > 0.99 and told["low"] > 0.7
    none = frame.loc[("one", "even.jsonl", "folds", "length", "auroc")]
    assert none["low"] < 0.6 and none["high"] > 0.4
    record = json.loads((table / "evaluate.json").read_text())
    for result in record["results"]:
        own, parts = result["controls"]["own"]["value"], result["controls"]
        for name in ("length", "tfidf"):
            gap = own - parts["values"][name]["value"]
            assert parts["differences"][name]["value"] == pytest.approx(gap)
            assert parts["differences"][name]["low"] <= gap <= parts["differences"][name]["high"]


def test_a_table_is_opened_drawn_and_verified(table, tmp_path, capsys):
    found = pk.open_run(table)
    assert found.command == "evaluate" and len(found.rows) == 2 * (80 + 60)
    page = (table / "report.html").read_text()
    assert "one on long.jsonl" in page and "As a monitor" in page
    figures = evaluate_figures(found)
    value = found.record["results"][0]["metrics"]["auroc"]["value"]
    assert value in np.concatenate([np.ravel(t.z) for t in figures["transfer"].data])
    assert run("report", table, "--out", tmp_path / "again.html") == 0
    assert run("verify", table) == 0
    capsys.readouterr()


def test_one_result_has_its_controls_beside_it(folders, files, loaded, tmp_path):
    probe = Probe.load(folders[0])
    found = evaluate_all({"one": probe}, {"long": open_dataset(files[0])}, model=lambda p: loaded)
    found.save(tmp_path / "out")
    names = evaluate_figures(found.run())["controls"].layout.yaxis.ticktext
    assert names[1:] == ("length alone", "TF-IDF")
    opened = pk.open_run(tmp_path / "out")
    assert opened.metrics.equals(found.run().metrics)
    assert opened.rows.equals(found.run().rows)


def test_classes_are_matched_by_name_for_each_data_set(folders, files, tmp_path, capsys):
    other = write(tmp_path / "o.jsonl", 40, long=False, names=("neg", "pos"))
    three = tmp_path / "three.jsonl"
    rows = [{"text": f"text {i}", "label": "xyz"[i % 3]} for i in range(30)]
    three.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", "--probe", folders[0], "--out", tmp_path / "out", "--json"]
    assert run(*command, "--data", other) == 1
    told = capsys.readouterr().err
    assert "the data have neg, pos, the probe knows bad, good" in told and "--positive" in told
    assert not (tmp_path / "out").exists()
    assert run(*command, "--data", three) == 1
    assert "a third class ('x', 'y', 'z')" in capsys.readouterr().err
    assert (
        run(*command, "--data", other, "--data", three, "--positive", "pos", "--positive", "y") == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [r["positive_class"] for r in found["results"]] == ["pos", "y"]
    assert run(*command, "--data", other, "--data", three, *["--positive", "x"] * 3, "--force") == 2
    capsys.readouterr()


def test_texts_scored_by_their_tokens_have_no_scale(folders, files, tmp_path, capsys):
    command = [
        "evaluate",
        "--probe",
        folders[0],
        "--data",
        files[1],
        "--out",
        tmp_path / "out",
        "--json",
    ]
    assert run(*command, "--aggregate", "max", "--fpr", "0.2") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert set(result["metrics"]) == {"auroc"} and not result["reliability"] and "at" not in result
    assert run("score", "--probe", folders[0], "--data", files[1], "--aggregate", "max") == 0
    scores = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    truth = [json.loads(line)["label"] == "good" for line in files[1].read_text().splitlines()]
    assert result["metrics"]["auroc"]["value"] == pytest.approx(roc_auc_score(truth, scores))


def test_the_threshold_comes_from_a_control_set(folders, files, tmp_path, capsys):
    control = tmp_path / "control.txt"
    control.write_text("".join(f"alpha beta {i}\n" for i in range(60)))
    command = [
        "evaluate",
        "--probe",
        folders[0],
        "--data",
        files[0],
        "--out",
        tmp_path / "out",
        "--json",
    ]
    assert run(*command, "--control", control, "--fpr", "0.05", "--fpr", "0.01") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    at, rare = result["monitors"]
    assert run("score", "--probe", folders[0], "--data", control) == 0
    scores = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    assert at["source"] == "control" and at["needed"] == 59
    assert at["threshold"] == pytest.approx(max(scores), abs=1e-4)
    assert not rare["estimable"] and rare["recall"]["value"] is None and rare["needed"] == 299


@pytest.mark.parametrize("fpr", [0.3, 0.05, 0.01])
def test_the_rank_is_the_largest_that_bounds_the_rate(fpr):
    least = needed(fpr)
    assert (1 - fpr) ** least <= 0.05 < (1 - fpr) ** (least - 1)
    assert rank_of_threshold(least - 1, fpr) == 0 and rank_of_threshold(least, fpr) == 1
    for n in (least, 2 * least, 1000):
        fit = [k for k in range(1, n) if binom.cdf(k - 1, n, fpr) <= 0.05]
        assert rank_of_threshold(n, fpr) == max(fit)
    assert needed(0.01) == 299


def test_the_rate_is_kept_in_19_of_20_draws(rng):
    fpr, n, kept = 0.05, 150, 0
    for _ in range(400):
        control = rng.normal(size=n)
        threshold = np.sort(control)[::-1][rank_of_threshold(n, fpr) - 1]
        kept += (1 - 0.5 * (1 + erf(threshold / np.sqrt(2)))) <= fpr
    assert kept >= binom.ppf(1e-6, 400, 0.95)


def erf(x):
    from scipy.special import erf as own

    return float(own(x))


def test_recall_is_the_share_above_the_threshold_and_its_interval_covers(rng):
    covered, runs, fpr = 0, 100, 0.05
    for seed in range(runs):
        control = (rng.normal(size=200), np.arange(200))
        label, groups = np.repeat([1, 0], [80, 20]), np.arange(100)
        score = rng.normal(size=100) + 2 * label
        found = recall_at(label, score, groups, fpr, control=control, n_boot=200, seed=seed)
        assert found.recall.value == np.mean(score[:80] > found.threshold)
        assert found.false_alarms.value == np.mean(score[80:] > found.threshold)
        expected = 1 - 0.5 * (1 + erf((typical(fpr, 200) - 2) / np.sqrt(2)))
        covered += found.recall.low <= expected <= found.recall.high
    assert covered >= 85  # about 95; the expected recall is that at the typical threshold


def test_the_interval_of_recall_is_as_wide_as_the_recall_varies(rng):
    fpr, n, label = 0.05, 1000, np.repeat([1, 0], [400, 5])
    found, widths = [], []
    for seed in range(60):
        score, control = rng.normal(size=405) + 1.5 * label, (rng.normal(size=n), np.arange(n))
        one = recall_at(
            label, score, np.arange(405), fpr, control=control, n_boot=200, seed=seed
        )  # fmt: skip
        found.append(one.recall.value)
        widths.append(one.recall.high - one.recall.low)
    assert (
        0.75 < np.mean(widths) / (2 * 1.96 * np.std(found)) < 1.5
    )  # 60 runs tell the spread to a fifth


def typical(fpr, n):
    """Return the median of the threshold that n normal scores give."""
    from scipy.stats import beta, norm

    k = rank_of_threshold(n, fpr)
    return norm.ppf(1 - beta.ppf(0.5, k, n + 1 - k))


def test_rows_of_one_group_are_no_more_negatives(rng):
    label, score = np.repeat([0, 1], [600, 50]), rng.normal(size=650)
    alone = recall_at(label, score, np.arange(650), 0.01, n_boot=50)
    grouped = recall_at(
        label, score, np.r_[np.arange(600) // 3, np.arange(600, 650)], 0.01, n_boot=50
    )
    assert (alone.n, alone.estimable, alone.source) == (600, True, "negatives")
    assert (grouped.n, grouped.estimable) == (200, False) and np.isnan(grouped.recall.value)
    with pytest.raises(ProbeError, match="expected a share between 0 and 1"):
        recall_at(label, score, np.arange(650), 1.0)


def test_all_found_has_an_interval_that_is_not_empty():
    label, score = np.repeat([0, 1], [400, 40]), np.repeat([0.0, 9.0], [400, 40])
    found = recall_at(label, score, np.arange(440), 0.01, n_boot=50)
    assert found.recall.value == 1.0 and found.recall.low < 0.95


def test_rows_that_a_fit_did_not_hold_out_are_counted_and_named(tiny_llama, tmp_path, capsys):
    rows = [
        {"id": f"r{i}", "group": f"g{i}", "text": ["ab ", "xy "][i % 2] * (2 + i % 3), "label": "cd"[i % 2]}
        for i in range(60)
    ]  # fmt: skip
    files = {"fitted.jsonl": rows[:40], "all.jsonl": rows, "new.jsonl": rows[40:]}
    for name, part in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    store, fit = tmp_path / "acts.h5", tmp_path / "fit"
    cache = [
        "cache",
        "--model",
        tiny_llama,
        "--data",
        tmp_path / "fitted.jsonl",
        "--positions",
        "mean",
    ]
    assert run(*cache, "--out", store) == 0 and run("fit", store, "--out", fit) == 0
    splits = [json.loads(line) for line in (fit / "splits.jsonl").read_text().splitlines()]
    known = sum(row["split"] in ("fit", "choose") for row in splits)
    data = [word for name in files for word in ("--data", tmp_path / name)]
    assert run("evaluate", "--probe", fit, *data, "--out", tmp_path / "out") == 0
    n = {r["data"]: r["n"].get("seen") for r in pk.open_run(tmp_path / "out").record["results"]}
    assert n == {"fitted.jsonl": known, "all.jsonl": known, "new.jsonl": None} and known > 20
    told = capsys.readouterr().out
    assert f"{known} of them not held out of its fit" in told
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<b>{known} of them not held out of its fit</b>" in page


def test_a_cascade_sends_what_the_probe_flags(folders, files, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", "--probe", folders[0], "--data", files[0], "--out", out, "--fpr", "0.2"]
    more = ["--judge-cost", "50", "--probe-cost", "0.5", "--base-rate", "0.1"]
    assert run(*command, *more) == 0
    told = capsys.readouterr().out
    run_ = pk.open_run(out)
    rows, (result,) = run_.rows, run_.record["results"]
    one, score = rows["target"].to_numpy() == 1, rows["score"].to_numpy()
    (monitor,) = result["monitors"]
    assert result["cascade"][0]["threshold"] == monitor["threshold"]
    assert result["cascade"][0]["recall"]["value"] == monitor["recall"]["value"]
    for row in result["cascade"]:
        flagged = score > row["threshold"]
        sent = 0.1 * flagged[one].mean() + 0.9 * flagged[~one].mean()
        assert row["sent"]["value"] == pytest.approx(sent)
        assert row["recall"]["value"] == pytest.approx(flagged[one].mean())
        assert row["cost"]["value"] == pytest.approx(1000 * (0.5 + 50 * sent))
        for name in ("sent", "recall", "cost"):
            ends = row[name]
            assert ends["low"] <= ends["value"] <= ends["high"] and ends["low"] < ends["high"]
    assert "cascade at 20.0" in told and "of rows to the judge" in told
    page = (out / "report.html").read_text()
    assert "Probe, then judge" in page and "the judge alone costs" in page
    assert "cascade" in evaluate_figures(run_)
    assert run(*command, "--force", "--base-rate", "0.1") == 2
    assert "give --judge-cost too" in capsys.readouterr().err
    for bad, words in (
        (["--judge-cost", "0"], "costs: got 0"),
        (more[:5] + ["1.5"], "base rate 1.5"),
    ):
        assert run(*command, "--force", *bad) == 1
        assert words in capsys.readouterr().err


def test_no_more_than_the_share_is_sent_and_its_interval_covers(rng):
    covered, runs = 0, 100
    for seed in range(runs):
        label = (rng.random(300) < 0.3).astype(int)
        score = np.round(rng.normal(size=300) + 1.5 * label, 2)  # with ties
        found = cascades(label, score, np.arange(300), [], Costs(10.0), n_boot=50, seed=seed)
        for one, share in zip(found, SHARES, strict=True):
            assert one.sent.value <= share + 1e-9
            assert one.sent.value == np.mean(score > one.threshold)
        at = found[4]
        covered += (
            at.recall.low
            <= 1 - 0.5 * (1 + erf((at.threshold - 1.5) / np.sqrt(2)))
            <= at.recall.high
        )
    assert covered >= 85
    assert cascades(np.zeros(5), np.arange(5.0), np.arange(5), [], Costs(1.0)) == []
