"""Every reader gives the same examples; every bad row is named with its place."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.data import Example, Message, open_dataset
from probekit.errors import DataError

RATINGS = [
    {
        "prompt": f"Q{i}?",
        "completion": f"answer, with a comma {i}",
        "score": i / 2,
        "group": f"g{i}",
    }
    for i in range(5)
]


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_every_reader_gives_the_same_examples(tmp_path, name):
    found = open_dataset(write(tmp_path / name, RATINGS))
    assert (found.kind, found.n_rows, found.n_examples, found.n_groups) == ("rating", 5, 5, 5)
    assert found.score_range == (0.0, 2.0)
    expected = Example(
        id="row-000002",
        group="g1",
        prompt=(Message("user", "Q1?"),),
        completion="answer, with a comma 1",
        score=0.5,
    )
    for _ in range(2):  # the source can be read again
        assert list(found.examples())[1] == expected
    plain = open_dataset(write(tmp_path / "plain.jsonl", RATINGS))
    assert found.fingerprint == plain.fingerprint
    assert open_dataset(tmp_path / name, limit=3).n_rows == 3


def test_hugging_face_data_sets_are_streamed(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.parquet", RATINGS)
    found = open_dataset(f"hf:{tmp_path / 'data'}")
    assert [row.score for row in found.examples()] == [0.0, 0.5, 1.0, 1.5, 2.0]
    with pytest.raises(DataError, match="could not be read .*Expected org/name"):
        open_dataset(f"hf:{tmp_path / 'nowhere'}")


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'probekit\[hf\]'"):
        open_dataset("hf:org/name")


def test_labels_pairs_and_raw_text(tmp_path):
    labels = open_dataset(
        write(tmp_path / "l.jsonl", [{"text": "a b", "label": "x"}, {"prompt": "q", "label": "y"}])
    )
    raw, ask = labels.examples()
    assert labels.classes == ("x", "y")
    assert (raw.prompt, raw.completion) == (None, "a b")
    assert (ask.prompt, ask.completion) == ((Message("user", "q"),), None)
    assert raw.group != ask.group
    empty = {"prompt": "", "completion": "only text", "score": 1}
    (row,) = open_dataset(write(tmp_path / "e.jsonl", [empty])).examples()
    assert row.prompt is None
    pairs = open_dataset(
        write(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "good", "rejected": "bad", "id": 7}])
    )
    assert [(r.id, r.side, r.completion) for r in pairs.examples()] == [
        ("7", "chosen", "good"),
        ("7", "rejected", "bad"),
    ]
    tagged = {"text": "a", "label": 1, "tags": {"n": 3}, "model": "m", "other": "ignored"}
    (row,) = open_dataset(write(tmp_path / "t.jsonl", [tagged]), tags=["model"]).examples()
    assert row.tags == {"n": "3", "model": "m"}


TURNS = [{"role": "user", "content": "q"}]


def answer(text):
    return [*TURNS, {"role": "assistant", "content": text}]


LAYOUTS = {
    "ultrafeedback": [
        {
            "instruction": "q",
            "source": "s",
            "completions": [
                {"response": "fine", "overall_score": 8.0, "model": "m", "annotations": {}},
                {
                    "response": "slip",
                    "overall_score": 10.0,
                    "annotations": {"helpfulness": {"Rating": "1"}, "honesty": {"Rating": "2"}},
                },
                {
                    "response": "great",
                    "overall_score": 10.0,
                    "annotations": {"helpfulness": {"Rating": "5"}, "honesty": {"Rating": "N/A"}},
                },
            ],
        }
    ],
    "ultrafeedback_binarized": [
        {"prompt": "q", "prompt_id": "a", "chosen": answer("good"), "rejected": answer("bad"),
         "score_chosen": 8.0, "score_rejected": 4.0},
        {"prompt": "q", "prompt_id": "b", "chosen": answer("x"), "rejected": answer("y"),
         "score_chosen": 4.0, "score_rejected": 4.0},
    ],
    "hh-rlhf": [
        {
            "chosen": "\n\nHuman: q\n\nAssistant: hm\n\nHuman: more\n\nAssistant: good",
            "rejected": "\n\nHuman: q\n\nAssistant: hm\n\nHuman: more\n\nAssistant: bad",
        }
    ],
    "helpsteer": [
        {"prompt": "q", "response": "r", "helpfulness": 3, "correctness": 4, "coherence": 4,
         "complexity": 1, "verbosity": 2}
    ],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_public_layouts_are_recognised(tmp_path, layout):
    found = open_dataset(write(tmp_path / "a.jsonl", LAYOUTS[layout]))
    assert found.layout == layout
    rows = list(found.examples())
    if layout == "ultrafeedback":
        assert [(r.completion, r.score) for r in rows] == [("fine", 8.0), ("great", 10.0)]
        assert rows[0].tags == {"model": "m", "source": "s"}
    if layout == "ultrafeedback_binarized":
        assert [(r.id, r.completion) for r in rows] == [("a", "good"), ("a", "bad")]
        assert rows[0].prompt == (Message("user", "q"),)
        assert found.n_dropped == 1
    if layout == "hh-rlhf":
        assert [r.completion for r in rows] == ["good", "bad"]
        assert [m.role for m in rows[0].prompt] == ["user", "assistant", "user"]
    if layout == "helpsteer":
        assert rows[0].score == 3.0 and rows[0].tags["verbosity"] == "2"
    with pytest.raises(DataError, match="layout 'other': unknown. Expected probekit"):
        open_dataset(tmp_path / "a.jsonl", layout="other")


GOOD = {"prompt": "q", "completion": "a", "score": 1.0}
BAD = {
    "missing field": ({"prompt": "q", "completion": "a"}, r"expected label, or score, or"),
    "no text": ({"prompt": "q", "score": 1}, "has no completion or text"),
    "number as text": ({**GOOD, "score": "9"}, r"score is text \('9'\), expected a number"),
    "true": ({**GOOD, "score": True}, "score is true or false"),
    "nan": ({**GOOD, "score": float("nan")}, "score is nan, expected a finite number"),
    "infinite": ({**GOOD, "score": float("inf")}, "score is inf"),
    "empty": ({**GOOD, "completion": ""}, "completion is empty"),
    "blank": ({**GOOD, "completion": " \n"}, "completion is empty"),
    "wrong type": ({**GOOD, "completion": 3}, r"completion is a number \(3\), expected text"),
    "another kind": ({"prompt": "q", "chosen": "a", "rejected": "b"}, "is a pair row where rating"),
    "bad role": ({**GOOD, "prompt": [{"role": "robot", "content": "x"}]}, "role 'robot', expected"),
    "no role": ({**GOOD, "prompt": [{"content": "x"}]}, r"prompt\[0\] is not a message"),
    "no turns": ({**GOOD, "prompt": []}, "prompt is an empty list"),
    "tags": ({**GOOD, "tags": ["a"]}, "tags is a list"),
    "deep tag": ({**GOOD, "tags": {"a": [1]}}, "tag 'a' is a list"),
    "group": ({**GOOD, "group": ["a"]}, "group is a list"),
    "list": ([1], "is a JSON list, expected an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_with_its_line(tmp_path, case):
    row, match = BAD[case]
    path = write(tmp_path / "rows.jsonl", [GOOD] * 316 + [row] + [GOOD])
    with pytest.raises(DataError, match=rf"rows\.jsonl:317: .*{match}"):
        open_dataset(path)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(GOOD) + "\n") * 316 + '{"prompt": \n')
    with pytest.raises(DataError, match=r"rows\.jsonl:317: is not valid JSON"):
        open_dataset(path)
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        open_dataset(path)
    path.write_text("\n\n")
    with pytest.raises(DataError, match="has no rows"):
        open_dataset(path)
    cut = write(tmp_path / "cut.jsonl.gz", [GOOD] * 200)
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(DataError, match="gzip stream breaks off after line"):
        open_dataset(cut)
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(DataError, match="not a readable parquet"):
        open_dataset(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("prompt,completion,score\nq,a,b,1\n")
    with pytest.raises(DataError, match=r"a\.csv:2: has another number of fields"):
        open_dataset(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("prompt,completion,score\nq,a,high\n")
    with pytest.raises(DataError, match=r"b\.csv:2: score is text"):
        open_dataset(tmp_path / "b.csv")
    for source, match in (
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path, "is a folder"),
        (write(tmp_path / "a.txt", [GOOD]), "unknown file type"),
        ("demo:nothing", "Expected one of researchers, researchers_pairs"),
    ):
        with pytest.raises(DataError, match=match):
            open_dataset(source)


def test_rows_that_disagree_are_refused(tmp_path):
    def rows(*labels):
        return write(tmp_path / "l.jsonl", [{"text": "t", "label": label} for label in labels])

    with pytest.raises(DataError, match=r":3: a third class \('a', 'b', 'c'\)"):
        open_dataset(rows("a", "b", "c"))
    with pytest.raises(DataError, match="numbers in some rows and names in others"):
        open_dataset(rows(1, "b"))
    twice = write(tmp_path / "t.jsonl", [{**GOOD, "id": "x"}, {**GOOD, "id": "x"}])
    with pytest.raises(DataError, match=r":2: id 'x' occurs twice"):
        open_dataset(twice)
    split = [
        {"chosen": answer("a"), "rejected": [{"role": "user", "content": "z"}, answer("b")[1]]}
    ]
    with pytest.raises(DataError, match="answer different conversations"):
        open_dataset(write(tmp_path / "p.jsonl", split))
    last = [{"chosen": TURNS, "rejected": TURNS}]
    with pytest.raises(DataError, match="ends with a turn of user, expected assistant"):
        open_dataset(write(tmp_path / "q.jsonl", last))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(rows=st.lists(st.tuples(TEXT, TEXT, st.floats(-1e6, 1e6)), min_size=1, max_size=6))
def test_any_text_survives_the_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("h") / "a.jsonl"
    write(path, [{"prompt": p, "completion": c, "score": s} for p, c, s in rows])
    found = [(r.prompt[0].content, r.completion, r.score) for r in open_dataset(path).examples()]
    assert found == rows


def test_memory_does_not_grow_with_the_text(tmp_path):
    """Twenty times the rows: a few hashes a row more, nothing of the 4 kB of text in each."""

    def peak(n):
        path = write(
            tmp_path / f"{n}.jsonl", [{**GOOD, "prompt": f"{i} " * 1000} for i in range(n)]
        )
        tracemalloc.start()
        for _ in open_dataset(path).examples():
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(100), peak(2000)
    assert large - small < 400 * 1900
