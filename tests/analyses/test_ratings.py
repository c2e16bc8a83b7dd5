"""A rating at every token, stacked cells, two fits compared: against sums done another way."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import probekit as pk
from probekit.activations.store import ActivationStore
from probekit.analyses import tokens as curve
from probekit.analyses.compare import compare_fits
from probekit.analyses.early import known_from
from probekit.analyses.stacking import stack_cells
from probekit.analyses.tokens import STARTS, token_curve
from probekit.errors import ProbeError
from probekit.models.load import load_model
from probekit.probes import Probe, fit_sweep
from probekit.probes.moments import Moments
from probekit.probes.nonlinear import AttentionProbe
from probekit.results.intervals import Resampler
from probekit.results.ratings import variance_split
from probekit.results.runs import open_run
from probekit.rl.head_data import HeadData
from tests.cli.test_cli import run

N, D = 360, 12


def test_moments_give_the_ridge_of_all_rows_and_its_error(rng):
    X = rng.normal(size=(300, 7)) * rng.uniform(0.1, 30, size=7) + 5
    y, weights = X @ rng.normal(size=7) + rng.normal(size=300), rng.uniform(0.2, 2, size=300)
    moments = Moments(7)
    for part in np.array_split(np.arange(300), 11):
        moments.add(X[part], y[part], weights[part])
    l2 = np.array([0.5, 40.0, 3000.0])
    coef, bias = moments.ridge(l2)
    scaler = StandardScaler().fit(X, sample_weight=weights)
    still = Moments(2)
    still.add(np.column_stack([y, np.full(300, 0.1)]), y, weights)
    assert np.allclose(
        still.ridge(np.array([1e-9]))[0], [[1, 0]], atol=1e-2
    )  # a constant says nothing
    for k, alpha in enumerate(l2):
        known = Ridge(alpha=alpha).fit(scaler.transform(X), y, sample_weight=weights)
        assert np.allclose(X @ coef[k] + bias[k], known.predict(scaler.transform(X)), atol=1e-6)
    gaps = (X @ coef.T + bias - y[:, None]) ** 2
    assert np.allclose(moments.error(coef, bias), weights @ gaps / weights.sum(), rtol=1e-7)


@pytest.fixture(scope="module")
def rated(tmp_path_factory, tiny_llama):
    """Texts of a tiny model whose rating is told by the letters in them; store, fit, model."""
    folder = tmp_path_factory.mktemp("rated")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(120):
        score = int(rng.integers(1, 6))
        word = "abcdef"[score]
        text = " ".join(word * int(k) for k in rng.integers(1, 4, size=rng.integers(2, 9)))
        rows.append({"prompt": f"say {i // 2}", "completion": text, "score": score})
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    run(
        "cache", "--model", str(tiny_llama), "--data", str(folder / "rows.json"), "--dtype", "float32",
        "--positions", "last,mean,all", "--out", str(folder / "acts.h5"),
    )  # fmt: skip
    run("fit", str(folder / "acts.h5"), "--layers", "1", "--positions", "last,mean", "--out",
        str(folder / "fit"))  # fmt: skip
    return folder


def test_the_curve_over_tokens_is_that_of_stored_tokens(rated, tiny_llama):
    loaded = load_model(str(tiny_llama), dtype="float32")
    found = token_curve(rated / "fit", loaded, batch_tokens=64)
    with ActivationStore.open(rated / "acts.h5") as store:
        probe = Probe.load(rated / "fit")
        acts, offsets = store.read_ragged(probe.cell._replace(position="all"))
        task = HeadData.open(rated / "fit", probe).task
    texts = [acts[a:b].astype(float) for a, b in zip(offsets, offsets[1:], strict=False)]
    fit = task.splits.fit
    X = np.concatenate([texts[i] for i in fit])
    y = np.concatenate([np.full(len(texts[i]), task.target[i]) for i in fit])
    weights = np.concatenate([np.full(len(texts[i]), 1 / len(texts[i])) for i in fit])
    scaler = StandardScaler().fit(X, sample_weight=weights)
    known = Ridge(alpha=found.l2).fit(scaler.transform(X), y, sample_weight=weights)

    report, low, high = task.splits.report, *task.score_range
    rating = task.examples.score[report]
    said = [
        (known.predict(scaler.transform(texts[i])) + 1) / 2 * (high - low) + low for i in report
    ]
    by = {(p.reader, p.measured, p.binned, p.at): p for p in found.points}
    for at in STARTS:
        long = [k for k, own in enumerate(said) if len(own) >= at]
        if len(long) < curve.FEWEST:
            assert ("all tokens", "start", False, at) not in by
            continue
        for measured, place in (("start", at - 1), ("end", -at)):
            point = by["all tokens", measured, False, at]
            r = np.corrcoef([said[k][place] for k in long], rating[long])[0, 1]
            assert point.n == len(long)
            assert abs(point.pearson.value - r) < 2e-3  # the store keeps float16
    half = [own[-(-len(own) // 2) - 1] for own in said]
    r = np.corrcoef(half, rating)[0, 1]
    assert abs(by["all tokens", "part", False, 0.5].pearson.value - r) < 2e-3
    last = by["probe", "end", False, 1]
    scores = [texts[i][-1] @ probe.coef + probe.bias for i in report]
    assert abs(last.pearson.value - np.corrcoef(scores, rating)[0, 1]) < 2e-3
    # Nothing is known before the text, everything at its end.
    assert by["all tokens", "part", False, 0.0].pearson.low < 0.2
    assert 0.1 <= found.known_from["all tokens"].value <= 1.0


def test_the_batch_changes_nothing_but_the_memory(rated, tiny_llama):
    loaded = load_model(str(tiny_llama), dtype="float32")
    one, other = (
        token_curve(rated / "fit", loaded, layers=[0, 1], batch_tokens=size) for size in (40, 4000)
    )
    assert (one.layer, one.l2) == (other.layer, other.l2)
    for a, b in zip(one.points, other.points, strict=True):
        assert a[:5] == b[:5]
        assert abs(a.pearson.value - b.pearson.value) < 1e-4


def test_from_where_a_rating_is_known():
    rng = np.random.default_rng()
    n, rating = 400, None
    rating = rng.normal(size=n)
    part = rng.normal(size=(n, 11))
    part[:, 4:] = rating[:, None] + 0.2 * rng.normal(size=(n, 7))  # known from 40 % on
    part[:, 2] = rating  # a lucky place before it does not count
    found = known_from(part, rating, Resampler(np.arange(n)))
    assert found.value == 0.4
    assert found.low <= 0.4 <= found.high <= 0.5
    none = known_from(rng.normal(size=(n, 11)) * 0, rating, Resampler(np.arange(n)))
    assert not none.known


def test_a_fit_in_memory_gives_what_the_command_gives(rated, tiny_llama, tmp_path):
    run(
        "tokens", "--probe", str(rated / "fit"), "--out", str(tmp_path / "tokens"), "--threads", "1"
    )
    loaded = load_model(str(tiny_llama), dtype="float32")
    result = fit_sweep(rated / "acts.h5", layers="1", positions="last,mean")
    curve, known = pk.token_curve(result, loaded), open_run(tmp_path / "tokens").record
    assert [p.n for p in curve.points] == [p["n"] for p in known["points"]]
    for ours, theirs in zip(curve.points, known["points"], strict=True):
        assert ours.pearson.value == pytest.approx(theirs["pearson"]["value"], abs=1e-4)
    stacked = pk.stack_cells(result)
    assert stacked.metrics["stack"]["pearson"].value == pytest.approx(
        pk.stack_cells(rated / "fit").metrics["stack"]["pearson"].value
    )
    assert pk.compare_fits(result, rated / "fit").change.value == 0


def _store(folder, name, acts, score, groups, model="tiny"):
    rows = [
        {
            "prompt": f"p{g}",
            "completion": f"c{i}",
            "score": float(s),
            "group": f"g{g}",
            "id": f"r{i}",
        }
        for i, (s, g) in enumerate(zip(score, groups, strict=True))
    ]
    path = folder / f"{name}.h5"
    ActivationStore.from_arrays(acts, out=path, rows=rows, model=model, n_layers=4).close()
    fit_sweep(path, positions="last").save(folder / f"fit_{name}")
    return path, folder / f"fit_{name}"


def test_cells_that_each_hold_a_half_are_stacked_and_a_single_one_is_not_beaten(tmp_path):
    rng = np.random.default_rng(3)
    halves, direction = rng.normal(size=(2, N)), rng.normal(size=(4, D))
    score, groups = halves.sum(axis=0), np.arange(N) // 3
    apart = {("resid_post", k, "last"): rng.normal(size=(N, D)) for k in range(4)}
    for k in (0, 1):
        apart["resid_post", k, "last"] += 3 * np.outer(halves[k], direction[k])
    store, fit = _store(tmp_path, "apart", apart, score, groups)
    found = stack_cells(fit, store)
    assert found.differences["stack"].low > 0.1
    assert found.differences["low rank"].low > 0.1
    # A weighted sum of two halves, the empty cells next to nothing.
    assert found.weights[:2].sum() > 0.9
    assert abs(found.weights[0] - found.weights[1]) < 0.15
    assert found.metrics["stack"]["mae"].value < found.single["mae"].value
    best = found.metrics[found.best]["pearson"].value
    assert best == pytest.approx(max(m["pearson"].value for m in found.metrics.values()), abs=0.03)

    alone = {cell: rng.normal(size=(N, D)) for cell in apart}
    alone["resid_post", 2, "last"] += 1.5 * np.outer(score, direction[2])
    store, fit = _store(tmp_path, "alone", alone, score, groups)
    found = stack_cells(fit, store)
    assert found.differences["stack"].low < 0.02
    assert abs(found.differences["stack"].value) < 0.03


def test_attention_finds_the_token_that_holds_the_rating(tmp_path, rated, tiny_llama):
    """A rating at one token among many, told by the token itself: a mean loses what attention finds."""
    rng = np.random.default_rng(0)
    n, where, value = 400, rng.normal(size=D), rng.normal(size=D)
    where -= where @ value / (value @ value) * value
    offsets, score = np.arange(0, 12 * n + 1, 12), rng.normal(size=n)
    tokens = rng.normal(size=(12 * n, D))
    at = offsets[:-1] + rng.integers(12, size=n)
    tokens[at] += 6 * where + np.outer(score, value)
    probe = AttentionProbe(rating=True).fit(tokens[: 12 * 300], offsets[:301], score[:300])
    found = probe.decision_function(tokens, offsets)
    means = tokens.reshape(n, 12, D).mean(axis=1)
    linear = Ridge(alpha=1.0).fit(means[:300], score[:300]).predict(means)
    attended, averaged = (np.corrcoef(x[300:], score[300:])[0, 1] for x in (found, linear))
    assert attended > averaged + 0.1
    assert abs(np.std(found) / np.std(score) - 1) < 0.4  # in the units of the ratings

    stacked = stack_cells(rated / "fit", tokens=rated / "acts.h5")
    item = stacked.candidates["attention"]
    assert item.setting["steps"] > 0
    assert stacked.metrics["attention"]["pearson"].value > 0.5
    with pytest.raises(ProbeError, match="holds no resid_post/001/all of rated or labelled rows"):
        bare = {("resid_post", 1, "last"): rng.normal(size=(60, D))}
        store, _ = _store(tmp_path, "bare", bare, rng.normal(size=60), np.arange(60) // 2)
        stack_cells(rated / "fit", tokens=store)


def test_stacking_one_cell_is_refused(tmp_path, rng):
    acts = {("resid_post", 1, "last"): rng.normal(size=(60, D))}
    store, fit = _store(tmp_path, "one", acts, rng.normal(size=60), np.arange(60) // 2)
    with pytest.raises(ProbeError, match="expected 2 or more to stack"):
        stack_cells(fit, store)
    with pytest.raises(ProbeError, match="position turn_end: is not in the store"):
        stack_cells(fit, store, positions=["turn_end"])


def test_a_turned_direction_is_seen_and_the_same_one_is_not(tmp_path, rng):
    score, groups = rng.normal(size=N), np.arange(N) // 3
    old, new = np.linalg.qr(rng.normal(size=(D, 2)))[0].T
    noise = rng.normal(size=(N, D))
    stores = {}
    for name, direction in (("base", old), ("same", old), ("turned", new)):
        acts = {("resid_post", 1, "last"): noise + 3 * np.outer(score, direction)}
        stores[name] = _store(tmp_path, name, acts, score, groups, model=name)
    (_, base), (_, same), (_, turned) = stores.values()
    paths = [path for path, _ in stores.values()]

    found = compare_fits(base, same, (paths[0], paths[1]))
    assert found.layers[0]["cosine"] > 0.999
    assert abs(found.change.value) < 1e-6
    found = compare_fits(base, turned, (paths[0], paths[2]))
    assert abs(found.layers[0]["cosine"]) < 0.4
    assert found.transfer["before"]["after"].high < found.transfer["after"]["after"].low
    head, own = Probe.load(base), HeadData.open(turned, Probe.load(turned), paths[2])
    report = own.task.splits.report
    r = np.corrcoef(head.score(own.acts)[report], own.task.examples.score[report])[0, 1]
    assert found.transfer["before"]["after"].value == pytest.approx(r, abs=1e-9)

    other = {("resid_post", 1, "last"): noise[: N - 3]}
    path, fit = _store(tmp_path, "fewer", other, score[: N - 3], groups[: N - 3])
    with pytest.raises(ProbeError, match="was fitted on other rows"):
        compare_fits(base, fit, (paths[0], path))


def test_the_variance_of_ratings_is_split_as_it_was_made():
    rng = np.random.default_rng(1)
    import pandas as pd

    n, per = 400, 4
    prompt = np.repeat(rng.normal(size=n) * 2, per)  # variance 4 between, 1 within
    own = rng.normal(size=n * per)
    rows = pd.DataFrame(
        {
            "group": np.repeat([f"g{i}" for i in range(n)], per),
            "target": prompt + own,
            "prediction": prompt + 3 * rng.normal(size=n * per),
        }
    )
    found = variance_split(rows)
    assert found["between"] == pytest.approx(0.8, abs=0.04)
    # A prediction that knows the prompt's difficulty and nothing else.
    assert found["within_r"].side() == 0
    assert found["between_r"].low > 0.6
    alone = variance_split(rows.groupby("group").head(1))
    assert alone["n_prompts"] == 0
    assert not alone["within_r"].known


def test_the_commands_write_what_open_run_reads(rated, tmp_path, capsys):
    for name, more in (("tokens", []), ("stack", ["--positions", "last,mean"])):
        out = tmp_path / name
        run(name, "--probe", str(rated / "fit"), "--out", str(out), *more)
        opened = open_run(out)
        assert opened.command == name
        assert opened.metrics["value"].notna().all()
    both = [str(rated / "fit")] * 2
    run("compare", *both, "--out", str(tmp_path / "compare"))
    assert "after minus before, each on its own: 0.000" in capsys.readouterr().out
    assert open_run(tmp_path / "compare").record["layers"][0]["cosine"] == pytest.approx(1)


def test_a_curve_of_labels_is_refused(tmp_path, rng):
    acts = {("resid_post", 1, "last"): rng.normal(size=(60, D))}
    labels = [int(i % 2) for i in range(60)]
    path = tmp_path / "labels.h5"
    ActivationStore.from_arrays(acts, out=path, labels=labels, model="tiny", n_layers=4).close()
    fit_sweep(path).save(tmp_path / "fit")
    with pytest.raises(ProbeError, match="is a fit of label rows, expected ratings"):
        token_curve(tmp_path / "fit", None, store=path)
