"""The command line as a user meets it: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from probekit.activations.store import ActivationStore
from probekit.cli.fit import summary_lines
from probekit.cli.main import COMMANDS, main
from probekit.container import write_json
from probekit.probes import Probe
from probekit.results.sweep import close, l2_ends
from probekit.rl.head_data import HeadData
from tests.reports.golden import page_text
from tests.tiny import save_tiny


def run(*argv):
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
        raise SystemExit(0)
    return stop.value.code or 0


def rows(path, kind, n=60, **more):
    """Write rows whose target a byte model can read off the text."""
    made = []
    for i in range(n):
        good = i % 2 == 0
        text = "yes yes yes" if good else "no no no no"
        row = {
            "prompt": f"Question {i}?",
            "group": f"g{i}",
            "tags": {"half": str(i < n // 2)},
            **more,
        }
        if kind == "pair":
            row |= {"chosen": f"yes {i % 7}", "rejected": f"no {i % 5}"}
        elif kind == "rating":
            row |= {"completion": text, "score": 4.0 * good + i % 3}
        else:
            row |= {"completion": text, "label": "good" if good else "bad"}
        made.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.fixture(scope="module", params=["label", "rating", "pair"])
def fitted(request, tiny_llama, tmp_path_factory):
    """A cached and fitted tiny run of each kind, through the command line."""
    folder = tmp_path_factory.mktemp(request.param)
    data = rows(folder / "rows.jsonl", request.param)
    store, out = folder / "acts.h5", folder / "sweep"
    cache = ["cache", "--model", tiny_llama, "--data", data, "--out", store, "--dtype", "float32"]
    assert run(*cache) == 0
    assert run("fit", store, "--out", out) == 0
    return request.param, folder


def test_cache_and_fit_leave_the_files_of_the_contract(fitted):
    kind, folder = fitted
    names = {path.name for path in (folder / "sweep").iterdir()}
    assert names == {
        "probes.safetensors", "probes.json", "sweep.json", "predictions.jsonl", "splits.jsonl",
        "report.html", "run.json", "digests.json",
    }  # fmt: skip
    record = json.loads((folder / "sweep" / "run.json").read_text())
    assert record["command"] == "fit" and record["versions"]["probekit"]
    sweep = json.loads((folder / "sweep" / "sweep.json").read_text())
    primary = {"label": "auroc", "rating": "pearson", "pair": "pair_accuracy"}[kind]
    assert sweep["report"][primary]["value"] > 0.75  # 12 rows
    assert {path.name for path in folder.iterdir()} == {
        "rows.jsonl", "acts.h5", "acts.h5.run.json", "sweep",
    }  # fmt: skip
    assert json.loads((folder / "acts.h5.run.json").read_text())["arguments"]["out"].endswith(
        "acts.h5"
    )


def test_fit_json_has_the_shape_of_the_contract(fitted, capsys):
    kind, folder = fitted
    assert run("fit", folder / "acts.h5", "--out", folder / "again", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["chosen"]) >= {"kind", "site", "layer", "position"}
    assert set(found) >= {"chosen", "choose", "report", "controls", "by_tag", "n", "paths"}
    assert set(found["controls"]) == {
        "length", "tfidf", "characters", "random_direction", "shuffled_labels", "layer_0",
        "length_partialled", *(() if kind == "pair" else ("tfidf_prompt", "tfidf_both")),
    }  # fmt: skip
    rivals = {"random_direction", "shuffled_labels", "length_partialled"}
    assert set(found["differences"]) == set(found["controls"]) - rivals
    for metrics in (found["choose"], found["report"], found["by_tag"]["half"]["True"]):
        for value in metrics.values():
            assert set(value) == {"value", "low", "high"}
    # The same seed gives the same numbers.
    first = json.loads((folder / "sweep" / "sweep.json").read_text())
    assert found["report"] == first["report"] and found["chosen"] == first["chosen"]


def test_outer_folds_are_the_headline_and_are_advised_without(fitted, capsys):
    kind, folder = fitted
    unit = "pairs" if kind == "pair" else "rows"
    argv = ("fit", folder / "acts.h5", "--out", folder / "again", "--force")
    assert run(*argv) == 0
    lines = capsys.readouterr().out.splitlines()
    [advice] = [line for line in lines if line.startswith("advice")]
    assert advice.startswith(f"advice   under 500 {unit}") and "--outer-folds 5" in advice
    assert run(*argv, "--outer-folds", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    [found] = [line for line in lines if line.startswith("outer folds 3: ")]
    record = json.loads((folder / "again" / "sweep.json").read_text())
    value = record["outer"]["report"][record["primary"]]["value"]
    assert (
        f"{record['primary']} {value:.3f} [" in found and f" {unit}, 3 heads; chosen layer" in found
    )
    assert any(line.startswith("  length alone") for line in lines[lines.index(found) :])
    assert not any(line.startswith("advice") for line in lines)
    assert run(*argv, "--outer-folds", "2") == 1
    error = capsys.readouterr().err
    assert error == "error: --outer-folds: got 2, expected 3 to 10, or 0 for none.\n"


def test_fit_prints_how_many_cells_are_at_an_end_of_l2(fitted, capsys):
    _, folder = fitted
    assert run("fit", folder / "acts.h5", "--out", folder / "ends", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    rows = json.loads((folder / "ends" / "sweep.json").read_text())["rows"]
    assert summary["l2_ends"] == l2_ends(rows)
    summary["l2_ends"] = {"cells": 30, "high": 12, "low": 0, "rough": 0}
    lines = [line for line in summary_lines(summary) if line.startswith("l2")]
    words = "at the largest l2: their folds found no signal"
    assert lines == [f"l2       12 of 30 cells {words}"]
    assert summary["chosen_l2_end"] == next(row["l2_end"] for row in rows if row["chosen"])
    summary["chosen_l2_end"] = "high"
    assert f"l2       12 of 30 cells, the chosen one too {words}" in summary_lines(summary)


def test_fit_says_what_its_report_says(fitted, capsys):
    _, folder = fitted
    assert run("fit", folder / "acts.h5", "--out", folder / "said") == 0
    shown = capsys.readouterr().out.splitlines()
    (verdict,) = [line.removeprefix("verdict  ") for line in shown if line.startswith("verdict")]
    page = page_text((folder / "said" / "report.html").read_text())
    assert verdict in " ".join(page.split()) and "interval" in verdict


def test_fit_prints_which_cells_are_as_good_as_the_chosen_one(fitted, capsys):
    _, folder = fitted
    assert run("fit", folder / "acts.h5", "--out", folder / "close", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    rows = json.loads((folder / "close" / "sweep.json").read_text())["rows"]
    assert summary["close"] == close(rows)
    for near, words in (
        (
            (1, 4, 4),
            "1 of the other 119 cells is not shown to be worse than the chosen one (layer 4)",
        ),
        (
            (17, 12, 20),
            "17 of the other 119 cells are not shown to be worse than the chosen one (layers 12 to 20)",
        ),
    ):
        summary["close"] = dict(zip(("close", "first", "last"), near, strict=True), cells=119)
        lines = [line for line in summary_lines(summary) if line.startswith("choice")]
        assert lines == [f"choice   {words}"]


def test_a_large_group_is_capped_and_a_run_on_the_fit_splits_alike(tiny_llama, tmp_path, capsys):
    data, store, fit = (tmp_path / name for name in ("rows.jsonl", "acts.h5", "fit"))
    made = [json.loads(line) for line in rows(data, "label", n=60).read_text().splitlines()]
    made += [{**row, "group": "giant"} for row in made[:40]]
    data.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert run("cache", "--model", tiny_llama, "--data", data, "--out", store) == 0
    capsys.readouterr()
    assert run("fit", store, "--out", fit) == 0
    lines = capsys.readouterr().out.splitlines()
    # 4 * (60 + c) / 61 = 4.2
    left_out = "capped   36 of 100 rows left out: a group counts with 4 at most (--group-cap)"
    assert left_out in lines
    record = json.loads((fit / "sweep.json").read_text())
    assert record["n"]["capped"] == 36
    split = [json.loads(line)["split"] for line in (fit / "splits.jsonl").read_text().splitlines()]
    assert split.count(None) == 36 and len(split) == 100
    task = HeadData.open(fit, Probe.load(fit)).task
    assert task.counts() == record["n"]
    for name, units in task.splits._asdict().items():
        assert [split[unit] for unit in units] == [name] * len(units)
    page = (fit / "report.html").read_text()
    assert "36 of 100 examples were left out: a group counts with 4 at most." in page


def test_score_gives_the_scores_of_the_fit(fitted, capsys):
    kind, folder = fitted
    probe = Probe.load(folder / "sweep")
    with ActivationStore.open(folder / "acts.h5") as store:
        expected = probe.score(store.read(probe.cell))
        scale = expected.std()
    command = ["score", "--probe", folder / "sweep", "--data", folder / "rows.jsonl"]
    assert run(*command) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # The store keeps float16: 11 bits of every activation.
    np.testing.assert_allclose([line["score"] for line in lines], expected, atol=2e-2 * scale)
    extra = {"label": "probability", "rating": "rating", "pair": "side"}[kind]
    assert all(set(line) == {"id", "score", extra} for line in lines)
    out = folder / "scores.jsonl"
    assert run(*command, "--out", out, "--json", "--force") == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(out), "n": len(lines)}
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines
    assert run(*command, "--out", out) == 1
    assert "already exists. Pass --force" in capsys.readouterr().err


def test_report_draws_again(fitted, capsys):
    _, folder = fitted
    assert run("report", folder / "sweep", "--out", folder / "second.html", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(folder / "second.html")}
    assert (folder / "second.html").stat().st_size > 1_000_000


def test_scoring_with_another_model_is_refused(fitted, tmp_path, capsys):
    _, folder = fitted
    other = save_tiny(tmp_path / "other", seed=5)
    command = ["score", "--probe", folder / "sweep", "--data", folder / "rows.jsonl"]
    assert run(*command, "--model", other) == 1
    assert "weights_fingerprint is" in capsys.readouterr().err
    wide = save_tiny(tmp_path / "gpt2", "gpt2")
    assert run(*command, "--model", wide) == 1
    assert "error: model" in capsys.readouterr().err


def bad_inputs(folder, model):
    """Name -> (arguments, what the one line must say). Files are made in `folder`."""
    good = rows(folder / "good.jsonl", "rating")
    line = json.loads(good.read_text().splitlines()[0])

    def data(name, n, **change):
        text = good.read_text().splitlines()
        text = (text * 8)[: n - 1] + [json.dumps({**line, **change})]
        (folder / name).write_text("\n".join(text) + "\n")
        return folder / name

    def malformed():
        (folder / "malformed.jsonl").write_text(
            "\n".join((good.read_text().splitlines() * 8)[:316] + ["{oops", "{}"]) + "\n"
        )
        return folder / "malformed.jsonl"

    missing = folder / "missing.jsonl"
    missing.write_text(json.dumps({"prompt": "q", "completion": "a"}) + "\n")
    one = rows(folder / "one.jsonl", "label", completion="x")
    one.write_text(one.read_text().replace('"bad"', '"good"'))
    two = rows(folder / "two.jsonl", "rating", n=4)
    two.write_text(two.read_text().replace('"g0"', '"g1"').replace('"g3"', '"g2"'))
    stores = {}
    for name, source in (("one", one), ("two", two), ("good", good)):
        stores[name] = folder / f"{name}.h5"
        assert run("cache", "--model", model, "--data", source, "--out", stores[name]) == 0
    cut = folder / "cut.h5"
    cut.write_bytes(stores["good"].read_bytes()[:-4000])
    (folder / "existing.h5").write_text("precious")
    (folder / "directory").mkdir()
    (folder / "empty-model").mkdir()

    def cache(source, *more, out="new.h5", using=model):
        return ["cache", "--model", using, "--data", source, "--out", folder / out, *more]

    def fit(store, *more):
        return ["fit", store, "--out", folder / "new", *more]

    def score(probe):
        return ["score", "--probe", probe, "--data", good]

    return {
        "missing file": (cache(folder / "nowhere.jsonl"), "no such file"),
        "malformed line 317": (cache(malformed()), "malformed.jsonl:317: is not valid JSON"),
        "missing field": (cache(missing), "missing.jsonl:1: has fields"),
        "wrong type": (cache(data("t.jsonl", 5, score="9")), "t.jsonl:5: score is text"),
        "NaN score": (cache(data("n.jsonl", 9, score=float("nan"))), "n.jsonl:9: score is nan"),
        "empty completion": (cache(data("e.jsonl", 2, completion="")), "e.jsonl:2: completion is empty"),
        "too long": (cache(data("w.jsonl", 3, completion="w" * 600)), "the limit is 512"),
        "one class": (fit(stores["one"]), "one class only"),
        "two groups": (fit(stores["two"]), "groups: 2 in all, expected at least 3"),
        "unknown layer": (cache(good, "--layers", "40"), "the model has 3 layers"),
        "unknown position": (cache(good, "--positions", "middle"), "Expected last"),
        "unknown site": (cache(good, "--sites", "resid_mid"), "expected resid_post"),
        "unknown model": (cache(good, using="nonsense"), "Expected a built-in name"),
        "unknown hub model": (cache(good, using="nobody/nothing"), "is not in the local cache"),
        "folder without a model": (cache(good, using=folder / "empty-model"), "no config.json"),
        "missing GGUF": (cache(good, using=folder / "x.gguf"), "no such GGUF file"),
        "truncated store": (fit(cut), "not a readable HDF5 file"),
        "missing store": (fit(folder / "none.h5"), "no such store"),
        "layer not stored": (fit(stores["good"], "--layers", "9"), "layer 9: the model has 3"),
        "position not stored": (fit(stores["good"], "--positions", "first:4"), "is not in the store"),
        "kind that does not fit": (fit(stores["good"], "--kind", "logistic"), "does not fit"),
        "existing output": (cache(good, out="existing.h5"), "already exists. Pass --force"),
        "existing directory": (["fit", stores["good"], "--out", folder / "directory"], "already exists"),
        "not a probe": (score(folder / "directory"), "is not a probe"),
        "not a fit": (["report", folder / "directory"], "error: "),
        "unwritable": (cache(good, out="good.jsonl/new.h5"), "error: "),
    }  # fmt: skip


def test_every_bad_input_is_one_line_and_leaves_nothing(tiny_llama, tmp_path, capsys):
    cases = bad_inputs(tmp_path, str(tiny_llama))
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    capsys.readouterr()
    for name, (argv, match) in cases.items():
        assert run(*argv) == 1, name
        shown = capsys.readouterr()
        assert shown.out == "", name
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1, (name, shown.err)
        assert match in shown.err, (name, shown.err)
        after = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
        assert after == before, name


def test_usage_errors_exit_with_2(capsys, tmp_path):
    for argv in (["cache"], ["fit", "a.h5"], ["nothing"], ["cache", "--backend", "jax"]):
        assert run(*argv) == 2
    both = ["cache", "--data", "x", "--out", "y", "--force", "--resume"]
    assert run(*both) == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_store_of_another_model_does_not_fit_the_probe(fitted):
    from probekit.errors import ProbeError

    kind, folder = fitted
    probe = Probe.load(folder / "sweep")
    with pytest.raises(ProbeError, match="Were they cached from another model"):
        probe.score(np.zeros((2, 32), dtype=np.float32))


def test_an_interrupt_exits_with_130_and_resume_continues(tiny_llama, tmp_path):
    """A real SIGINT to a real process in the middle of its capture."""
    data = rows(tmp_path / "rows.jsonl", "rating", n=400)
    out = tmp_path / "acts.h5"
    argv = ["cache", "--model", str(tiny_llama), "--data", str(data), "--out", str(out)]
    argv += ["--batch-tokens", "60", "--dtype", "float32"]
    code = (
        "import os, signal, sys\n"
        # A suite started in the background hands down that interrupts are ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import probekit.activations.cache as cache\n"
        "real = cache._Capture._write_batch\n"
        "calls = []\n"
        "def write(*args):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 50: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(*args)\n"
        "cache._Capture._write_batch = write\n"
        "from probekit.cli.main import main\n"
        f"main({argv!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("interrupted\n")
    assert not out.exists()
    progress = json.loads((tmp_path / "acts.h5.partial" / "progress.json").read_text())
    assert progress["batches_done"] >= 49
    assert run(*argv, "--resume") == 0
    whole = tmp_path / "whole.h5"
    assert run(*[str(whole) if word == str(out) else word for word in argv]) == 0
    with h5py.File(out) as a, h5py.File(whole) as b:
        names = []
        b.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        assert all(np.array_equal(a[name][()], b[name][()]) for name in names)


def test_models_lists_what_is_pulled(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PROBEKIT_HOME", str(tmp_path))
    assert run("models", "--json") == 0
    row, other = json.loads(capsys.readouterr().out)["models"]
    assert row["name"] == "smollm2-135m" and row["path"] is None and row["terms"] is None
    assert other["name"] == "gemma3-270m" and other["terms"].startswith("https://")
    folder = tmp_path / "models" / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "probekit.json").write_text("{}")
    assert run("models", "pull", "smollm2-135m", "--json") == 0  # there already: no network
    assert json.loads(capsys.readouterr().out)["path"] == str(folder)
    assert run("models", "pull", "other") == 1
    assert "Built in: smollm2-135m" in capsys.readouterr().err


def test_data_check_prints_and_fails_cleanly(tmp_path, capsys):
    assert run("data", "check", "demo:researchers_pairs", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["rows"], found["warnings"]) == ("pair", 416, [])
    assert run("data", "check", "demo:researchers") == 0
    assert "416 label rows in 416 groups" in capsys.readouterr().out
    assert run("data", "check", tmp_path / "none.jsonl") == 1


def walk(command, path=()):
    """Every command with the words that call it."""
    import click

    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*path, name))


def test_every_command_has_help_with_an_example(capsys):
    from probekit.cli.main import cli

    for path, _ in walk(cli):
        assert run(*path, "--help") == 0
        shown = capsys.readouterr().out
        assert len(shown) > 100
        if path and path != ("data",):
            assert "Example:\n" in shown, path
            assert f"probekit {' '.join(path)}" in shown.split("Example:")[1], path
    assert set(COMMANDS) == {
        "models", "data", "sample", "elicit", "cache", "fit", "score", "evaluate", "steer", "rl", "dpo",
        "tokens", "stack", "compare", "dynamics", "verify", "behaviours", "study", "report", "view",
    }  # fmt: skip


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time; begun = time.perf_counter()\n"
        "from probekit.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'sklearn', 'numpy', 'transformers', 'plotly', 'h5py'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cache" in done.stdout


def test_the_console_script_is_installed():
    done = subprocess.run(
        [Path(sys.executable).parent / "probekit", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("probekit, version ")


def test_reproducible_scores_do_not_depend_on_the_other_rows(fitted, tmp_path, capsys):
    kind, folder = fitted
    lines = (folder / "rows.jsonl").read_text().splitlines()
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines[:2]) + "\n")

    def scores(data, *options):
        command = ["score", "--probe", folder / "sweep", "--data", data, "--dtype", "float32"]
        assert run(*command, *options) == 0
        return [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]

    found = scores(few, "--reproducible")
    assert found == scores(folder / "rows.jsonl", "--reproducible")[: len(found)]
    assert found == pytest.approx(scores(few), abs=1e-4)


def test_scoring_under_another_configuration_of_the_same_weights_is_refused(
    fitted, tiny_llama, tmp_path, capsys
):
    _, folder = fitted
    other = tmp_path / "scaled"
    shutil.copytree(tiny_llama, other)
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}
    (other / "config.json").write_text(json.dumps(config))
    command = ["score", "--probe", folder / "sweep", "--data", folder / "rows.jsonl"]
    assert run(*command, "--model", other) == 1
    assert "config_hash is" in capsys.readouterr().err
    old = tmp_path / "old"  # a probe from before there was one is judged by its reference rows
    shutil.copytree(folder / "sweep", old)
    (old / "digests.json").unlink()
    for path in old.rglob("*.json"):
        write_json(path, json.loads(path.read_text().replace('"config_hash"', '"unknown"')))
    command[2] = old
    assert run(*command, "--model", tiny_llama) == 0
