"""What a store holds is what the model computes, whatever the batch, order, padding or kill."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time

import h5py
import numpy as np
import pytest
import torch

from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.layers import parse_layers
from probekit.activations.positions import PositionRule
from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.errors import DataError, ModelError, OutputError, StoreError
from probekit.models.chat import render
from probekit.models.load import load_model
from tests.activations.memory import labels, pairs, ratings
from tests.taken import taken

ALL_RULES = "last,turn_end,prompt_end,mean,first:2,token:0,token:-1,all"
EXACT = CacheConfig(positions=ALL_RULES, store_dtype="float32", batch_tokens=200)


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


def content(path):
    """Every dataset of a store, byte for byte, and the attributes but for the run's time."""
    found = {}
    with h5py.File(path) as file:

        def keep(name, item):
            if isinstance(item, h5py.Dataset):
                found[name] = (item.dtype, item.shape, item[()].tolist())

        file.visititems(keep)
    return found


def expected_row(loaded, example, cell):
    """The cell's row computed alone, by Hugging Face's own forward."""
    row = render(example, loaded.tokenizer)
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    with torch.no_grad():
        hidden = loaded.model(ids, output_hidden_states=True).hidden_states
    layer = cell.layer if cell.site == "resid_pre" else cell.layer + 1
    rule = PositionRule(cell.position)
    read = hidden[layer][0, rule.resolve(row)].numpy()
    return read.mean(axis=0, keepdims=True) if rule.pooled else read


def test_every_cell_equals_hugging_face_row_by_row(loaded, tmp_path):
    data = ratings()
    with cache_activations(loaded, data, tmp_path / "s.h5", config=EXACT) as store:
        assert len(store.cells()) == 4 * 7 and len(store.ragged_cells()) == 4
        for cell in store.cells():
            if cell.layer == 2:
                continue  # Hugging Face's last hidden state is after the final norm
            expected = np.concatenate([expected_row(loaded, row, cell) for row in data.rows])
            np.testing.assert_allclose(store.read(cell), expected, rtol=1e-4, atol=1e-5)
        ragged, offsets = store.read_ragged(Cell("resid_post", 1, "all"))
        for i, row in enumerate(data.rows):
            expected = expected_row(loaded, row, Cell("resid_post", 1, "all"))
            found = ragged[offsets[i] : offsets[i + 1]]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_batch_size_and_order_change_nothing(loaded, tmp_path):
    data = ratings()
    one = cache_activations(loaded, data, tmp_path / "one.h5", config=EXACT)
    alone = CacheConfig(positions=ALL_RULES, store_dtype="float32", batch_tokens=1)
    two = cache_activations(loaded, data, tmp_path / "two.h5", config=alone)
    back = ratings()
    back.rows.reverse()
    three = cache_activations(loaded, back, tmp_path / "three.h5", config=EXACT)
    for cell in one.cells():
        np.testing.assert_allclose(one.read(cell), two.read(cell), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.read(cell), three.read(cell)[::-1], rtol=1e-4, atol=1e-5)


def test_left_padded_chat_with_pad_equal_to_eos_gives_the_same_rows(loaded, tmp_path):
    """The rule reads real tokens: Hugging Face's left-padded batch has the same residuals."""
    data = ratings(6)
    rows = [render(row, loaded.tokenizer) for row in data.rows]
    width = max(len(row.ids) for row in rows)
    pad = loaded.tokenizer.pad_token_id
    assert pad == loaded.tokenizer.eos_token_id
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row.ids) :] = torch.from_numpy(row.ids.astype(np.int64))
        mask[i, width - len(row.ids) :] = 1
    with torch.no_grad():
        hidden = loaded.model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    with cache_activations(loaded, data, tmp_path / "s.h5", config=EXACT) as store:
        np.testing.assert_allclose(
            store.read(Cell("resid_post", 0, "turn_end")), hidden[1][:, -1], rtol=1e-4, atol=1e-5
        )


def test_the_examples_table_holds_the_rows(loaded, tmp_path):
    with cache_activations(loaded, ratings(), tmp_path / "r.h5", config=EXACT) as store:
        rows = store.examples
        assert (store.kind, len(rows), rows.kind) == ("rating", 23, "rating")
        assert list(rows.id[:2]) == ["row-000", "row-001"]
        assert list(rows.score[:6]) == [0, 1, 2, 3, 4, 0]
        assert list(rows.tags["parity"][:3]) == ["", "odd", "even"]
        assert rows.prompt[3] == "Question 3?"
        assert list(rows.n_tokens) == [len(text.encode()) for text in rows.completion]
        for i, example in enumerate(ratings().rows):
            ours, theirs = store.tokens.row(i), render(example, loaded.tokenizer)
            assert list(ours.ids) == list(theirs.ids)
            assert (ours.start, ours.stop, ours.turn_end) == (
                theirs.start, theirs.stop, theirs.turn_end,
            )  # fmt: skip
        assert store.provenance["model"].endswith("llama")
        assert store.provenance["run"]["versions"]["torch"] == torch.__version__
    with cache_activations(loaded, pairs(), tmp_path / "p.h5") as store:
        assert list(store.examples.side[:3]) == ["chosen", "rejected", "chosen"]
        assert store.examples.label is None and store.examples.score is None
        assert {cell.position for cell in store.cells()} == {"last", "turn_end", "mean"}
    with cache_activations(loaded, labels(), tmp_path / "l.h5") as store:
        assert store.examples.classes == ("even", "odd")
        assert list(store.examples.label[:3]) == [0, 1, 0]
        assert {cell.position for cell in store.cells()} == {"prompt_end"}


def test_float16_falls_back_where_values_are_beyond_its_range(loaded, tmp_path):
    import copy

    big = copy.deepcopy(loaded)
    with torch.no_grad():
        big.model.model.layers[1].mlp.down_proj.weight.mul_(1e6)
    half = CacheConfig(positions="last,mean", batch_tokens=100)
    full = CacheConfig(positions="last,mean", batch_tokens=100, store_dtype="float32")
    small = cache_activations(big, ratings(), tmp_path / "half.h5", config=half)
    exact = cache_activations(big, ratings(), tmp_path / "full.h5", config=full)
    with h5py.File(tmp_path / "half.h5") as file:
        kinds = {
            layer: file[f"activations/resid_post/{layer:03d}/last"].dtype for layer in range(3)
        }
    assert kinds == {0: np.float16, 1: np.float32, 2: np.float32}
    for cell in small.cells():
        # float16 keeps 11 bits; its subnormals below 6e-5 lose more
        np.testing.assert_allclose(small.read(cell), exact.read(cell), rtol=2**-11, atol=6e-8)


@pytest.mark.parametrize("backend", ["transformer-lens", "nnsight"])
def test_other_backends_write_the_same_store(loaded, tmp_path, backend):
    ours = cache_activations(loaded, ratings(9), tmp_path / "a.h5", config=EXACT)
    config = CacheConfig(
        positions=ALL_RULES, store_dtype="float32", batch_tokens=200, backend=backend
    )
    theirs = cache_activations(loaded, ratings(9), tmp_path / "b.h5", config=config)
    for cell in ours.cells():
        np.testing.assert_allclose(ours.read(cell), theirs.read(cell), rtol=1e-4, atol=1e-5)


def test_layers_are_python_slices_with_clear_errors():
    assert parse_layers("all", 4) == [0, 1, 2, 3]
    assert parse_layers("0,-1, 1:3", 5) == [0, 1, 2, 4]
    assert parse_layers("8:24:4", 30) == [8, 12, 16, 20]
    assert parse_layers(":2", 5) == [0, 1]
    for bad, match in (
        ("5", "layer 5: the model has 5 layers. Expected 0 to 4"),
        ("-6", "layer -6"),
        ("2:9", "layer 9"),
        ("3:2", "names no layer"),
        ("two", "'two' is not a layer. Expected all"),
        ("", "is not a layer"),
    ):
        with pytest.raises(ModelError, match=match):
            parse_layers(bad, 5)


BAD = {
    "unknown layer": ({"layers": "7"}, ModelError, "has 3 layers"),
    "unknown site": ({"sites": ("resid_mid",)}, ModelError, "expected resid_post"),
    "unknown position": ({"positions": "middle"}, DataError, "Expected last"),
    "unknown backend": ({"backend": "jax"}, ModelError, "expected hooks"),
    "unknown dtype": ({"store_dtype": "int8"}, ModelError, "expected float16 or float32"),
    "too long": ({"max_length": 30}, DataError, r"row row-00\d: has \d+ tokens, the limit is 30"),
    "missing token": ({"positions": "token:9"}, DataError, "row-000: position token:9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_leave_nothing_behind(loaded, tmp_path, case):
    options, kind, match = BAD[case]
    with pytest.raises(kind, match=match):
        cache_activations(loaded, ratings(), tmp_path / "s.h5", config=CacheConfig(**options))
    assert list(tmp_path.iterdir()) == []


def test_longer_rows_can_be_dropped_and_pairs_fall_together(loaded, tmp_path):
    lengths = [len(render(row, loaded.tokenizer).ids) for row in pairs().rows]
    limit = sorted(lengths)[len(lengths) // 2]
    keep = [max(lengths[i : i + 2]) <= limit for i in range(0, len(lengths), 2)]
    config = CacheConfig(max_length=limit, too_long="drop")
    with cache_activations(loaded, pairs(), tmp_path / "s.h5", config=config) as store:
        assert len(store.examples) == 2 * sum(keep) < len(lengths)
        assert list(store.examples.side) == ["chosen", "rejected"] * sum(keep)
    with pytest.raises(DataError, match="every row is longer"):
        config = CacheConfig(max_length=1, too_long="drop")
        cache_activations(loaded, pairs(), tmp_path / "t.h5", config=config)


def test_an_existing_store_is_kept_without_force(loaded, tmp_path):
    out = tmp_path / "s.h5"
    cache_activations(loaded, ratings(5), out).close()
    before = out.read_bytes()
    with pytest.raises(OutputError, match="already exists. Pass --force"):
        cache_activations(loaded, ratings(6), out)
    assert out.read_bytes() == before
    cache_activations(loaded, ratings(6), out, force=True).close()
    with ActivationStore.open(out) as store:
        assert len(store.examples) == 6


class Killed(BaseException):
    """Stands for a process that ends between two batches."""


def stop_after(n):
    calls = []

    def progress(what, done, total):
        if what == "capturing":
            calls.append(done)
            if len(calls) > n:
                raise Killed

    return progress


@pytest.mark.parametrize("n", [0, 1, 3, 6])
def test_an_interrupted_capture_resumes_to_the_same_bytes(loaded, tmp_path, n):
    whole, broken = tmp_path / "whole.h5", tmp_path / "broken.h5"
    cache_activations(loaded, ratings(), whole, config=EXACT).close()
    with pytest.raises(Killed):
        cache_activations(loaded, ratings(), broken, config=EXACT, progress=stop_after(n))
    assert not broken.exists()
    with pytest.raises(StoreError, match="Pass --resume to continue it or --force"):
        cache_activations(loaded, ratings(), broken, config=EXACT)
    with pytest.raises(StoreError, match="with the same settings, or"):
        other = CacheConfig(positions=ALL_RULES, batch_tokens=300)
        cache_activations(loaded, ratings(), broken, config=other, resume=True)
    with pytest.raises(StoreError, match="is unfinished: run cache with --resume"):
        ActivationStore.open(broken)
    cache_activations(loaded, ratings(), broken, config=EXACT, resume=True).close()
    assert content(whole) == content(broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.h5", "whole.h5"]
    # Resuming what is whole already is no error and changes nothing.
    cache_activations(loaded, ratings(), broken, config=EXACT, resume=True).close()


PRELOADED = [
    f"transformers.{name}"
    for name in (
        "models.llama.modeling_llama", "models.auto.modeling_auto", "models.auto.tokenization_auto",
        "tokenization_utils_tokenizers", "integrations", "generation",
    )
]  # fmt: skip
"""What loading a model imports, once for all children."""


def _capture_until_killed(folder, out, calls, delay):
    """Capture, and SIGKILL this process `delay` seconds after the given call of progress."""
    torch.set_num_threads(1)
    loaded = load_model(folder, dtype="float32")
    import probekit.activations.cache as module

    module.COMMIT_SECONDS = 0.0
    seen = []

    def progress(*_):
        seen.append(1)
        if len(seen) == calls:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(0.01)

    cache_activations(loaded, ratings(), out, config=EXACT, resume=True, progress=progress).close()


def test_random_kills_never_damage_the_result(loaded, tiny_llama, tmp_path):
    """SIGKILL at many moments, resume each time: the end is byte-equal to an unbroken run."""
    whole, broken = tmp_path / "whole.h5", tmp_path / "broken.h5"
    cache_activations(loaded, ratings(), whole, config=EXACT).close()
    # Forked from a process without threads: in a child of this one, locks of torch's or the tokenizer's
    # threads may stay closed for ever.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    rng = np.random.default_rng()
    kills = 0
    while not broken.exists():
        # The first kill falls on the first step of the work; later ones anywhere in it.
        calls, delay = (1, 0.0) if kills == 0 else (1 + rng.integers(3 + kills), rng.random() / 50)
        process = context.Process(
            target=_capture_until_killed, args=(str(tiny_llama), broken, calls, delay)
        )
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode == -signal.SIGKILL
        assert kills < 300
    assert kills > 0
    cache_activations(loaded, ratings(), broken, config=EXACT, resume=True).close()
    assert content(whole) == content(broken)


def test_two_captures_into_one_place_are_refused(loaded, tmp_path):
    with (
        taken(tmp_path / "s.h5"),
        pytest.raises(OutputError, match=r"another process is writing it \(probekit other, pid 7"),
    ):
        cache_activations(loaded, ratings(), tmp_path / "s.h5", force=True)


def test_a_full_disk_is_one_line_and_the_work_is_kept(loaded, tmp_path, monkeypatch):
    out = tmp_path / "s.h5"
    real = os.pwrite
    calls = []

    def full(*args):
        calls.append(1)
        if len(calls) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="s.h5.partial: the disk is full"):
        cache_activations(loaded, ratings(), out, config=EXACT)
    assert not out.exists()
    monkeypatch.undo()
    cache_activations(loaded, ratings(), out, config=EXACT, resume=True).close()
    cache_activations(loaded, ratings(), tmp_path / "whole.h5", config=EXACT).close()
    assert content(out) == content(tmp_path / "whole.h5")


def test_a_capture_that_cannot_fit_is_refused_at_once(loaded, tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"needs \d\.\d MB and 0.0 MB are free"):
        cache_activations(loaded, ratings(), tmp_path / "s.h5", config=EXACT)


def test_values_that_are_not_finite_are_refused(loaded, tmp_path):
    import copy

    broken = copy.deepcopy(loaded)
    with torch.no_grad():
        broken.model.model.layers[1].mlp.down_proj.weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"resid_post/001.*not finite"):
        cache_activations(broken, ratings(), tmp_path / "s.h5", config=EXACT)
    assert list(tmp_path.iterdir()) == []


def test_foreign_partial_newer_and_cut_files_are_refused(loaded, tmp_path):
    good = tmp_path / "good.h5"
    cache_activations(loaded, ratings(5), good).close()

    def changed(name, edit):
        path = tmp_path / name
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    cut = tmp_path / "cut.h5"
    cut.write_bytes(good.read_bytes()[:-5000])
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    foreign = tmp_path / "foreign.h5"
    h5py.File(foreign, "w").close()

    def damage(file):
        del file["activations/resid_post/001/last"]
        file["activations/resid_post/001/last"] = np.zeros((2, 16))

    cases = {
        tmp_path / "none.h5": "no such store. Make it with probekit cache",
        cut: "not a readable HDF5 file",
        text: "not a readable HDF5 file",
        foreign: "not a probekit store",
        tmp_path: "not a readable HDF5 file",
        changed("partial.h5", lambda f: f.attrs.__setitem__("complete", False)): "not complete",
        changed("newer.h5", lambda f: f.attrs.__setitem__("format_version", 2)): "Update probekit",
        changed("damaged.h5", damage): r"/activations/resid_post/001/last: has shape \(2, 16\)",
    }
    for path, match in cases.items():
        with pytest.raises(StoreError, match=match):
            ActivationStore.open(path)
    with ActivationStore.open(good) as store:
        with pytest.raises(StoreError, match="holds positions last, mean, turn_end"):
            store.read(Cell("resid_post", 1, "first:4"))
        with pytest.raises(StoreError, match="layers 0 to 2"):
            store.read(Cell("resid_post", 9, "last"))


def test_the_golden_file_of_version_1_is_still_read():
    from pathlib import Path

    folder = Path(__file__).parent / "golden"
    values = json.loads((folder / "store_v1.json").read_text())
    with ActivationStore.open(folder / "store_v1.h5") as store:
        assert store.kind == values["kind"]
        assert list(store.examples.id) == values["id"]
        assert list(store.examples.score) == values["score"]
        assert {name: list(tag) for name, tag in store.examples.tags.items()} == values["tags"]
        for i, ids in enumerate(values["token_ids"]):
            assert list(store.tokens.row(i).ids) == ids
        assert [str(cell) for cell in store.cells()] == sorted(values["activations"])
        for cell in store.cells():
            np.testing.assert_array_equal(store.read(cell), values["activations"][str(cell)])
        for cell in store.ragged_cells():
            acts, offsets = store.read_ragged(cell)
            np.testing.assert_array_equal(acts, values["ragged"][str(cell)])
            assert list(offsets) == values["offsets"]


def test_reproducible_rows_do_not_depend_on_their_neighbours(tiny_llama, tmp_path):
    """To the last bit, in bfloat16, where padding and the shape of a batch move the rounding."""
    half = load_model(str(tiny_llama), dtype="bfloat16")
    cell = Cell("resid_post", 2, "mean")
    few, many = labels(4, completion=True), labels(20, completion=True)
    found = {}
    for name, rows in (("few", few), ("many", many)):
        config = CacheConfig(positions="mean", store_dtype="float32", reproducible=True)
        with cache_activations(half, rows, tmp_path / f"{name}.h5", config=config) as store:
            found[name] = store.read(cell)
            assert store.provenance["settings"]["reproducible"] is True
    assert np.array_equal(found["few"], found["many"][:4])
