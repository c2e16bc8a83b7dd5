"""Labels, ratings and names are read as what they are, and columns that nobody reads are not decoded."""

from __future__ import annotations

import csv
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from probekit.data import check, open_dataset
from probekit.data.prompts import open_prompts
from probekit.errors import DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labels(path, *values):
    return write(path, [{"text": f"t{i}", "label": value} for i, value in enumerate(values)])


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ((10, 2), ("2", "10")),
        ((9, 10), ("9", "10")),
        ((-1, -2), ("-2", "-1")),
        ((2.0, 10, 2), ("2", "10")),
        ((-0.0, 1, 0), ("0", "1")),
        (("10", "9"), ("9", "10")),
        (("level 10", "level 9"), ("level 10", "level 9")),
        ((" real", "invented", "real "), ("invented", "real")),
    ],
)
def test_classes_stand_in_the_order_of_numbers_or_of_text(tmp_path, values, classes):
    found = open_dataset(labels(tmp_path / "l.jsonl", *values))
    assert found.classes == classes
    assert list(check(found).classes) == list(classes)


def test_labels_of_two_types_are_refused(tmp_path):
    for values, match in (
        ((1, "1"), "l.jsonl:2: labels are numbers in some rows and names in others"),
        ((1, True), "l.jsonl:2: labels are numbers in some rows and names in others"),
        (("a", " \t"), r"l.jsonl:2: label is text"),
        ((1, float("nan")), r"l.jsonl:2: label is a number \(nan\)"),
    ):
        with pytest.raises(DataError, match=match):
            open_dataset(labels(tmp_path / "l.jsonl", *values))


@pytest.mark.parametrize("text", ["1_000", "١٢", "nan", "inf", "0x10", "1,5", "ten"])
def test_a_csv_score_is_a_plain_number(tmp_path, text):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([["text", "score"], ["a", "1e3"], ["b", " 2.5 "], ["c", text]])
    with pytest.raises(DataError, match=r"a\.csv:4: score is text"):
        open_dataset(path)
    assert open_dataset(path, limit=2).score_range == (2.5, 1000.0)


def test_csv_labels_are_the_numbers_that_a_table_makes_of_them(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,10.0\nb, 9\nc,10\n")
    assert [row.label for row in open_dataset(tmp_path / "a.csv").examples()] == [10, 9, 10]
    (tmp_path / "a.csv").write_text("text,label\na,1_0\nb,x\n")
    assert open_dataset(tmp_path / "a.csv").classes == ("1_0", "x")


def test_layouts_read_no_rating_that_is_none(tmp_path):
    row = {"prompt": "q", "response": "r", "helpfulness": "4", "verbosity": None, "coherence": 2}
    (found,) = open_dataset(write(tmp_path / "h.jsonl", [row])).examples()
    assert (found.score, found.tags) == (4.0, {"coherence": "2"})
    for bad in ("1_0", True, [1]):
        with pytest.raises(DataError, match=r"h\.jsonl:1: does not have the columns of layout"):
            open_dataset(write(tmp_path / "h.jsonl", [{**row, "helpfulness": bad}]))


def test_groups_are_one_however_their_number_is_written(tmp_path):
    rows = [{"text": f"t{i}", "score": i, "group": g} for i, g in enumerate([1, 1.0, "1"])]
    assert open_dataset(write(tmp_path / "g.jsonl", rows)).n_groups == 1
    for field in ("group", "id"):
        bad = [{"text": "t", "score": 1, field: float("nan")}]
        with pytest.raises(DataError, match=f"{field} is nan"):
            open_dataset(write(tmp_path / "g.jsonl", bad))
        bad[0][field] = "x" * 100_001
        with pytest.raises(DataError, match=f"{field} has 100,001 characters"):
            open_dataset(write(tmp_path / "g.jsonl", bad))


def test_white_space_makes_no_other_group(tmp_path):
    rows = [{"prompt": p, "completion": "a", "score": i} for i, p in enumerate(["q", " q\n"])]
    rows.append(
        {**rows[0], "prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "q"}]}
    )
    assert open_dataset(write(tmp_path / "g.jsonl", rows)).n_groups == 1


def swapped(n):
    a, b = "It is the first one.", "It is the second one."
    pairs = [{"prompt": f"q{i}", "chosen": a, "rejected": b} for i in range(n)]
    return [*pairs, {**pairs[0], "chosen": b, "rejected": a}, pairs[1]]


def test_contradictions_are_counted_and_the_first_is_named(tmp_path):
    found = check(open_dataset(write(tmp_path / "p.jsonl", swapped(30))))
    assert (found.duplicates, found.conflicts) == (2, 1)
    assert found.first_conflict == f"{tmp_path / 'p.jsonl'}:31"
    (line,) = [line for line in found.warnings if line.startswith("contradictions")]
    assert "1 rows are an earlier one with its sides swapped (the first at " in line
    same = [
        {"text": "same", "score": 1},
        {"text": "same", "score": 1},
        {"text": "same", "score": 2},
    ]
    found = check(open_dataset(write(tmp_path / "r.jsonl", same)))
    assert (found.conflicts, found.first_conflict) == (1, f"{tmp_path / 'r.jsonl'}:3")
    # The same two answers to another prompt contradict nothing.
    other = swapped(2)[:2] + [{"prompt": "z", "chosen": "a", "rejected": "b"}] * 1
    assert check(open_dataset(write(tmp_path / "p.jsonl", other))).conflicts == 0


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "q ", "chosen": "b\n", "rejected": " a"},
        {"prompt": [{"role": "user", "content": "\nq"}], "chosen": "b", "rejected": "a"},
        {
            "prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "q"}],
            "chosen": "b", "rejected": "a", "group": "another",
        },
    ],
)  # fmt: skip
def test_white_space_hides_no_contradiction(tmp_path, other):
    """It makes no other group of a prompt either."""
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    found = check(open_dataset(write(tmp_path / "p.jsonl", [pair, other])))
    assert (found.duplicates, found.conflicts) == (1, 1)
    rows = [{"prompt": "q", "completion": f"a{end}", "label": i} for i, end in enumerate(" \n")]
    assert check(open_dataset(write(tmp_path / "l.jsonl", rows))).conflicts == 1


def test_identical_sides_and_mixed_rows_are_named(tmp_path):
    pairs = [{"prompt": f"q{i}", "chosen": "a b", "rejected": "a c"} for i in range(3)]
    pairs += [{"prompt": "q9", "chosen": "a", "rejected": "a"}]
    found = check(open_dataset(write(tmp_path / "p.jsonl", pairs)))
    assert found.identical_sides == 1
    assert f"(the first at {tmp_path / 'p.jsonl'}:4): a fit leaves them out" in found.warnings[-2]
    raw = [{"text": "t", "score": 1}, {"prompt": "q", "completion": "a", "score": 2}]
    lines = check(open_dataset(write(tmp_path / "m.jsonl", raw))).warnings
    assert any(line.startswith("mixed rows: 1 of 2 have no prompt") for line in lines)


def test_an_opening_counts_once_in_a_text_of_one_word(tmp_path):
    rows = [
        {"prompt": f"q{i}", "completion": "Yes" if i % 2 else f"w{i} b", "label": i % 2}
        for i in range(40)
    ]
    lines = check(open_dataset(write(tmp_path / "o.jsonl", rows))).warnings
    assert "telling opening: 100% of class '1' and 0% of class '0' begin with 'yes'" in lines


def test_long_tags_cost_their_start_in_a_check(tmp_path):
    rows = [
        {"text": f"t{i}", "score": i, "tags": {"t": f"{'x' * 20_000}{i % 2}"}} for i in range(200)
    ]
    found = open_dataset(write(tmp_path / "t.jsonl", rows))
    tracemalloc.start()
    report = check(found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(report.tags["t"].values()) == [100, 100]
    assert max(map(len, report.tags["t"])) < 100 and peak < 1e6  # of 4 MB of tags


def unreadable(n):
    """A column of text that is not UTF-8, with a huge one beside it."""
    offsets = pa.py_buffer(b"".join(i.to_bytes(4, "little") for i in range(n + 1)))
    return pa.StringArray.from_buffers(n, offsets, pa.py_buffer(b"\xff" * n))


def test_columns_that_nobody_reads_are_not_decoded(tmp_path):
    path, n = tmp_path / "a.parquet", 4
    columns = {"prompt": [f"q{i}" for i in range(n)], "completion": ["a"] * n, "score": range(n)}
    table = pa.table(
        {name: pa.array(values) for name, values in columns.items()} | {"bad": unreadable(n)}
    )
    parquet.write_table(table, path)
    assert [row.score for row in open_dataset(path).examples()] == [0, 1, 2, 3]
    assert len(open_prompts(path)) == n
    with pytest.raises(DataError, match="is not UTF-8"):
        open_dataset(path, tags=["bad"])
    parquet.write_table(table.select(["bad"]), path)
    with pytest.raises(DataError, match=r"a\.parquet: row 1: has fields 'bad'; expected label"):
        open_dataset(path)


def test_images_of_a_data_set_are_not_decoded(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        prompt=datasets.Value("string"), label=datasets.Value("int64"), image=datasets.Image()
    )
    broken = pa.array([{"bytes": b"no image", "path": None}] * 3, features["image"].pa_type)
    table = pa.table({"prompt": ["a", "b", "c"], "label": [9, 10, 9], "image": broken})
    found = datasets.Dataset(table.cast(features.arrow_schema))
    with pytest.raises((ImportError, OSError)):
        found[0]
    found.save_to_disk(tmp_path / "disk")
    (tmp_path / "files").mkdir()
    found.to_parquet(tmp_path / "files" / "train.parquet")
    for name in ("disk", "files"):
        assert open_dataset(f"hf:{tmp_path / name}").classes == ("9", "10")
