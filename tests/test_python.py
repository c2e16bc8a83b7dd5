"""`import probekit as pk`: what a script needs, in memory, and mistakes in one line as in the shell."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import probekit as pk
from probekit.cli.main import main
from probekit.errors import ProbekitError

NAMES = (
    "load_model", "cache_activations", "ActivationStore", "fit_sweep", "Probe", "steered", "SteeringVector",
    "train_policy", "read_rows", "evaluate", "open_run",
)  # fmt: skip
LIGHT = ("ActivationStore", "Probe", "SteeringVector", "read_rows", "open_run", "evaluate")
ROWS = [{"text": f"a {word} day {i}", "label": word} for i in range(20) for word in ("good", "bad")]


def test_names_are_there_and_torch_is_not_until_it_is_needed():
    assert set(NAMES) <= set(pk.__all__) <= set(dir(pk))
    for name in pk.__all__:
        found = getattr(pk, name)
        assert found.__name__ == {"read_rows": "open_dataset"}.get(name, name)
    code = (
        "import sys, probekit as pk\nassert not {'torch', 'numpy', 'h5py'} & set(sys.modules)\n"
        f"for name in {LIGHT}: getattr(pk, name)\n"
        "sys.exit(sorted({'torch', 'transformers', 'sklearn', 'plotly', 'pandas'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(AttributeError, match="has no attribute 'load_modle'"):
        _ = pk.load_modle


@pytest.fixture
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)


@pytest.fixture(scope="module")
def tok(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def result(tiny_llama, tok):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with pk.cache_activations(model, ROWS, tokenizer=tok) as store:
        return pk.fit_sweep(store, n_boot=20)


def test_the_whole_path_with_a_model_and_rows_in_memory(model, tok, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    loaded = pk.load_model(model, tokenizer=tok)
    store = pk.cache_activations(loaded, ROWS, out="acts.h5")
    result = pk.fit_sweep(store)
    table, probe = result.to_frame(), result.probe
    scores = probe.score_texts(["a fine day", "a bad day"], model=loaded)
    more = probe(torch.randn(3, store.d_model, dtype=torch.bfloat16))
    asked = tok("Hello", return_tensors="pt")
    plain = model.generate(**asked, do_sample=False, max_new_tokens=8)
    with pk.steered(model, probe, 5):
        written = model.generate(**asked, do_sample=False, max_new_tokens=8)
    assert len(table) == len(result.rows) == 9 and table["chosen"].sum() == 1
    assert scores.shape == (2,) and more.shape == (3,)
    assert not torch.equal(plain, written)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert pk.fit_sweep("acts.h5").to_frame().equals(table)


def test_a_result_is_a_table_and_the_table_holds_the_file(result, tmp_path):
    assert result.save(str(tmp_path / "new" / "sweep")) == tmp_path / "new" / "sweep"
    run = pk.open_run(tmp_path / "new" / "sweep")
    assert run.metrics_frame().equals(result.run.metrics) and run.metrics_frame() is run.metrics
    assert run.rows.equals(result.run.rows) and run.splits.equals(result.run.splits)
    table = result.to_frame()
    for row, told in zip(run.record["rows"], table.to_dict("records"), strict=True):
        assert [told[k] for k in ("kind", "site", "layer", "position", "l2", "chosen")] == [
            row[k] for k in ("kind", "site", "layer", "position", "l2", "chosen")
        ]
        assert told["auroc"] == row["choose"]["auroc"]["value"]
    page = (tmp_path / "new" / "sweep" / "report.html").read_text()
    for name in ("heatmap", "controls", "scores"):
        figure = result.figure(name)
        assert isinstance(figure, go.Figure) and figure.layout.title.text
        words = re.sub(r"<[^>]*>.*", "", figure.layout.title.text.removeprefix("<b>"))
        assert len(words) > 5 and words in page
    assert result.figure().layout.title == result.figure("heatmap").layout.title
    with pytest.raises(ProbekitError, match="^figure 'map': is none of this sweep. Expected "):
        result.figure("map")


def test_a_saved_result_is_loaded_as_it_was(result, tmp_path):
    result.save(tmp_path / "sweep")
    probe = pk.Probe.load(tmp_path / "sweep")
    assert (
        np.array_equal(probe.coef, result.probe.coef) and probe.reference == result.probe.reference
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    result.save(tmp_path / "own")
    assert (tmp_path / "own" / "notes.txt").read_text() == "mine"
    assert pk.Probe.load(tmp_path / "own").cell == probe.cell
    with pytest.raises(ProbekitError, match="already exists"):
        result.save(tmp_path / "own", force=False)


def test_what_is_printed_is_short_and_escaped(result, model, tok, tmp_path):
    rows = pk.read_rows([{**row, "label": f"<b>{row['label']}"} for row in ROWS])
    loaded = pk.load_model(model, tokenizer=tok)
    result.save(tmp_path / "s")
    with pk.cache_activations(loaded, ROWS[:8], layers=[1], positions="mean") as store:
        things = [
            rows,
            loaded,
            store,
            store.examples,
            result,
            result.probe,
            pk.open_run(tmp_path / "s"),
        ]
        things += [pk.evaluate(result.probe, ROWS, model=loaded, n_boot=9)]
        for thing in things:
            text, page = repr(thing), thing._repr_html_()
            assert 2 <= len(text.splitlines()) <= 20 and max(map(len, text.splitlines())) <= 130
            assert text.splitlines()[0] == type(thing).__name__ and page.startswith("<table>")
            assert "<b>" not in page
    assert "&lt;b&gt;good" in rows._repr_html_()


def test_rows_and_policies_from_python(model, tok, result, tmp_path):
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    run = pk.train_policy(
        model, result, ["How was it?", "And you?", "Why?", "Who is it?", "When?"], tmp_path / "run",
        tokenizer=tok, steps=1, prompts_per_step=2, group=2, max_new_tokens=4, eval_prompts=2,
        eval_samples=1, best_of=0, placebo_heads=0, rank=2,
    )  # fmt: skip
    assert set(run.metrics_frame()["step"]) == {0, 1}
    assert (tmp_path / "run" / "report.html").is_file() and (
        tmp_path / "run" / "checkpoint"
    ).is_dir()
    assert {name: w for name, w in model.named_parameters()}.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


cached = pk.cache_activations
MISTAKES = [
    (lambda t: pk.read_rows(t / "rows.jsonl"), "data check {t}/rows.jsonl"),
    (lambda t: pk.read_rows(t / "absent.jsonl"), "data check {t}/absent.jsonl"),
    (
        lambda t: pk.load_model("nothing"),
        "cache --model nothing --data demo:sentiment --out {t}/x.h5",
    ),
    (lambda t: pk.fit_sweep(t / "absent.h5"), "fit {t}/absent.h5 --out {t}/x"),
    (lambda t: pk.Probe.load(t), "score --probe {t} --data demo:sentiment"),
    (lambda t: pk.open_run(t), "report {t}"),
    (lambda t: pk.ActivationStore.open(t / "rows.jsonl"), "fit {t}/rows.jsonl --out {t}/x"),
]


@pytest.mark.parametrize(
    ("call", "words"), MISTAKES, ids=[words.split()[0] for _, words in MISTAKES]
)
def test_a_mistake_has_the_line_that_the_shell_prints(call, words, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
    with pytest.raises(ProbekitError) as caught:
        call(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words.format(t=tmp_path).split())
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {caught.value}"


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda m, t, r: cached(m, 5, tokenizer=t), "rows: got a int."),
        (lambda m, t, r: cached(m, ROWS, tokenizer=t, layer=[1]), "layer: unknown key. Did you"),
        (lambda m, t, r: cached(m, ROWS, tokenizer=t, layers=[9]), "layer 9: the model has 3"),
        (lambda m, t, r: cached(m, ROWS, tokenizer=t, positions="end"), "position 'end': unknown"),
        (lambda m, t, r: cached(t, ROWS), "model: got a "),
        (lambda m, t, r: pk.fit_sweep("absent.h5", kind="ridge"), "absent.h5: no such store."),
        (lambda m, t, r: r.probe.score_texts("one", model=m, tokenizer=t), "texts: got one text"),
        (lambda m, t, r: pk.evaluate(r.probe, [{"text": "a"}], model=m), "rows[0]: has fields 'text'"),
        (lambda m, t, r: pk.train_policy(m, 3.5, ["a"], "x", tokenizer=t), "probe: got a float"),
        (lambda m, t, r: pk.steered(m, None).__enter__(), "vector: got a NoneType"),
        (lambda m, t, r: pk.fit_sweep(3), "store: got a int"),
    ],
)  # fmt: skip
def test_a_mistake_in_python_is_one_line(call, line, model, tok, result):
    with pytest.raises(ProbekitError) as caught:
        call(model, tok, result)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
