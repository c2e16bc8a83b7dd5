"""Scores to a file, a batch of rows in memory at a time: json lines, or parquet by the name's end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROWS = 2048
"""Rows of a row group."""


def write_scores(path: Path, rows: Iterable[dict[str, Any]], *, parquet: bool) -> int:
    """Write rows as they come, and return how many there were."""
    if not parquet:
        n = 0
        with path.open("w", encoding="utf-8") as handle:
            for row in rows:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
                n += 1
        return n
    return _write_parquet(path, iter(rows))


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {
        "id": pa.string(), "side": pa.string(), "score": pa.float64(), "rating": pa.float64(),
        "probability": pa.float64(), "tokens": pa.list_(pa.string()), "token_ids": pa.list_(pa.int32()),
        "scores": pa.list_(pa.float32()),
    }  # fmt: skip
    n, writer, stream = 0, None, iter(rows)
    try:
        while batch := list(itertools.islice(stream, ROWS)):
            if writer is None:
                # A file may hold rows and pairs: what a row has not is null.
                names = [name for name in types if name in batch[0] or name == "side"]
                schema = pa.schema([(name, types[name]) for name in names])
                writer = ParquetWriter(path, schema)
            writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
            n += len(batch)
        if writer is None:
            ParquetWriter(path, pa.schema([("id", pa.string()), ("score", pa.float64())])).close()
    finally:
        if writer is not None:
            writer.close()
    return n
