"""Stores that read like mappings, that other tools' arrays become, and that go when nobody holds them."""

from __future__ import annotations

import gc
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from probekit.activations.cache import cache_activations
from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.errors import ProbekitError, StoreError
from probekit.models.load import load_model
from probekit.probes import fit_sweep
from tests.models.test_memory import bridge
from tests.tiny import D_MODEL, tiny_model, tiny_tokenizer

LABELS = [0, 1] * 30


def planted(rng, n=60, d=8):
    return rng.normal(size=(n, d)) + 2 * np.outer(np.array(LABELS[:n]) - 0.5, np.ones(d))


@pytest.fixture(scope="module")
def loaded():
    return load_model(tiny_model(), tokenizer=tiny_tokenizer())


def texts(n=24):
    return [{"text": f"{w} {i}", "label": w} for i, w in enumerate(["good", "bad"] * (n // 2))]


def test_a_store_reads_like_a_mapping(loaded, tmp_path):
    store = cache_activations(
        loaded, texts(), tmp_path / "a.h5", layers=[0, 2], positions=["last", "mean"]
    )
    with store:
        cell = Cell("resid_post", 2, "mean")
        assert np.array_equal(store["resid_post", 2, "mean"], store.read(cell))
        assert np.array_equal(store["resid_post", -1, "mean"], store.read(cell))
        assert (
            cell in store
            and ("resid_post", 2, "mean") in store
            and ("resid_post", 1, "mean") not in store
        )
        assert list(store) == store.keys() == store.cells() and len(store) == 6
        assert all(np.array_equal(acts, store.read(cell)) for cell, acts in store.items())
        for bad in ("resid_post", ("resid_post", 2), ("resid_post", 9, "mean")):
            with pytest.raises(StoreError):
                store[bad]
        frame = store.examples_frame()
        assert frame["label"].tolist() == ["good", "bad"] * 12
        assert frame["completion"].tolist() == [row["text"] for row in texts()]
        assert len(repr(store).splitlines()) <= 20 and "resid_post" in store._repr_html_()


def test_norms_are_those_of_hidden_states(loaded):
    with cache_activations(loaded, texts(20), layers=[1], positions="last") as store:
        norms = []
        for i in range(16):  # the first rows, token 0 left out
            ids = torch.from_numpy(store.tokens.row(i).ids).long()[None]
            states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[2]
            norms += states[0, 1:].norm(dim=-1).tolist()
        assert store.provenance["residual_norms"]["resid_post"]["1"] == pytest.approx(
            np.mean(norms)
        )


def test_a_temporary_store_goes_when_it_is_closed_or_forgotten(loaded):
    stores = [cache_activations(loaded, texts(4)) for _ in range(2)]
    folders = [store.path.parent for store in stores]
    assert all(folder.is_dir() for folder in folders)
    stores.pop().close()
    assert [folder.exists() for folder in folders] == [True, False]
    stores.clear()
    gc.collect()
    assert not folders[0].exists()


def test_a_temporary_store_that_fails_leaves_nothing(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ProbekitError):
        cache_activations(loaded, texts(4), positions="token:99")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "tensor"])
def test_arrays_come_back_as_they_were(kind, rng):
    acts = planted(rng).astype(np.float32)
    given = acts
    if kind == "float16":
        given = acts.astype(np.float16)
    elif kind in ("bfloat16", "tensor"):
        given = torch.from_numpy(acts).requires_grad_()
        given = given.to(torch.bfloat16) if kind == "bfloat16" else given
    expected = np.asarray(given.detach().float()) if isinstance(given, torch.Tensor) else given
    with ActivationStore.from_arrays(
        {("resid_post", 3): given}, labels=LABELS, position="mean"
    ) as store:
        assert np.array_equal(store["resid_post", 3, "mean"], expected.astype(np.float32))
        assert store.n_layers == 4 and store.examples.label.tolist() == LABELS


def test_files_of_arrays(rng, tmp_path):
    acts = planted(rng).astype(np.float32)
    names = {"resid_post/003/mean": acts, "resid_post/1/last": acts + 1}
    np.savez(tmp_path / "a.npz", **names)
    save_file({k: torch.from_numpy(v) for k, v in names.items()}, tmp_path / "a.safetensors")
    files = ["a.npz", "a.safetensors"]
    try:
        import zarr

        group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
        for name, values in names.items():
            group.create_array(name, data=values)
        files.append("a.zarr")
    except ImportError:
        pass
    for file in files:
        with ActivationStore.from_arrays(tmp_path / file, scores=np.arange(60) / 2) as store:
            assert np.array_equal(store["resid_post", 3, "mean"], acts), file
            assert np.array_equal(store["resid_post", 1, "last"], acts + 1), file
            assert store.kind == "rating"


@pytest.mark.parametrize(
    "name", [3, "3", "layer_3", "layers.3", "blocks.3.hook_resid_post", "resid_post.3"]
)
def test_names_of_layers(name, rng):
    with ActivationStore.from_arrays({name: planted(rng)}, labels=LABELS, position="last") as store:
        assert store.keys() == [Cell("resid_post", 3, "last")]


@pytest.mark.parametrize("position", ["last", "mean", "token:1", "token:-2"])
def test_an_axis_of_tokens_is_read_at_the_rule_on_either_side_of_padding(position, rng):
    lengths = rng.integers(3, 7, size=60)
    acts = rng.normal(size=(60, 7, 4)).astype(np.float32)
    by_hand = {
        "last": lambda row: row[-1], "mean": lambda row: row.mean(axis=0),
        "token:1": lambda row: row[1], "token:-2": lambda row: row[-2],
    }[position]  # fmt: skip
    for left in (False, True):
        mask = np.arange(7) >= 7 - lengths[:, None] if left else np.arange(7) < lengths[:, None]
        expected = np.stack([by_hand(row[known]) for row, known in zip(acts, mask, strict=True)])
        with ActivationStore.from_arrays(
            {2: acts}, labels=LABELS, position=position, mask=mask
        ) as store:
            np.testing.assert_allclose(
                store["resid_post", 2, position], expected, rtol=1e-6, atol=1e-6
            )


def test_a_cache_of_transformer_lens_gives_what_the_hooks_read(tiny_llama):
    found = load_model(str(tiny_llama), dtype="float32")
    rows = [{"text": "abcdef", "label": 0}, {"text": "uvwxyz", "label": 1}] * 3
    with cache_activations(
        found, rows, layers="all", sites="resid_post,mlp_out", positions="turn_end"
    ) as told:
        ids = np.stack([told.tokens.row(i).ids for i in range(6)])
        _, cache = bridge(found.model, found.tokenizer).run_with_cache(torch.from_numpy(ids).long())
        with ActivationStore.from_arrays(
            cache, rows=rows, position="last", model=told.provenance
        ) as store:
            assert {cell.site for cell in store} == {
                "resid_pre",
                "resid_post",
                "attn_out",
                "mlp_out",
            }
            assert store.provenance["weights_fingerprint"] == found.fingerprint
            for site in ("resid_post", "mlp_out"):
                for layer in range(3):
                    ours = told[site, layer, "turn_end"]
                    # The store keeps halves: 2**-11 of a value, and a bridge has float noise.
                    np.testing.assert_allclose(
                        store[site, layer, "last"], ours, rtol=2e-3, atol=1e-3
                    )


def test_a_fit_on_arrays_finds_what_is_planted_and_has_no_control_of_texts(rng):
    with ActivationStore.from_arrays({1: planted(rng)}, labels=LABELS) as store:
        result = fit_sweep(store, n_boot=20)
    assert result.report["auroc"].value > 0.9
    assert not {"tfidf", "characters"} & set(result.controls)
    assert result.probe.reference is None and result.probe.provenance["model"] == "arrays in memory"


def test_rows_give_texts_groups_and_pairs(rng):
    rows = [
        {"prompt": "q", "chosen": f"yes {i}", "rejected": f"no {i}", "group": f"g{i}"}
        for i in range(8)
    ]
    with ActivationStore.from_arrays(
        {0: rng.normal(size=(16, 3))}, rows=pd.DataFrame(rows)
    ) as store:
        assert store.kind == "pair" and store.examples.completion[3] == "no 1"
    with ActivationStore.from_arrays(
        {0: rng.normal(size=(4, 3))}, labels=[True, False, True, False], groups=[1, 1, 2, 2]
    ) as store:
        assert store.examples.label.tolist() == [1, 0, 1, 0]
        assert store.examples.group.tolist() == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("arrays", "more", "line"),
    [
        (np.ones((4, 2)), {}, "arrays: got a ndarray, expected arrays by name or a file"),
        ({"weights": np.ones((4, 2))}, {}, "array 'weights': names no site and layer"),
        ({1: np.ones((3, 2))}, {}, "array 1: has 3 rows, the data have 4 texts."),
        ({1: np.ones((4, 2)), 2: np.ones((4, 3))}, {}, "array 2: is 3 wide, others 2."),
        ({1: np.full((4, 2), np.nan)}, {}, "array 1: holds NaN"),
        ({1: np.ones((4, 2)), "1": np.ones((4, 2))}, {}, "array '1': is a second one of"),
        ({1: np.ones(4)}, {}, "array 1: has shape"),
        ({1: np.ones((4, 2, 2))}, {"position": "turn_end"}, "position turn_end: cannot be told"),
        ({1: np.ones((4, 2, 2))}, {"position": "token:5"}, "position token:5: a text has fewer"),
        ({1: np.ones((4, 2, 2))}, {"mask": np.zeros((4, 2))}, "mask: has shape"),
        ({1: np.ones((4, 2))}, {"position": "end"}, "position 'end': unknown."),
        ({1: np.ones((4, 2))}, {"n_layers": 1}, "n_layers 1: an array is of layer 1."),
        ({1: np.ones((4, 2))}, {"labels": None}, "arrays: expected one of rows, labels and scores"),
        ({1: np.ones((4, 2))}, {"groups": [1]}, "groups: 1 for 4 labels"),
        ({"hook_embed": np.ones((4, 2))}, {}, "arrays: none is of a residual stream."),
        ("absent.npz", {}, "absent.npz: no such file."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_and_writes_nothing(arrays, more, line, tmp_path):
    out = tmp_path / "store.h5"
    with pytest.raises(ProbekitError) as caught:
        ActivationStore.from_arrays(arrays, out=out, **{"labels": [0, 1, 0, 1], **more})
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["pickled", "cut", "text", "promising"])
def test_a_damaged_or_pickled_file_is_one_line(kind, rng, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, layer_1=planted(rng))
    whole = path.read_bytes()
    if kind == "pickled":
        np.savez(path, layer_1=np.array([{"a": 1}, None] * 30, dtype=object))
    elif kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("no archive")
    else:  # a header of more rows than there are
        with zipfile.ZipFile(path, "w") as file, file.open("layer_1.npy", "w") as member:
            np.lib.format.write_array_header_1_0(
                member, {"shape": (10**15, 8), "fortran_order": False, "descr": "<f8"}
            )
    with pytest.raises(StoreError, match="is not a readable .npz file") as caught:
        ActivationStore.from_arrays(path, labels=LABELS)
    assert "\n" not in str(caught.value)


def test_a_store_that_is_there_stays(rng, tmp_path):
    out = tmp_path / "a.h5"
    ActivationStore.from_arrays({1: planted(rng)}, out=out, labels=LABELS).close()
    with pytest.raises(ProbekitError, match="already exists"):
        ActivationStore.from_arrays({1: planted(rng)}, out=out, labels=LABELS)
    with ActivationStore.open(out) as store:
        assert store.d_model == 8 != D_MODEL
