"""A fit of three classes, from rows to the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

import probekit as pk
from probekit.activations.store import ActivationStore
from probekit.errors import DataError, ProbeError
from probekit.probes import LogisticProbe, Probe, evaluate, fit_sweep
from probekit.probes.classes import fit_classes, load_classes
from probekit.probes.splits import fold_by_group
from tests.cli.test_cli import run

NAMES = np.array(["calm", "joy", "rage"])


def arrays(rng, n=300, d=12):
    """Return a store of two layers, of which the second holds three classes."""
    y = rng.integers(3, size=n)
    centres = rng.normal(size=(3, d)) * 1.2
    acts = {
        ("resid_post", 0): rng.normal(size=(n, d)),
        ("resid_post", 1): rng.normal(size=(n, d)) + centres[y],
    }
    more = {
        "labels": list(NAMES[y]),
        "groups": [f"g{i // 2}" for i in range(n)],
        "position": "mean",
    }
    return ActivationStore.from_arrays(acts, **more), y


@pytest.fixture(scope="module")
def fitted():
    store, y = arrays(np.random.default_rng())
    return store, y, fit_classes(store, n_boot=100)


def test_the_planted_layer_is_chosen_and_measured_as_scikit_learn_does(fitted):
    store, y, result = fitted
    assert store.examples.several == tuple(NAMES) and store.examples.classes is None
    assert result.cells[result.chosen].layer == 1
    assert list(store.examples_frame()["label"]) == list(NAMES[y])
    acts, report = store["resid_post", 1, "mean"], result.task.splits.report
    chance = result.probe.predict_proba(acts[report])
    np.testing.assert_allclose(chance, softmax(result.scores[result.chosen][report], axis=1))
    guess = chance.argmax(axis=1)
    found = {name: value.value for name, value in result.report.items()}
    assert found["macro_auroc"] == pytest.approx(
        roc_auc_score(y[report], chance, multi_class="ovr")
    )
    assert found["macro_f1"] == pytest.approx(f1_score(y[report], guess, average="macro"))
    np.testing.assert_array_equal(result.confusion, confusion_matrix(y[report], guess))
    assert found["macro_auroc"] > 0.7 > result.controls["shuffled_labels"]["macro_auroc"].value


def test_the_penalty_is_the_one_of_the_folds_of_the_fit_split(fitted):
    store, y, result = fitted
    fit, head = result.task.splits.fit, result.heads[1]
    x, code = store["resid_post", 1, "mean"][fit], y[fit]
    other = LogisticProbe(head.l2).fit(x, NAMES[code])
    np.testing.assert_allclose(head.coef.T, other.coef_, atol=1e-3)
    fold = fold_by_group(result.task.group_codes[fit], 3, seed=0)
    z = (x - x.mean(axis=0)) / x.std(axis=0)

    def loss(l2):
        total = 0.0
        for k in range(3):
            probe = LogisticProbe(l2, standardize=False).fit(z[fold != k], code[fold != k])
            total -= np.log(
                probe.predict_proba(z[fold == k])[np.arange((fold == k).sum()), code[fold == k]]
            ).sum()
        return total

    grid = len(fit) * 10.0 ** np.arange(-2.5, 2)
    losses = np.array([loss(l2) for l2 in grid])
    assert loss(head.l2) <= losses.min() + 1e-2
    assert np.isclose(head.l2, grid).any()


def test_it_is_saved_drawn_and_loaded(fitted, tmp_path):
    store, y, result = fitted
    result.save(tmp_path / "fit")
    record = json.loads((tmp_path / "fit" / "sweep.json").read_text())
    assert record["confusion"] == result.confusion.tolist() and record["primary"] == "macro_auroc"
    page = (tmp_path / "fit" / "report.html").read_text()
    assert "Held-out rows by true class (down)" in page and "macro AUROC" in page
    probe, cell = load_classes(tmp_path / "fit")
    acts = store.read(cell)
    np.testing.assert_allclose(probe.predict_proba(acts), result.probe.predict_proba(acts))
    opened = pk.open_run(tmp_path / "fit")
    report = result.task.splits.report
    rows = opened.rows
    told = result.probe.predict_proba(acts)[report]
    np.testing.assert_allclose(
        rows["prediction"], told[np.arange(len(report)), y[report]], atol=1e-9
    )
    assert opened.findings["chance"].key == "above"
    assert (opened.examples["merit"].diff().dropna() <= 0).all()
    assert run("verify", tmp_path / "fit") == 0


def test_what_reads_two_classes_refuses_them(fitted, tmp_path):
    store, _, result = fitted
    result.save(tmp_path / "fit")
    with pytest.raises(ProbeError, match="is a head of 3 classes, which has no one direction"):
        Probe.load(tmp_path / "fit")
    with pytest.raises(DataError, match="the store has 3 classes, expected two.*--positive"):
        fit_sweep(store)
    with pytest.raises(ProbeError, match="3 classes: are fitted by --kind logistic"):
        fit_classes(store, kinds="mean-difference")
    two = ActivationStore.from_arrays(
        {("resid_post", 1): store["resid_post", 1, "mean"]},
        labels=["a", "b"] * 150,
        position="mean",
    )
    with pytest.raises(ProbeError, match="classes: the store has no three"):
        fit_classes(two)
    probe = fit_sweep(two, n_boot=20).probe
    with pytest.raises(ProbeError, match="the data have calm, joy, rage, expected two"):
        evaluate(probe, store)
    rare = ActivationStore.from_arrays(
        {("resid_post", 1): np.eye(30)}, labels=["a", "b"] * 14 + ["c"] * 2, position="mean"
    )
    with pytest.raises(
        DataError, match="split has no row of 'c'. Every class needs at least 3 groups"
    ):
        fit_classes(rare)


def test_three_classes_go_through_the_commands(tiny_llama, tmp_path, capsys):
    words = {"calm": "still", "joy": "great", "rage": "awful"}
    rows = [
        {"text": f"{words[n]} day {i}", "label": n, "group": f"g{i}"}
        for i in range(40)
        for n in words
    ]
    data, acts, fit = tmp_path / "d.jsonl", tmp_path / "acts.h5", tmp_path / "fit"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("data", "check", data) == 0
    cache = ["cache", "--model", tiny_llama, "--data", data, "--positions", "mean"]
    assert run(*cache, "--out", acts, "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["classes"] == {"calm": 40, "joy": 40, "rage": 40} and told["positive_class"] is None
    assert run("fit", acts, "--out", fit, "--n-boot", 50) == 0
    told = capsys.readouterr().out
    record = json.loads((fit / "sweep.json").read_text())
    assert "confusion (true class down, predicted across)" in told and "macro_f1:" in told
    for name, counts in zip(words, record["confusion"], strict=True):
        *_, line = [line for line in told.splitlines() if line.split()[:1] == [name]]
        assert [int(cell) for cell in line.split()[1:]] == counts
    assert run("score", "--probe", fit, "--data", data) == 1
    assert "is a head of 3 classes" in capsys.readouterr().err
    assert run(*cache, "--out", acts, "--positive", "joy", "--force") == 0
    assert run("fit", acts, "--out", fit, "--n-boot", 50, "--force") == 0
    assert json.loads((fit / "sweep.json").read_text())["positive_class"] == "joy"
    capsys.readouterr()
