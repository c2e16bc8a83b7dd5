"""Seals, digests and the guarded parser: what was written is what is read, or one line says where."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.store import ActivationStore
from probekit.cli.main import cli
from probekit.container import atomic_directory, write_json, write_jsonl
from probekit.digests import check_directory, check_file, seal_fits, sealed, write_digests
from probekit.errors import DataError, ModelError, OutputError, ProbeError, StoreError
from probekit.models.load import add_adapter, load_model
from probekit.parsing import parse_json, read_json, read_jsonl, read_tensors, read_toml
from probekit.steering import SteeringVector
from probekit.verify import verify
from tests.activations.memory import pairs

AGAIN = "Do it again."
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)  # fmt: skip


@given(st.dictionaries(st.text(min_size=1), VALUES, min_size=1), st.data())
def test_a_seal_fits_its_object_in_any_layout_and_no_other(value, data):
    value.pop("checksum", None)
    kept = json.loads(json.dumps(sealed(value), indent=data.draw(st.sampled_from([None, 1, 4]))))
    assert seal_fits(kept) is True
    assert seal_fits(value) is None
    assert seal_fits({**value, "checksun": kept["checksum"]}) is False
    key = data.draw(st.sampled_from(sorted(value) or ["new"]))
    other = data.draw(VALUES)
    if json.dumps(value.get(key, AGAIN)) != json.dumps(other):
        assert seal_fits({**kept, key: other}) is False


def test_one_digit_of_a_document_is_seen_and_an_older_one_is_read(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"score": 0.5, "n": [1, 2]})
    assert read_json(path, ProbeError, AGAIN) == {"score": 0.5, "n": [1, 2]}
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(ProbeError, match=r"a\.json: does not fit its checksum.*Do it again\."):
        read_json(path, ProbeError, AGAIN)
    path.write_text('{"score": 0.6}')
    assert read_json(path, ProbeError, AGAIN) == {"score": 0.6}


def test_rows_with_a_seal_are_read_without_it(tmp_path):
    path, rows = (
        tmp_path / "a.jsonl",
        [{"text": "a\u2028b", "n": 1}, {"text": "", "n": float("nan")}],
    )
    write_jsonl(path, rows, seal=True)
    assert read_jsonl(path) == [rows[0], {"text": "", "n": None}]
    lines = path.read_text().split("\n")
    renamed = [*lines[:2], lines[2].replace("checksum", "checksun"), ""]
    for damaged in (lines[1:], [lines[0].replace("1", "2"), *lines[1:]], renamed):
        path.write_text("\n".join(damaged))
        with pytest.raises(OutputError, match="does not fit its checksum"):
            read_jsonl(path)


def test_digests_are_those_of_other_tools_and_name_the_file(tmp_path):
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.bin").write_bytes(bytes(range(256)) * 8192)
        (folder / "report.html").write_text("a page")
    listed = json.loads((tmp_path / "out" / "digests.json").read_text())["files"]
    whole = hashlib.sha256(bytes(range(256)) * 8192).hexdigest()
    assert listed == {"deep/a.bin": {"size": 1 << 21, "sha256": whole}}
    file = tmp_path / "out" / "deep" / "a.bin"
    assert check_directory(tmp_path / "out", ProbeError, AGAIN)
    assert check_file(file, ProbeError, AGAIN)
    assert not check_file(tmp_path / "elsewhere", ProbeError, AGAIN)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for check, what in ((check_file, file), (check_directory, tmp_path / "out")):
        with pytest.raises(ProbeError, match=r"deep/a\.bin: does not fit its checksum"):
            check(what, ProbeError, AGAIN)
    file.unlink()
    with pytest.raises(ProbeError, match=r"deep/a\.bin: is missing"):
        check_directory(tmp_path / "out", ProbeError, AGAIN)


def test_a_growing_file_is_compared_as_far_as_it_was_listed(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n')
    write_digests(tmp_path, [log.name], growing=[log.name])
    log.write_text('{"step": 1}\n{"step": 2}\n')
    assert check_file(log, OutputError, AGAIN)
    log.write_text('{"step": 3}\n{"step": 2}\n')
    with pytest.raises(OutputError, match="does not fit its checksum"):
        check_file(log, OutputError, AGAIN)
    log.write_text('{"st')
    with pytest.raises(OutputError, match="has 4 bytes, 12 were written"):
        check_file(log, OutputError, AGAIN)


BROKEN = {
    "cut": b'{"a": 1',
    "no object": b"[1]",
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": -Infinity}',
    "beyond a float": b'{"a": 1e999}',
    "not UTF-8": b'{"a": "\xff"}',
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_json_is_one_line_with_file_and_remedy(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for read in (read_json, read_jsonl):
        with pytest.raises(ProbeError, match=r"a\.json.*Do it again\.$"):
            read(path, ProbeError, AGAIN)


def test_numbers_that_are_none_are_refused_and_others_are_exact():
    assert parse_json("[1e308, -0.1, 12345678901234567890]") == [1e308, -0.1, 12345678901234567890]
    with pytest.raises(ValueError, match="holds NaN"):
        parse_json("NaN")


@pytest.mark.parametrize(
    "content",
    [b"a = " + b"[" * 5000 + b"]" * 5000, b"a = nan", b"a = [", b"\xff", b"a" + b".a" * 300 + b" = 1"],
    ids=["deep", "nan", "cut", "not UTF-8", "deep keys"],
)  # fmt: skip
def test_broken_toml_is_one_line(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.toml: cannot be read as TOML"):
        read_toml(path, DataError, AGAIN)


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_cut_tensors_are_one_line(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.arange(8.0)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(OutputError, match=r"a\.safetensors: cannot be read as safetensors"):
        read_tensors(path, OutputError, AGAIN)


@pytest.fixture(scope="module")
def store(tiny_llama, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "acts.h5"
    loaded = load_model(str(tiny_llama), dtype="float32")
    cache_activations(loaded, pairs(), out, config=CacheConfig(positions="last,all")).close()
    return out


def test_verify_names_the_place_and_says_what_has_no_checksums(store, tmp_path):
    path = tmp_path / "acts.h5"
    data = bytearray(store.read_bytes())
    with ActivationStore.open(store) as whole:
        cell = whole.cells()[1]
        values = whole.read(cell).astype("<f2")
    at = data.find(values.tobytes())
    assert at > 0
    data[at + 7] ^= 64
    path.write_bytes(data)
    with (
        ActivationStore.open(path) as damaged,
        pytest.raises(StoreError, match=f"{cell}: does not fit"),
    ):
        damaged.read(cell)
    run = CliRunner()
    assert "whole, 1 file" in run.invoke(cli, ["verify", str(store)]).output
    failed = run.invoke(cli, ["verify", str(path)])
    assert failed.exit_code == 1 and failed.output.count("\n") == 1
    assert f"{path}:/activations/{cell}: does not fit its checksum" in failed.output
    (tmp_path / "old.json").write_text("{}")
    older = run.invoke(cli, ["verify", str(tmp_path / "old.json")])
    assert older.exit_code == 0 and "has no checksums (written by an older version)" in older.output


def test_verify_looks_at_everything_below_a_directory(store, tmp_path):
    with atomic_directory(tmp_path / "study" / "fit") as folder:
        write_json(folder / "sweep.json", {"a": 1})
        write_jsonl(folder / "rows.jsonl", [{"a": 1}])
    SteeringVector({1: [1.0, 2.0]}).save(tmp_path / "study" / "v.safetensors")
    SteeringVector({1: [1.0, 2.0]}).save(tmp_path / "study" / "v.gguf")
    (tmp_path / "study" / "acts.h5").write_bytes(store.read_bytes())
    found = verify(tmp_path / "study")
    assert found.n_files == 5 and not found.problems and not found.unsealed
    row = tmp_path / "study" / "fit" / "rows.jsonl"
    row.write_text('{"a": 2}\n')
    for name in ("v.safetensors", "v.gguf"):
        vector = tmp_path / "study" / name
        data = bytearray(vector.read_bytes())
        last = (np.float64 if vector.suffix == ".safetensors" else np.float32)(2.0).tobytes()
        data[data.rfind(last)] ^= 1
        vector.write_bytes(data)
    assert sorted(line.split(":")[0] for line in verify(tmp_path / "study").problems) == [
        str(row), str(tmp_path / "study" / "v.gguf"), str(tmp_path / "study" / "v.safetensors"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="no such file or directory"):
        verify(tmp_path / "nowhere")


def test_a_damaged_adapter_is_refused_before_it_is_put_in(tiny_llama, tmp_path):
    with atomic_directory(tmp_path / "best") as folder:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_config.json").write_text("{}")
        save_file({"a": np.arange(8.0)}, folder / "adapter" / "adapter_model.safetensors")
    path = tmp_path / "best" / "adapter" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    loaded = load_model(str(tiny_llama), dtype="float32")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: does not fit its checksum"):
        add_adapter(loaded, path.parent)
