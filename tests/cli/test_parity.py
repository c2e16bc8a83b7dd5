"""What a command writes, its Python function writes: the same inputs give the same content."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import probekit as pk
from probekit.analyses import Pairs, head_dynamics
from probekit.analyses.config import DynamicsConfig
from probekit.behaviours import Behaviours, Wanted, measure_quality
from probekit.behaviours.quality import read_labelled
from probekit.behaviours.sampled import sampled_rows
from probekit.container import jsonable
from probekit.data import check
from probekit.data.prompts import open_prompts
from probekit.errors import ProbekitError
from probekit.models.registry import BUILTIN
from probekit.models.sampling_config import SamplingConfig
from probekit.reports import write_steer_report, write_sweep_report
from probekit.results.runs import open_run
from probekit.studies import Recipe, elicit, run_study
from probekit.studies.held_out import groups_of, write_split
from probekit.verify import verify
from tests.cli.test_cli import rows, run
from tests.cli.test_elicit import RECIPE
from tests.cli.test_sample import LETTERS

OF_ITS_OWN = {"arguments", "time", "path", "provenance", "checksum", "source"}
OF_ITS_OWN |= {"seconds", "seconds_writing", "seconds_reading"}
"""Keys of a record that say when, where and how something was run."""


@pytest.fixture(scope="module", params=["label"])
def shell(request, tiny_llama, tmp_path_factory):
    """A folder with rows, and what `cache` and `fit` make of them."""
    folder = tmp_path_factory.mktemp("shell")
    data = rows(folder / "rows.jsonl", request.param)
    cache = ["cache", "--model", tiny_llama, "--data", data, "--out", folder / "acts.h5"]
    assert run(*cache, "--dtype", "float32", "--positions", "last,mean", "--layers", "0,2") == 0
    assert run("fit", folder / "acts.h5", "--out", folder / "sweep", "--positions", "mean") == 0
    return folder


@pytest.fixture(scope="module")
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")


@pytest.fixture(scope="module")
def tok(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def python(shell, model, tok, tmp_path_factory):
    """The same from Python: rows and model in memory."""
    folder = tmp_path_factory.mktemp("python")
    data = list(pk.read_rows(shell / "rows.jsonl"))
    store = pk.cache_activations(
        model, data, folder / "acts.h5", tokenizer=tok, positions=["last", "mean"], layers=[0, 2]
    )
    result = pk.fit_sweep(store, positions="mean")
    result.save(folder / "sweep")
    return folder, result


def content(value):
    """Return a JSON value without what says when, where and how it was made."""
    if isinstance(value, dict):
        return {k: content(v) for k, v in value.items() if k not in OF_ITS_OWN}
    return [content(item) for item in value] if isinstance(value, list) else value


def read(path):
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [content(json.loads(line)) for line in text.split("\n") if line]
    return content(json.loads(text))


def same(one, other, *, but=()):
    """Compare two folders, file by file; page and digests hold times and names."""
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    for name in names - {"digests.json", "report.html", *but}:
        if name.endswith((".json", ".jsonl")):
            assert read(one / name) == read(other / name), name
        elif (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    return names


def test_cache(shell, python):
    with h5py.File(shell / "acts.h5") as told, h5py.File(python[0] / "acts.h5") as found:
        names = []
        told.visit(names.append)
        for name in names:
            if isinstance(told[name], h5py.Dataset):
                assert (told[name][()] == found[name][()]).all(), name
        records = [json.loads(file.attrs["provenance"]) for file in (told, found)]
    for record in records:
        record["data"].pop("source")
        record.pop("run")
    assert records[0] == records[1]


def test_fit(shell, python):
    names = same(shell / "sweep", python[0] / "sweep", but={"run.json"})
    assert {"run.json", "report.html", "sweep.json", "probes.safetensors"} <= names
    keys = [set(json.loads((f / "sweep" / "run.json").read_text())) for f in (shell, python[0])]
    assert keys[0] == keys[1]


def test_score(shell, python, model, tok, tmp_path):
    out = tmp_path / "scores.jsonl"
    assert (
        run("score", "--probe", shell / "sweep", "--data", shell / "rows.jsonl", "--out", out) == 0
    )
    told = [json.loads(line)["score"] for line in out.read_text().splitlines()]
    probe, texts = (
        python[1].probe,
        [json.loads(x) for x in (shell / "rows.jsonl").read_text().splitlines()],
    )
    assert probe.score_texts(texts, model=model, tokenizer=tok).tolist() == told
    assert (
        pk.Probe.load(shell / "sweep").score_texts(texts).tolist() == told
    )  # loads the model itself
    with pk.ActivationStore.open(shell / "acts.h5") as store:  # in halves
        np.testing.assert_allclose(probe(store[probe.cell]), told, atol=0.05)


def test_steer(shell, python, model, tok, tmp_path):
    command = [
        "steer", "--probe", shell / "sweep", "--prompts", shell / "rows.jsonl", "--out", tmp_path / "shell",
        "--coeff", "0.5,1", "--limit", "3", "--samples", "1", "--max-new-tokens", "4",
        "--random-controls", "1", "--shuffled-controls", "1", "--placebo-controls", "0",
    ]  # fmt: skip
    assert run(*command) == 0
    prompts = [json.loads(line) for line in (shell / "rows.jsonl").read_text().splitlines()][:3]
    result = pk.steer_sweep(
        pk.load_model(model, tokenizer=tok), python[1], prompts, tmp_path / "python", coeffs=[0.5, 1],
        samples=1, max_new_tokens=4, random_controls=1, shuffled_controls=1, placebo_controls=0,
        finish=write_steer_report,
    )  # fmt: skip
    same(tmp_path / "shell", tmp_path / "python", but={"run.json"})
    told = open_run(tmp_path / "shell")
    assert result.run.metrics.equals(told.metrics) and result.run.rows.equals(told.rows)
    assert len(repr(result).splitlines()) <= 20 and "vector" in result._repr_html_()
    assert result.figure().layout.title.text and result.figure("damage").data
    with pytest.raises(
        ProbekitError, match="^figure 'dose': is none of this sweep. Expected effect"
    ):
        result.figure("dose")


def test_rl(shell, python, model, tok, tmp_path):
    command = [
        "rl", "--probe", shell / "sweep", "--prompts", shell / "rows.jsonl", "--out", tmp_path / "shell",
        "--steps", "1", "--prompts-per-step", "2", "--group", "2", "--max-new-tokens", "4",
        "--eval-prompts", "4", "--rank", "2", "--limit", "12", "--behaviours", "sentiment",
        "--behaviour", "positive",
    ]  # fmt: skip
    assert run(*command, "--set", "placebo_heads=0", "--set", "best_of=0") == 0
    pk.train_policy(
        model, python[1], open_prompts(shell / "rows.jsonl", limit=12), tmp_path / "python", tokenizer=tok,
        steps=1, prompts_per_step=2, group=2, max_new_tokens=4, eval_prompts=4, rank=2, placebo_heads=0,
        best_of=0, behaviours="sentiment", behaviour="positive",
    )  # fmt: skip
    same(tmp_path / "shell", tmp_path / "python", but={"run.json"})
    told, found = (open_run(tmp_path / name) for name in ("shell", "python"))
    assert told.record["identity"] == found.record["identity"]
    assert told.metrics_frame().equals(found.metrics_frame())


def test_elicit(tiny_llama, model, tok, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    asked = [
        {"prompt": f"say {'x' * k}", "group": f"g{k}", "tags": {"half": str(k % 2)}}
        for k in range(6)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    command = ["elicit", "--recipe", tmp_path / "r.toml", "--prompts", tmp_path / "p.jsonl"]
    assert (
        run(*command, "--model", tiny_llama, "--dtype", "float32", "--out", tmp_path / "shell") == 0
    )
    loaded = pk.load_model(model, tokenizer=tok)
    elicit(loaded, Recipe.load(tmp_path / "r.toml"), asked, tmp_path / "python")
    same(tmp_path / "shell", tmp_path / "python", but={"run.json"})


def test_sample(tiny_llama, model, tok, tmp_path):
    (tmp_path / "letters.toml").write_text(LETTERS)
    asked = [{"prompt": f"say {'x' * k}", "group": f"g{k}"} for k in range(4)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    command = [
        "sample", "--model", tiny_llama, "--dtype", "float32", "--prompts", tmp_path / "p.jsonl",
        "--out", tmp_path / "rows.jsonl", "--samples", "3", "--max-new-tokens", "4",
        "--behaviours", tmp_path / "letters.toml", "--behaviour", "a",
    ]  # fmt: skip
    assert run(*command) == 0
    letters = Behaviours.load(tmp_path / "letters.toml")
    found = sampled_rows(
        pk.load_model(model, tokenizer=tok), asked, SamplingConfig(samples=3, max_new_tokens=4),
        behaviours=letters, wanted=Wanted.parse(["a"], letters),
    )  # fmt: skip
    assert jsonable(found) == [
        json.loads(x) for x in (tmp_path / "rows.jsonl").read_text().splitlines()
    ]


def test_dynamics(tiny_llama, tmp_path):
    data = rows(tmp_path / "rows.jsonl", "pair")
    store = tmp_path / "a.h5"
    assert (
        run("cache", "--model", tiny_llama, "--data", data, "--out", store, "--positions", "mean")
        == 0
    )
    assert run("fit", store, "--out", tmp_path / "sweep") == 0
    more = ["--steps", "10", "--learning-rates", "1e-3,1e-2,0.1", "--optimizers", "sgd"]
    assert run("dynamics", "--probe", tmp_path / "sweep", "--out", tmp_path / "out", *more) == 0
    pairs = Pairs.open(tmp_path / "sweep")
    config = DynamicsConfig(steps=10, learning_rates=[1e-3, 1e-2, 0.1], optimizers=["sgd"])
    found = head_dynamics(
        pairs.fit, pairs.choose, config, l2=pairs.head.l2, standardize=pairs.standardize
    )
    told = open_run(tmp_path / "out")
    assert content(jsonable(found.summary())) == content(
        {key: told.record[key] for key in jsonable(found.summary())}
    )
    assert len(told.rows) == len(found.runs)


def test_report(python, tmp_path):
    folder = python[0] / "sweep"
    assert run("report", folder, "--out", tmp_path / "shell.html") == 0
    write_sweep_report(folder, out=tmp_path / "python.html")
    assert (tmp_path / "shell.html").read_bytes() == (tmp_path / "python.html").read_bytes()


def test_verify(python, capsys):
    assert run("verify", python[0] / "sweep", "--json") == 0
    told, found = json.loads(capsys.readouterr().out), verify(python[0] / "sweep")
    assert (told["n_files"], told["problems"]) == (found.n_files, found.problems) and found.n_files


def test_data_check_and_split(shell, tmp_path, capsys):
    assert run("data", "check", shell / "rows.jsonl", "--json") == 0
    found = check(
        pk.read_rows([json.loads(x) for x in (shell / "rows.jsonl").read_text().splitlines()])
    )
    told = json.loads(capsys.readouterr().out)
    assert {**told, "source": ""} == {**jsonable(found.to_json()), "source": ""}
    command = ["data", "split", "--probe", shell / "sweep", "--prompts", shell / "rows.jsonl"]
    assert run(*command, "--out", tmp_path / "shell") == 0
    prompts = open_prompts([json.loads(x) for x in (shell / "rows.jsonl").read_text().splitlines()])
    write_split(prompts, groups_of(shell / "sweep"), tmp_path / "python")
    same(tmp_path / "shell", tmp_path / "python")


def test_behaviours(tmp_path, capsys):
    labelled = [
        {"prompt": "q", "completion": "I love it", "label": "positive"},
        {"prompt": "q", "completion": "I hate it", "label": "negative"},
    ]
    file = tmp_path / "l.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    assert run("behaviours", "sentiment", "--labelled", file, "--json") == 0
    told = json.loads(capsys.readouterr().out)["quality"]
    accuracy, table = measure_quality(Behaviours.load("sentiment"), read_labelled(labelled))
    assert told["accuracy"] == jsonable(accuracy._asdict())
    assert told["categories"].keys() == table.keys()


def test_models(capsys):
    assert run("models", "--json") == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)["models"]] == list(BUILTIN)


def test_study(tiny_llama, tmp_path, monkeypatch):
    import probekit.studies.knowledge_awareness as declared
    from probekit.cli.study import _execute
    from probekit.studies import Study

    data, template = rows(tmp_path / "rows.jsonl", "pair"), tmp_path / "small.html.j2"
    template.write_text('{% extends "study.html.j2" %}{% block title %}t{% endblock %}')

    def stages(s):
        cache = s.stage(
            "cache", "cache", "--data", data, "--positions", "mean", *s.with_model, output="a.h5"
        )
        s.stage("fit", "fit", cache, *s.with_seed)

    small = Study(
        "knowledge-awareness", stages, declared.FULL, declared.QUICK, template, lambda run: {}
    )
    monkeypatch.setattr(declared, "STUDY", small)
    assert (
        run("study", "knowledge-awareness", "--model", tiny_llama, "--out", tmp_path / "shell") == 0
    )
    run_study(
        "knowledge-awareness", tmp_path / "python", execute=_execute, options=(), arguments={},
        log=lambda line: None, model=str(tiny_llama), seed=0, quick=False, samples=None, jobs=1, force=False,
    )  # fmt: skip
    same(tmp_path / "shell" / "fit", tmp_path / "python" / "fit", but={"run.json"})
