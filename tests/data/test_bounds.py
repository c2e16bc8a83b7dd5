"""What a small file may grow to, and how long a text may be: refused before memory is taken."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from probekit.data import open_dataset, readers
from probekit.data.fields import TEXT_LIMIT
from probekit.data.readers import LINE
from probekit.errors import DataError


def bomb(path, size):
    """Write a gzip file of one line of `size` letters in a row's text."""
    with gzip.open(path, "wb", compresslevel=1) as handle:
        handle.write(b'{"label": 1, "text": "')
        for _ in range(size >> 20):
            handle.write(b"a" * (1 << 20))
        handle.write(b'"}\n')


def test_a_line_that_unpacks_to_hundreds_of_megabytes_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    bomb(path, 400 << 20)
    assert path.stat().st_size < 4 << 20
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"a\.jsonl\.gz:1: is longer than 32 MiB"):
            open_dataset(path)
        assert tracemalloc.get_traced_memory()[1] < 5 * LINE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_plain_lines_have_the_same_bound(tmp_path, name):
    path = tmp_path / name
    row = b'{"label": 1, "text": "%s"}\n' if name.endswith("jsonl") else b"label,text\n1,%s\n"
    path.write_bytes(row % (b"a" * (LINE + 1)))
    with pytest.raises(DataError, match=rf"{name}:\d: is longer than 32 MiB"):
        open_dataset(path)


@pytest.mark.parametrize("field", ["text", "prompt", "turn"])
def test_a_text_longer_than_any_model_reads_is_refused_with_its_place(tmp_path, field):
    long = "a" * (TEXT_LIMIT + 1)
    rows = {
        "text": {"label": 1, "text": long},
        "prompt": {"label": 1, "prompt": long},
        "turn": {"label": 1, "prompt": [{"role": "user", "content": long}]},
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(rows[field]) + "\n")
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: .* has 10,000,001 characters, the most is 10,000,000"
    ):
        open_dataset(path)
    path.write_text(json.dumps(rows[field]).replace(long, long[:-1]) + "\n")
    assert open_dataset(path).n_rows == 1


def test_a_parquet_text_that_many_rows_share_is_in_memory_a_few_times(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BATCH", 12 << 20)
    """80 rows of one text of 3 MB: 120 MB if every row had its own."""
    path, n = tmp_path / "a.parquet", 80
    text = pa.DictionaryArray.from_arrays(
        pa.array([i % 2 for i in range(n)]), ["a" * 3_000_000, "b"]
    )
    parquet.write_table(pa.table({"label": [i % 2 for i in range(n)], "text": text}), path)
    assert path.stat().st_size < 2 << 20
    before = pa.default_memory_pool().max_memory()
    found = open_dataset(path)
    lengths = [len(example.completion) for example in found.examples()]
    assert lengths == [3_000_000, 1] * (n // 2)
    assert pa.default_memory_pool().max_memory() - before < 40 << 20


def test_a_parquet_column_that_unpacks_to_far_more_is_refused_before_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "EXPANDED", 16 << 20)
    path = tmp_path / "a.parquet"
    rows = pa.table({"label": [0, 1] * 20, "text": ["a" * 700_000 + str(i) for i in range(40)]})
    parquet.write_table(rows, path, use_dictionary=False, compression="zstd")
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match=r"a\.parquet: column text unpacks to 28 MB from 0\.\d MB"):
        open_dataset(path)
    assert pa.total_allocated_bytes() - before < 5 << 20
