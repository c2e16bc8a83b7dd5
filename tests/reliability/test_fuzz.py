"""Odd and broken input of every reader and grammar: a value or one line (short, seeded); faults it found."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet as parquet
import pytest

from probekit.activations.layers import parse_layers
from probekit.activations.positions import parse_positions
from probekit.behaviours.definitions import find
from probekit.cli.main import main
from probekit.data.footer import columns_of
from probekit.data.open import open_dataset
from probekit.data.prompts import open_prompts
from probekit.data.readers import read_records
from probekit.errors import DataError, ModelError, ProbeError, ProbekitError
from probekit.foreign import LONGEST
from probekit.models.load import load_model
from probekit.results.runs import open_run
from tests.reliability.fuzz import OUTCOMES, run
from tests.reports.dynamics_factory import write_dynamics


def test_whatever_a_user_writes_is_a_value_or_one_line(tmp_path):
    seen: list[str] = []
    found = run(tmp_path, inputs=900, seed=20, tell=seen.append)
    assert len(found) == 29
    assert not [line for line in seen if not line.startswith("|")]
    for name, counts in found.items():
        assert counts["wrong"] == 0, name
        assert sum(counts[key] for key in OUTCOMES) >= 30


NOWHERE = ("n" * 5000, "~nobody-of-that-name/x", "a\0b", "\ud800")


@pytest.mark.parametrize("name", NOWHERE, ids=range(len(NOWHERE)))
def test_a_name_that_no_file_can_have_is_no_file(name):
    for read in (find, load_model):
        with pytest.raises(ProbekitError, match=r"no such file|unknown|could not|has no"):
            read(name)
    for ending in ("", ".jsonl"):
        with pytest.raises(DataError, match="no such"):
            open_prompts(name + ending)
        with pytest.raises(DataError, match="no such demo data"):
            open_prompts(f"demo:{name}{ending}")


def test_numbers_without_end_are_no_layers_and_no_positions():
    for text in ("9" * 5000, "0:" + "9" * 5000, "::" + "9" * 5000):
        with pytest.raises(ModelError, match="is not a layer"):
            parse_layers(text, 12)
    for text in ("token:" + "9" * 5000, "first:" + "9" * 5000):
        with pytest.raises(DataError, match="unknown. Expected last"):
            parse_positions(text)
    assert parse_layers("-1", 12) == [11]


def test_a_message_keeps_its_place_and_its_remedy():
    said = str(DataError(f"rows.jsonl:3: got {'x' * 9000}, expected less. Shorten it."))
    assert len(said) <= LONGEST
    assert said.startswith("rows.jsonl:3: got xx") and said.endswith(
        "xx, expected less. Shorten it."
    )


def test_a_usage_error_is_one_line_that_moves_no_cursor(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["cache", "--data", "d", "--out", "o", "--set", f"a\x1b[2J\n\u202e{'b' * 9000}"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("Error: ")]
    assert len(line) <= LONGEST + 20
    assert not set("\x1b\u202e") & set(error)
    assert line.endswith("expected KEY=VALUE.")


def many_types(path):
    """A table of texts, lists, structs and numbers in several row groups and encodings."""
    rows = [
        {"prompt": f"p{i}", "completion": "c" * i + ".", "score": i / 7, "tags": {"a": "b", "n": None},
         "messages": [{"role": "user", "content": "x"}] * (i % 3), "label": i % 2 == 0}
        for i in range(40)
    ]  # fmt: skip
    parquet.write_table(
        pyarrow.Table.from_pylist(rows), path, row_group_size=11, compression="zstd"
    )


def test_sizes_in_a_footer_are_those_that_pyarrow_tells(tmp_path):
    many_types(path := tmp_path / "x.parquet")
    metadata = parquet.read_metadata(path)
    there = [
        metadata.row_group(g).column(c)
        for g in range(metadata.num_row_groups)
        for c in range(metadata.num_columns)
    ]
    assert list(columns_of(path)) == [
        (c.path_in_schema.split(".")[0], c.total_compressed_size, c.total_uncompressed_size)
        for c in there
    ]
    assert len({c.path_in_schema for c in there}) >= 8


def test_a_damaged_footer_never_ends_the_process(tmp_path):
    """pyarrow aborts where it is asked for a column whose statistics are damaged."""
    many_types(path := tmp_path / "x.parquet")
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    refused = 0
    for at in range(len(data) - 8 - size, len(data), 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :])
        try:
            list(read_records(str(path)))
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20
    path.write_bytes(data)
    assert open_dataset(path, kind="rating").n_rows == 40


def test_findings_without_what_readers_need_are_one_line(tmp_path):
    folder = write_dynamics(tmp_path, "sgd")
    path = folder / "dynamics.json"
    whole = json.loads(path.read_text())
    first = next(iter(whole["findings"]["sgd"]["parametrisations"]))
    for change in (
        {"config": {}},
        {"findings": {"sgd": {"parametrisations": {first: {}}}}},
        {"findings": {"sgd": {"parametrisations": 3}}},
        {"findings": {"sgd": {}}},
    ):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(ProbeError, match=r"dynamics\.json: .* Run probekit dynamics again"):
            assert open_run(folder).rows is None
    path.write_text(json.dumps(whole))
    assert open_run(folder).record["findings"] == whole["findings"]
