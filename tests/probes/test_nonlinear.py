# ruff: noqa: N806 - X is a matrix
"""An MLP and an attention probe find what a linear head cannot, and no more where it suffices."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from probekit.activations.cache import cache_activations
from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.data.prompts import open_texts
from probekit.errors import ProbeError
from probekit.models.load import load_model
from probekit.probes import LogisticProbe, Probe, evaluate, fit_sweep
from probekit.probes.folder import fit_folder, load_head
from probekit.probes.nonlinear import AttentionProbe, MLPProbe
from probekit.probes.scoring import Scorer, score_examples
from probekit.probes.tokens import content_tokens, stored_scores
from probekit.reports.sweep import beside_words
from probekit.results.runs import open_run
from probekit.rl import trl_reward
from probekit.steering import steered
from tests.cli.test_cli import run as run_cli
from tests.tiny import tiny_model, tiny_tokenizer


def test_a_product_is_told_by_units_and_by_no_line(rng):
    X = rng.normal(size=(900, 4)) * 3 + 5
    y = (X[:, 0] - 5) * (X[:, 1] - 5) > 0
    probe = MLPProbe(hidden=24).fit(X[:600], y[:600])
    assert probe.score(X[600:], y[600:]) > 0.85
    assert LogisticProbe().fit(X[:600], y[:600]).score(X[600:], y[600:]) < 0.65


def test_scores_are_those_of_the_weights(rng):
    X = rng.normal(size=(200, 3))
    y = np.where(X[:, 0] > 0, "yes", "no")
    probe = MLPProbe(hidden=5).fit(X, y)
    first, bias, last, shift = [weight.double().numpy() for weight in probe.weights_]
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    np.testing.assert_allclose(
        probe.decision_function(X), np.maximum(z @ first + bias, 0) @ last + shift, atol=1e-4
    )
    assert probe.predict_proba(X)[:, 1] == pytest.approx(
        1 / (1 + np.exp(-probe.decision_function(X)))
    )
    assert set(probe.predict(X)) == {"yes", "no"} and probe.score(X, y) > 0.9


def planted(rng, n=400, d=8):
    """Return texts of which one token in ten to twenty holds the class, beside a mark of where it is."""
    lengths = rng.integers(10, 20, size=n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    X, y = rng.normal(size=(offsets[-1], d)), rng.integers(2, size=n)
    at = offsets[:-1] + rng.integers(lengths)
    X[at, 0], X[at, 1] = 9.0, 2.0 * (2 * y - 1)
    return X, offsets, y, at


def mean_rows(X, offsets):
    return np.array([X[a:b].mean(axis=0) for a, b in zip(offsets, offsets[1:], strict=False)])


def test_attention_reads_the_token_that_holds_the_class(rng):
    X, offsets, y, at = planted(rng)
    probe = AttentionProbe().fit(X, offsets, y)
    fresh, ends, truth, where = planted(rng)
    right = np.mean(probe.predict(fresh, ends) == truth)
    means = [mean_rows(X, offsets), mean_rows(fresh, ends)]
    assert right > 0.9 > np.mean(LogisticProbe().fit(means[0], y).predict(means[1]) == truth) + 0.05
    share = probe.attention(fresh, ends)
    np.testing.assert_allclose(np.add.reduceat(share, ends[:-1]), 1.0, rtol=1e-5)
    assert np.median(share[where]) > 2 / 15  # alike, each would have a fifteenth
    q, v, b = [weight.double().numpy() for weight in probe.weights_]
    tokens = (fresh[ends[3] : ends[4]] - X.mean(axis=0)) / X.std(axis=0)
    by_hand = softmax(tokens @ q) @ (tokens @ v) + b[0]
    assert probe.decision_function(fresh, ends)[3] == pytest.approx(by_hand, abs=1e-3)


def test_nothing_is_learned_of_noise(rng):
    X, y = rng.normal(size=(400, 6)), rng.integers(2, size=400)
    probe = MLPProbe().fit(X[:200], y[:200])
    assert abs(probe.score(X[200:], y[200:]) - 0.5) < 0.2
    with pytest.raises(ValueError, match="has 3 classes, expected 2"):
        MLPProbe().fit(X, np.arange(400) % 3)


def test_the_first_token_of_a_text_without_a_prompt_is_left_out():
    loaded = load_model(tiny_model(), tokenizer=tiny_tokenizer())
    rows = [{"text": f"day {i}", "label": "ab"[i % 2]} for i in range(4)]
    rows += [{"prompt": "Q?", "completion": f"yes {i}", "label": "ab"[i % 2]} for i in range(4)]
    cell = Cell("resid_post", 1, "all")
    with cache_activations(
        loaded, rows, positions="all", layers=[1], store_dtype="float32"
    ) as store:
        acts, offsets = store.read_ragged(cell)
        read, ends = content_tokens(store, cell)
    for i in range(8):
        own = acts[offsets[i] : offsets[i + 1]]
        np.testing.assert_array_equal(read[ends[i] : ends[i + 1]], own[1:] if i < 4 else own)


def rows_of(n, *, label=("up", "down")):
    return [
        {"text": f"{('good', 'bad')[i % 2]} day {i}", "label": label[i % 2], "group": f"g{i}"}
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def loaded():
    return load_model(tiny_model(), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def store(loaded, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "acts.h5"
    rows, more = rows_of(150), {"positions": "mean,all", "layers": [0, 1], "store_dtype": "float32"}
    with cache_activations(loaded, rows, path, **more) as made:
        yield made


FORMS = {"kinds": "attention,mlp", "aggregates": "max,softmax:2", "n_boot": 50}


@pytest.fixture(scope="module")
def result(store):
    return fit_sweep(store, **FORMS)


def test_they_stand_beside_the_linear_head_on_the_same_rows(store, result):
    assert list(result.beside) == ["mlp", "attention", "max", "softmax:2"]
    alone = fit_sweep(store, n_boot=50)
    np.testing.assert_array_equal(
        alone.probe.coef, result.probe.coef
    )  # they choose and change nothing
    report = result.task.splits.report
    label = store.examples.label[report]
    linear = roc_auc_score(label, result.scores[report])
    for found in result.beside.values():
        own = roc_auc_score(label, stored_scores(found.probe, store)[report])
        assert found.report["auroc"].value == pytest.approx(own)
        assert found.difference.value == pytest.approx(own - linear)
        assert found.difference.low <= found.difference.value <= found.difference.high
        assert found.n_cells == 2


def test_the_best_cell_is_the_one_of_the_choose_split(store, result):
    fit, choose = result.task.splits.fit, result.task.splits.choose
    label, groups = store.examples.label, store.examples.group
    values = {}
    for layer in (0, 1):
        X = store["resid_post", layer, "mean"]
        probe = MLPProbe().fit(X[fit], label[fit], groups[fit])
        values[layer] = roc_auc_score(label[choose], probe.decision_function(X[choose]))
    assert values[result.beside["mlp"].probe.layer] == max(values.values())


def test_they_are_saved_without_pickle_and_score_texts_as_the_store(
    loaded, store, result, tmp_path
):
    result.save(tmp_path / "fit")
    texts = [row["text"] for row in rows_of(150)]
    for name, found in result.beside.items():
        where = {"kind": name} if name in ("mlp", "attention") else {"position": name}
        probe = load_head(tmp_path / "fit", **where)
        stored = stored_scores(probe, store)
        np.testing.assert_allclose(stored, stored_scores(found.probe, store), rtol=1e-6)
        scorer = Scorer(probe, loaded)  # its reference rows agree
        rows = list(score_examples(scorer, open_texts(texts), source="texts"))
        np.testing.assert_allclose([row["score"] for row in rows], stored, atol=1e-3)
        judged = evaluate(probe, store, n_boot=20)
        again = evaluate(probe, rows_of(150), model=loaded, n_boot=20)
        assert again.metrics["auroc"].value == pytest.approx(
            judged.metrics["auroc"].value, abs=0.01
        )
        assert judged.metrics["auroc"].value == roc_auc_score(store.examples.label, stored)
    run = open_run(tmp_path / "fit")
    gaps = {name: found.difference for name, found in result.beside.items()}
    assert {name: found.value for name, found in run.beside.items()} == gaps
    page = (tmp_path / "fit" / "report.html").read_text()
    assert "Beside heads of other forms" in page


def test_what_needs_a_direction_refuses_them(loaded, result, tmp_path):
    result.save(tmp_path / "fit")
    with pytest.raises(ProbeError, match="its mlp probe is not linear, so it has no direction"):
        Probe.load(tmp_path / "fit", kind="mlp")
    mlp = load_head(tmp_path / "fit", kind="mlp")
    with pytest.raises(ProbeError, match="is not linear, so it has no direction"):
        with steered(loaded, mlp, 0.1):
            pass
    for probe in (mlp, result.beside["max"].probe):
        with pytest.raises(ProbeError, match="has no direction|reads every token by max"):
            with fit_folder(probe):
                pass
        with pytest.raises(ProbeError, match="has no direction|reads every token by max"):
            trl_reward(probe)
    with pytest.raises(ProbeError, match="has one score a text"):
        Scorer(load_head(tmp_path / "fit", kind="attention"), loaded).token_scores([])
    with pytest.raises(ProbeError, match="holds no such mlp probe, but one at layer"):
        load_head(tmp_path / "fit", kind="mlp", layer=7)


def test_what_the_store_does_not_hold_is_asked_for(loaded):
    ratings = [{"text": f"day {i}", "score": i} for i in range(12)]
    with cache_activations(loaded, ratings, positions="mean", layers=[1]) as store:
        with pytest.raises(ProbeError, match="kind 'mlp': does not fit a store of rating rows"):
            fit_sweep(store, kinds="mlp")
        with pytest.raises(
            ProbeError, match="aggregate 'max': does not fit a store of rating rows"
        ):
            fit_sweep(store, aggregates="max")
    with cache_activations(loaded, rows_of(30), positions="mean", layers=[1]) as store:
        for form in ({"kinds": "attention"}, {"aggregates": "ema"}):
            with pytest.raises(
                ProbeError, match="no position all at the layers .* --positions mean,all"
            ):
                fit_sweep(store, **form)
        with pytest.raises(ProbeError, match="aggregate 'last': is a position"):
            fit_sweep(store, aggregates="last")


def test_a_head_that_leaves_something_behind_is_a_finding(rng, tmp_path):
    X = rng.normal(size=(900, 6)).astype(np.float32)
    labels = {"product": X[:, 0] * X[:, 1] > 0, "line": X[:, 0] > 0}
    keys, words = {}, {}
    for name, label in labels.items():
        acts = {("resid_post", 0): X}
        store = ActivationStore.from_arrays(acts, labels=label.astype(int), position="mean")
        fit_sweep(store, kinds="mlp", n_boot=50).save(tmp_path / name)
        keys[name] = open_run(tmp_path / name).beside["mlp"].key
        (words[name],) = beside_words(tmp_path / name)
    assert keys["product"] == "above" and "leaves something behind" in words["product"]
    assert keys["line"] != "above" and "a linear head suffices" in words["line"]


def test_the_command_says_it_and_scores_with_them(tiny_llama, tmp_path, capsys):
    data, acts, fit = tmp_path / "d.jsonl", tmp_path / "acts.h5", tmp_path / "fit"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(80)))
    cache = ["cache", "--model", tiny_llama, "--data", data, "--layers", "1"]
    assert run_cli(*cache, "--positions", "mean,all", "--out", acts) == 0
    more = ["--kind", "mlp,attention", "--aggregate", "max", "--n-boot", "50"]
    capsys.readouterr()
    assert run_cli("fit", acts, "--out", fit, *more) == 0
    told = capsys.readouterr().out
    assert (
        "beside   mlp at layer 1, position mean: AUROC" in told and "above the linear head" in told
    )
    assert set(json.loads((fit / "sweep.json").read_text())["beside"]) == {
        "mlp",
        "attention",
        "max",
    }
    for which in (["--kind", "mlp"], ["--kind", "attention"], ["--position", "max"]):
        assert run_cli("score", "--probe", fit, "--data", data, *which) == 0
        scores = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
        out = tmp_path / which[1]
        assert (
            run_cli("evaluate", "--probe", fit, "--data", data, "--out", out, *which, "--json") == 0
        )
        (found,) = json.loads(capsys.readouterr().out)["results"]
        truth = [row["label"] == found["positive_class"] for row in rows_of(80)]
        assert found["metrics"]["auroc"]["value"] == pytest.approx(roc_auc_score(truth, scores))
    assert (
        run_cli("score", "--probe", fit, "--data", data, "--kind", "attention", "--per-token") == 1
    )
    assert "has one score a text" in capsys.readouterr().err
    assert run_cli("verify", fit) == 0
    weights = fit / "probes.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert run_cli("score", "--probe", fit, "--data", data, "--kind", "mlp") == 1
    told = capsys.readouterr().err
    assert "probes.safetensors" in told and "Fit again" in told
