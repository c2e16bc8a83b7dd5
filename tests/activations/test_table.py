"""The columns of a store in memory: strings cost what they hold."""

from __future__ import annotations

import json
import tracemalloc

import h5py
import numpy as np

from probekit.activations.store import ActivationStore
from probekit.activations.writer import write_examples
from probekit.data.rows import Example
from probekit.models.chat import Rendered
from tests.cli.test_cli import rows as written
from tests.cli.test_cli import run


def table(path, examples, kind="label", classes=("2", "10")):
    """A store without activations."""
    ids = Rendered(np.arange(3, dtype=np.int32), 0, 3, None, False)
    write_examples(path, ((example, ids) for example in examples), kind=kind, classes=classes)
    with h5py.File(path, "r+") as file:
        file.attrs.update(format="probekit.activations", format_version=1, complete=True)
        file.attrs.update(n_layers=1, d_model=1, provenance="{}")
        file.create_group("activations")
    return ActivationStore.open(path)


def test_one_long_name_does_not_widen_a_column(tmp_path):
    def rows(n):
        for i in range(n):
            name = "x" * 20_000 if i == 0 else f"g{i % 50}"
            yield Example(name + str(i), name, completion="t", label=2, tags={"t": name})

    n = 2000
    with table(tmp_path / "t.h5", rows(n)) as store:
        tracemalloc.start()
        found = store.examples
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2e6  # three columns of fixed width would take 480 MB
    expected = list(rows(n))
    assert found.group.tolist() == [row.group for row in expected]
    assert found.id.tolist() == [row.id for row in expected]
    assert found.tags["t"].tolist() == [row.tags["t"] for row in expected]
    assert kept < 1e6


def test_rows_of_one_long_group_share_its_name(tmp_path):
    rows = [Example(str(i), "x" * 20_000, completion="t", label=2) for i in range(500)]
    with table(tmp_path / "t.h5", rows) as store:
        groups = store.examples.group
    assert len({id(group) for group in groups}) == 1


def test_a_store_keeps_the_order_of_classes_that_it_was_written_with(tmp_path):
    """Stores of earlier versions have numbers in the order of text: their label column says so too."""
    rows = [Example(str(i), str(i), completion="t", label=[2, 10, 10][i % 3]) for i in range(9)]
    for order in (("10", "2"), ("2", "10")):
        with table(tmp_path / f"{order[0]}.h5", rows, classes=order) as store:
            found = store.examples
        assert found.classes == order
        assert [int(order[k]) for k in found.label] == [row.label for row in rows]


def test_pairs_of_one_text_are_marked(tmp_path):
    texts = [("a", "b"), ("c", "c"), ("", " ")]
    rows = [
        Example(str(i), str(i), completion=text, side=side)
        for i, both in enumerate(texts)
        for side, text in zip(("chosen", "rejected"), both, strict=True)
    ]
    with table(tmp_path / "p.h5", rows, "pair", None) as store:
        assert store.examples.identical.tolist() == [False, True, False]


def test_the_larger_number_is_the_positive_class_from_rows_to_scores(tiny_llama, tmp_path, capsys):
    """Ten is more than two: what was labelled 10 scores higher, and every output says so."""
    data, store, out = written(tmp_path / "r.jsonl", "label"), tmp_path / "a.h5", tmp_path / "fit"
    label = {"good": 10, "bad": 2}
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(r | {"label": label[r["label"]]}) + "\n" for r in lines))
    assert run("cache", "--model", tiny_llama, "--data", data, "--out", store) == 0
    assert "positive class: 10 (rows: 2 30, 10 30)" in capsys.readouterr().out
    assert run("fit", store, "--out", out, "--n-boot", 20) == 0
    assert "positive class: 10\n" in capsys.readouterr().out
    for name in ("sweep.json", "probes.json"):
        found = json.loads((out / name).read_text())
        assert (found["classes"], found["positive_class"]) == (["2", "10"], "10")
    assert "1, the positive class: 10" in (out / "report.html").read_text()
    score = ["score", "--probe", out, "--data", data]
    assert run(*score, "--out", tmp_path / "s.jsonl", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["n"] == len(data.read_text().splitlines())
    assert "positive class: 10" in printed.err
    assert json.loads((tmp_path / "s.jsonl.run.json").read_text())["positive_class"] == "10"
    scores = [json.loads(line)["score"] for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert np.mean(scores[::2]) > np.mean(scores[1::2])  # every other row is labelled 10
