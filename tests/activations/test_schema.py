"""Stores that another program or a hand left wrong, and interrupted captures that lost a part."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest

from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.store import ActivationStore
from probekit.activations.workdir import row_sums
from probekit.errors import StoreError
from probekit.models.load import load_model
from tests.activations.memory import MemoryRows, pairs, ratings
from tests.activations.test_cache import Killed, content, stop_after
from tests.steering.conftest import labelled


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


@pytest.fixture(scope="module")
def stores(loaded, tmp_path_factory):
    """A store of each kind without checksums, as another program would write it."""
    folder = tmp_path_factory.mktemp("stores")
    data = {
        "pair": pairs(),
        "rating": ratings(6),
        "label": MemoryRows(labelled()[:6], kind="label", classes=("ab", "xy")),
    }
    for kind, rows in data.items():
        config = CacheConfig(positions="last,all")
        cache_activations(loaded, rows, folder / kind, config=config).close()
        with h5py.File(folder / kind, "r+") as file:
            del file.attrs["checksums"]
    return folder


def put(name, row, value):
    return lambda file: file[f"examples/{name}"].__setitem__(row, value)


def replace(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


def move(old, new):
    return lambda file: file.move(old, new)


def attribute(place, name, value):
    return lambda file: file[place].attrs.__setitem__(name, value)


LAST = "activations/resid_post/001/last"
WRONG = {
    "label of -1": ("label", put("label", 2, -1), "examples/label: row 2 holds -1, expected 0 to 1"),
    "label of 7": ("label", put("label", 0, 7), "examples/label: row 0 holds 7"),
    "no classes": ("label", attribute("examples", "classes", "{}"), "classes is no list"),
    "broken classes": ("label", attribute("examples", "classes", "["), "classes is not JSON"),
    "infinite rating": ("rating", put("score", 1, np.inf), "row 1 holds inf, expected a finite"),
    "negative length": ("rating", put("n_tokens", 3, -5), "examples/n_tokens: row 3 holds -5"),
    "offsets that fall": ("pair", put("token_offsets", 2, 0), "token_offsets: do not rise"),
    "span outside": ("pair", put("span", 1, (0, 9999)), "examples/span: row 1 holds 9999"),
    "span that ends first": ("pair", put("span", 1, (3, 1)), "examples/span: row 1 holds 3"),
    "turn end outside": ("pair", put("turn_end", 0, 500), "examples/turn_end: row 0 holds 500"),
    "complex": ("pair", replace(LAST, np.zeros((16, 16), complex)), "holds complex128, expected fl"),
    "whole numbers": ("pair", replace(LAST, np.zeros((16, 16), int)), "holds int64, expected fl"),
    "text": ("rating", replace("examples/score", ["a"] * 6), "score: holds object, expected fl"),
    "other width": ("pair", replace(LAST, np.zeros((16, 8), "f2")), r"shape \(16, 8\), expected \(16, 16\)"),
    "short ragged": ("pair", replace(f"{LAST[:-4]}all", np.zeros((3, 16), "f2")), r"has shape \(3, 16\)"),
    "layer 999": ("pair", move("activations/resid_post/001", "activations/resid_post/999"), "layer is 999"),
    "no layer": ("pair", move("activations/resid_post/001", "activations/resid_post/x"), "layer is x"),
    "lost column": ("pair", move("examples/span", "examples/spam"), "examples/span: is missing"),
    "short column": ("pair", replace("examples/side", ["chosen"] * 3), "examples/side: has shape"),
    "kind": ("pair", attribute("examples", "kind", "other"), "kind is 'other', expected label"),
    "n_layers": ("pair", attribute("/", "n_layers", -3), "n_layers is .*-3.*, expected a count"),
    "d_model": ("pair", attribute("/", "d_model", 0.5), "d_model is .*0.5.*, expected a count"),
    "provenance": ("pair", attribute("/", "provenance", '{"a": NaN}'), "provenance: holds NaN"),
    "group for matrix": ("pair", lambda f: f.create_group(f"{LAST}2/deep"), "is no matrix"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_the_format_excludes_is_refused_at_open_with_its_place(stores, tmp_path, name):
    kind, change, message = WRONG[name]
    path = tmp_path / "acts.h5"
    shutil.copy(stores / kind, path)
    ActivationStore.open(path).close()
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(StoreError, match=message) as caught:
        ActivationStore.open(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_sides_out_of_turn_are_refused(stores, tmp_path):
    path = tmp_path / "acts.h5"
    shutil.copy(stores / "pair", path)
    with h5py.File(path, "r+") as file:
        file["examples/side"][0] = "rejected"
    with (
        ActivationStore.open(path) as store,
        pytest.raises(StoreError, match="is not chosen, rejected"),
    ):
        store.examples  # noqa: B018 - read when asked for


def test_a_header_that_promises_more_than_the_file_has_takes_no_memory(stores, tmp_path):
    path = tmp_path / "acts.h5"
    shutil.copy(stores / "rating", path)
    with h5py.File(path, "r+") as file:
        file["examples/token_ids"].resize(1 << 40, axis=0)
        file["examples/token_offsets"][-1] = 1 << 40
    with pytest.raises(StoreError, match=r"token_ids: promises \d+ bytes, the file has \d+"):
        ActivationStore.open(path)


def test_damage_to_any_column_or_attribute_is_named(loaded, tmp_path):
    path = tmp_path / "acts.h5"
    cache_activations(loaded, ratings(6), path, config=CacheConfig(positions="last")).close()
    for change, place in (
        (put("completion", 0, "other text"), "examples/completion: does not fit"),
        (put("score", 0, 0.25), "examples/score: does not fit"),
        (put("tags/parity", 1, "even"), "examples/tags/parity: does not fit"),
        (put("token_ids", 3, 7), "examples/token_ids: does not fit"),
        (attribute("/", "provenance", '{"model": "b"}'), "attribute provenance does not fit"),
        (attribute("examples", "kind", "label"), "attribute kind does not fit"),
        (lambda file: file.move(LAST, f"{LAST}2"), f"{LAST}: is missing"),
    ):
        copy = tmp_path / "copy.h5"
        shutil.copy(path, copy)
        with h5py.File(copy, "r+") as file:
            change(file)
        with pytest.raises(StoreError, match=place), ActivationStore.open(copy) as store:
            assert store.examples and store.tokens


def damaged_resume(loaded, out, pattern, damage, message):
    config = CacheConfig(positions="last,mean,all", batch_tokens=60)
    with pytest.raises(Killed):
        cache_activations(loaded, ratings(), out, config=config, progress=stop_after(3))
    file = sorted(out.with_name(f"{out.name}.partial").glob(pattern))[0]
    data = bytearray(file.read_bytes())
    file.write_bytes(damage(data))
    with pytest.raises(StoreError, match=message) as caught:
        cache_activations(loaded, ratings(), out, config=config, resume=True)
    assert file.name in str(caught.value) and "--force" in str(caught.value)
    assert not out.exists()
    cache_activations(loaded, ratings(), out, config=config, force=True).close()


@pytest.mark.parametrize(
    ("pattern", "damage", "message"),
    [
        ("*last.f16", lambda data: data[:32], "is cut short, row"),
        ("*all.f16", lambda data: b"", "is cut short, row"),
        ("*last.f16.sum", lambda data: data[:4], "is cut short, row"),
        ("examples.h5", lambda data: data[: len(data) // 2], "cannot be read"),
        ("progress.json", lambda data: data.replace(b'done": ', b'done": 1'), "checksum"),
        ("progress.json", lambda data: b"{", "partial or damaged"),
        ("settings.json", lambda data: data[:-20], "partial or damaged"),
    ],
)
def test_a_damaged_part_of_an_interrupted_capture_is_refused(
    loaded, tmp_path, pattern, damage, message
):
    damaged_resume(loaded, tmp_path / "a.h5", pattern, damage, message)


def test_a_flipped_row_of_an_interrupted_capture_is_refused(loaded, tmp_path):
    config = CacheConfig(positions="last", batch_tokens=60)
    out = tmp_path / "a.h5"
    with pytest.raises(Killed):
        cache_activations(loaded, ratings(), out, config=config, progress=stop_after(3))
    path = sorted((tmp_path / "a.h5.partial").glob("*last.f16"))[0]
    rows = np.fromfile(path, np.float16).reshape(-1, 16)
    row = int(np.flatnonzero(rows.any(axis=1))[-1])
    data = bytearray(path.read_bytes())
    data[row * 32 + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=f"{path.name}: row {row} does not fit its checksum"):
        cache_activations(loaded, ratings(), out, config=config, resume=True)


def test_a_capture_of_an_older_version_goes_on_without_checksums(loaded, tmp_path):
    config = CacheConfig(positions="last", batch_tokens=60)
    whole, out = tmp_path / "whole.h5", tmp_path / "a.h5"
    cache_activations(loaded, ratings(), whole, config=config).close()
    with pytest.raises(Killed):
        cache_activations(loaded, ratings(), out, config=config, progress=stop_after(3))
    for path in (tmp_path / "a.h5.partial").glob("*.sum"):
        path.unlink()
    with h5py.File(tmp_path / "a.h5.partial" / "examples.h5", "r+") as file:
        del file.attrs["checksums"]
    cache_activations(loaded, ratings(), out, config=config, resume=True).close()
    assert content(out) == content(whole)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_one_flipped_bit_always_changes_the_sum_of_its_row(rng, dtype):
    values = rng.standard_normal((5, 33)).astype(dtype)
    before = row_sums(values)
    assert not row_sums(np.zeros_like(values)).any()
    for _ in range(300):
        data = bytearray(values.tobytes())
        bit = int(rng.integers(8 * len(data)))
        data[bit // 8] ^= 1 << bit % 8
        after = row_sums(np.frombuffer(data, dtype).reshape(values.shape))
        row = bit // 8 // (values.itemsize * 33)
        assert np.flatnonzero(after != before).tolist() == [row]
