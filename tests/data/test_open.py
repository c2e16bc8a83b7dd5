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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probekit.data import Example, Message, check, demo_path, open_dataset
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
    datasets = pytest.importorskip("datasets")
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.parquet", RATINGS)
    found = open_dataset(f"hf:{tmp_path / 'data'}")
    assert [row.score for row in found.examples()] == [0.0, 0.5, 1.0, 1.5, 2.0]
    with pytest.raises(DataError, match="could not be read .*Expected org/name"):
        open_dataset(f"hf:{tmp_path / 'nowhere'}")
    expected = [row.completion for row in found.examples()]
    table = datasets.Dataset.from_list(RATINGS)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "several")
    for name in ("one", "several"):
        saved = open_dataset(f"hf:{tmp_path / name}")
        assert [row.completion for row in saved.examples()] == expected
        assert saved.fingerprint == found.fingerprint
    with pytest.raises(DataError, match=r"its splits are train\)\. Expected .* with split test"):
        open_dataset(f"hf:{tmp_path / 'several'}", split="test")
    bad = [*RATINGS, {**RATINGS[0], "score": float("nan")}]
    datasets.Dataset.from_list(bad).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(DataError, match=r"data: row 6: score is nan"):
        open_dataset(f"hf:{tmp_path / 'data'}")


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"checkout of probekit run: pip install -e '.\[hf\]'"):
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
    tagged = {
        "text": "a",
        "label": 1,
        "tags": {"n": 3, "b": True},
        "model": "m",
        "other": "ignored",
    }
    (row,) = open_dataset(write(tmp_path / "t.jsonl", [tagged]), tags=["model"]).examples()
    assert row.tags == {"n": "3", "model": "m", "b": "true"}


@pytest.mark.parametrize(
    ("name", "kind"), [("researchers", "label"), ("researchers_pairs", "pair")]
)
def test_demo_names_stand_for_files_that_ship(name, kind):
    found = open_dataset(f"demo:{name}")
    assert (found.kind, found.n_rows, found.source) == (kind, 416, f"demo:{name}")
    assert open_dataset(demo_path(name)).fingerprint == found.fingerprint


TURNS = [{"role": "user", "content": "q"}]


def answer(text):
    return [*TURNS, {"role": "assistant", "content": text}]


def transcripts(ask, chosen, ask_again, rejected):
    return {
        "chosen": f"\n\nHuman: {ask}\n\nAssistant: {chosen}",
        "rejected": f"\n\nHuman: {ask_again}\n\nAssistant: {rejected}",
    }


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
                {"response": "old slip", "overall_score": 10.0, "fine-grained_score": 1.25},
                {"response": "unrated", "overall_score": None},
                {"response": "", "overall_score": 3.0},
            ],
        }
    ],
    "ultrafeedback_binarized": [
        {"prompt": "q", "prompt_id": "a", "chosen": answer("good"), "rejected": answer("bad"),
         "score_chosen": 8.0, "score_rejected": 4.0},
        {"prompt": "q", "prompt_id": "b", "chosen": answer("x"), "rejected": answer("y"),
         "score_chosen": 4.0, "score_rejected": 4.0},
        {"prompt": "q", "prompt_id": "a", "chosen": answer("better"), "rejected": answer("worse"),
         "score_chosen": 9.0, "score_rejected": 2.0},
        {"prompt": "q", "prompt_id": "c", "chosen": answer("x"), "rejected": answer(" "),
         "score_chosen": 9.0, "score_rejected": 4.0},
    ],
    "hh-rlhf": [
        {
            "chosen": "\n\nHuman: q\n\nAssistant: hm\n\nHuman: more\n\nAssistant: good",
            "rejected": "\n\nHuman: q\n\nAssistant: hm\n\nHuman: more\n\nAssistant: bad",
        },
        transcripts("q", "a", "q", ""),
        transcripts("q", "a", "z", "b"),
        transcripts("q", "a", "q", "a"),
        transcripts("", "a", "", "b"),
        {"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q\n\nAssistant: b"},
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
        assert found.dropped == {
            "no overall score": 1,
            "empty response": 1,
            "overall score 10 beside fine-grained ratings of 2 or less": 2,
        }
        assert found.n_dropped == 4
        kept = open_dataset(tmp_path / "a.jsonl", layout="ultrafeedback:keep-slips")
        assert [r.completion for r in kept.examples()] == ["fine", "slip", "great", "old slip"]
    if layout == "ultrafeedback_binarized":
        assert [(r.completion, r.side) for r in rows[:2]] == [
            ("good", "chosen"),
            ("bad", "rejected"),
        ]
        assert len(rows) == 4 and len({r.id for r in rows}) == 2  # one prompt_id, two rows
        assert rows[0].prompt == (Message("user", "q"),)
        assert found.dropped == {"tie": 1, "empty response": 1}
    if layout == "hh-rlhf":
        assert [r.completion for r in rows] == ["good", "bad"]
        assert [m.role for m in rows[0].prompt] == ["user", "assistant", "user"]
        assert found.dropped == {
            "does not end with an answer": 1,
            "empty prompt": 1,
            "empty response": 1,
            "identical sides": 1,
            "sides answer different conversations": 1,
        }
    if layout == "helpsteer":
        assert rows[0].score == 3.0 and rows[0].tags["verbosity"] == "2"
        by_length = open_dataset(tmp_path / "a.jsonl", layout="helpsteer:verbosity")
        (row,) = by_length.examples()
        assert (row.score, row.tags["helpfulness"], "verbosity" in row.tags) == (2.0, "3", False)
        assert by_length.layout == "helpsteer:verbosity"
    with pytest.raises(DataError, match="layout 'other': unknown. Expected probekit"):
        open_dataset(tmp_path / "a.jsonl", layout="other")
    with pytest.raises(DataError, match="Expected ultrafeedback:keep-slips"):
        open_dataset(tmp_path / "a.jsonl", layout="ultrafeedback:all")


def test_layouts_that_do_not_fit_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [LAYOUTS["helpsteer"][0], {"prompt": "q", "score": 1}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: does not have the columns of layout helpst"):
        open_dataset(path)
    write(path, [LAYOUTS["hh-rlhf"][0], {"chosen": "good", "rejected": "bad"}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*does not begin with a blank line"):
        open_dataset(path)
    write(path, LAYOUTS["ultrafeedback_binarized"][1:2])
    with pytest.raises(DataError, match=r"every row was left out by layout .* \(tie\)"):
        open_dataset(path)


def test_a_field_of_a_public_layout_becomes_a_tag(tmp_path):
    path = write(tmp_path / "a.jsonl", LAYOUTS["ultrafeedback_binarized"])
    rows = open_dataset(path, tags=["prompt_id"]).examples()
    assert [row.tags for row in rows] == [{"prompt_id": "a"}] * 4
    with pytest.raises(DataError, match="no row has the field 'nothing' named as a tag"):
        open_dataset(path, tags=["prompt_id", "nothing"])


GOOD = {"prompt": "q", "completion": "a", "score": 1.0}
BAD = {
    "missing field": ({"prompt": "q", "completion": "a"}, r"has no score \(its fields: 'prompt'"),
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
    "long number": ({**GOOD, "score": 10**400}, "score is inf, expected a finite number"),
    "label row": ({"prompt": "q", "completion": "a", "label": 1}, "is a label row where rating"),
    "surrogate": ({**GOOD, "completion": "a\ud800"}, r"completion holds \\ud800, half of a"),
    "surrogate in a turn": (
        {**GOOD, "prompt": [{"role": "user", "content": "\udfff"}]},
        r"prompt\[0\] holds \\udfff",
    ),
    "surrogate in a tag": ({**GOOD, "tags": {"a": "\ud800"}}, r"tag 'a' holds \\ud800"),
    "content": ({**GOOD, "prompt": [{"role": "user", "content": 1}]}, "content is a number, expec"),
    "empty turns": ({**GOOD, "prompt": [{"role": "user", "content": " "}]}, "no text in any mess"),
    "two turns": ({**GOOD, "completion": answer("a")}, "completion has 2 turns, expected one"),
    "user answers": ({**GOOD, "completion": TURNS}, "completion ends with a turn of user"),
    "text is a list": ({"text": TURNS, "score": 1}, r"text is a list \(.*expected text"),
    "prompt and text": ({"prompt": "q", "text": "t", "score": 1}, "has both prompt and text"),
    "id": ({**GOOD, "id": {"a": 1}}, "id is an object, expected text"),
    "empty group": ({**GOOD, "group": ""}, "group is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_with_its_line(tmp_path, case):
    row, match = BAD[case]
    path = write(tmp_path / "rows.jsonl", [GOOD] * 316 + [row] + [GOOD])
    with pytest.raises(DataError, match=rf"rows\.jsonl:317: .*{match}"):
        open_dataset(path)


BAD_PAIRS = {
    "no rejected": ({"prompt": "q", "chosen": "a"}, "has no rejected "),
    "rating": (GOOD, "is a rating row where pair rows were expected"),
    "null side": ({"prompt": "q", "chosen": None, "rejected": "b"}, r"chosen is nothing \(None\)"),
    "another prompt": (
        {"prompt": "z", "chosen": answer("a"), "rejected": answer("b")},
        "chosen does not repeat the prompt",
    ),
    "cut prompt": (
        {"prompt": TURNS, "chosen": answer("a")[1:] * 2, "rejected": answer("a")[1:] * 2},
        "chosen does not repeat the prompt",
    ),
    "one conversation": (
        {"chosen": answer("a")[1:], "rejected": answer("b")},
        "chosen and rejected answer different conversations",
    ),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_a_bad_pair_is_named_with_its_line(tmp_path, case):
    row, match = BAD_PAIRS[case]
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = write(tmp_path / "rows.jsonl", [good] * 316 + [row])
    with pytest.raises(DataError, match=rf"rows\.jsonl:317: {match}"):
        open_dataset(path)


def test_labels_that_are_not_classes(tmp_path):
    for label, match in (
        (True, "labels are numbers in some rows and names in others"),
        (1.5, r"label is a number \(1\.5\)"),
        ("", r"label is text \(''\)"),
        (None, "has no label"),
    ):
        path = write(
            tmp_path / "l.jsonl", [{"text": "t", "label": 1}, {"text": "u", "label": label}]
        )
        with pytest.raises(DataError, match=rf"l\.jsonl:2: {match}"):
            open_dataset(path)


def test_conversations_that_repeat_the_prompt(tmp_path):
    alone = {"prompt": TURNS, "chosen": answer("a")[1:], "rejected": answer("b")[1:]}
    whole = {"prompt": "q", "chosen": answer("a"), "rejected": answer("b")}
    bare = {"chosen": answer("a"), "rejected": answer("b")}
    plain = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = write(tmp_path / "p.jsonl", [alone, whole, bare, plain])
    rows = list(open_dataset(path).examples())
    assert {(row.prompt, row.completion) for row in rows} == {
        ((Message("user", "q"),), "a"),
        ((Message("user", "q"),), "b"),
    }
    assert len(rows) == 8 and len({row.group for row in rows}) == 1


def test_the_line_that_is_not_utf8_is_the_one_named(tmp_path):
    """Not the line where the decoder's buffer happened to end."""
    good = json.dumps(GOOD).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(good * 316 + b'{"prompt": "\xff"}\n' + good * 400)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "a.csv").write_bytes(
        b"text,score\n" + b"a,1\n" * 315 + b"\xff,1\n" + b"a,1\n" * 400
    )
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv"):
        with pytest.raises(DataError, match=rf"{name}:317: is not UTF-8 \(byte 0xff\)"):
            open_dataset(tmp_path / name)
    offsets, texts = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    text = pa.StringArray.from_buffers(2, offsets, texts)
    parquet.write_table(pa.table({"text": text, "score": [1.0, 2.0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: row 2: is not UTF-8"):
        open_dataset(tmp_path / "a.parquet")


def test_files_as_other_programs_write_them(tmp_path):
    """Byte order marks, Windows line ends, blank lines, upper-case names."""
    rows = [json.dumps({**GOOD, "score": i}) for i in range(3)]
    text = "\ufeff" + rows[0] + "\r\n\r\n" + rows[1] + "\r\n" + rows[2]
    (tmp_path / "A.JSONL").write_bytes(text.encode())
    assert [r.score for r in open_dataset(tmp_path / "A.JSONL").examples()] == [0.0, 1.0, 2.0]
    table = '\ufeffprompt,completion,label\r\nq,"two\r\nlines, ""quoted""",1\r\n\r\nq,b,-2\r\n'
    (tmp_path / "a.csv").write_bytes(table.encode())
    found = list(open_dataset(tmp_path / "a.csv").examples())
    assert [(r.completion, r.label) for r in found] == [('two\r\nlines, "quoted"', 1), ("b", -2)]
    (tmp_path / "b.csv").write_text("text,label\na,²\nb,--5\n")
    assert open_dataset(tmp_path / "b.csv").classes == ("--5", "²")


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
    cut.write_text(json.dumps(GOOD))
    with pytest.raises(DataError, match="gzip stream cannot be read .*Not a gzipped file"):
        open_dataset(cut)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"rows\.jsonl:1: holds JSON that cannot be read"):
        open_dataset(path)
    (tmp_path / "c.csv").write_text("text,score,score\na,1,2\n")
    with pytest.raises(DataError, match=r"c\.csv:1: has the column 'score' twice"):
        open_dataset(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("text,score\n")
    with pytest.raises(DataError, match=r"d\.csv: has no rows"):
        open_dataset(tmp_path / "d.csv")
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
        ("/dev/null", "is not a regular file"),
        (write(tmp_path / "a.txt", [GOOD]), "is plain text, which has no labels"),
        (write(tmp_path / "a.xlsx", [GOOD]), "unknown file type"),
        ("demo:nothing", "Expected one of .*researchers, researchers_pairs"),
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


# A busy machine is no fault of the code.
LOADED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@LOADED
@given(rows=st.lists(st.tuples(TEXT, TEXT, st.floats(-1e6, 1e6)), min_size=1, max_size=6))
def test_any_text_survives_the_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("h") / "a.jsonl"
    write(path, [{"prompt": p, "completion": c, "score": s} for p, c, s in rows])
    found = [(r.prompt[0].content, r.completion, r.score) for r in open_dataset(path).examples()]
    assert found == rows


TURN = st.builds(
    lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "system"]), TEXT
)
SHARED = {
    "group": TEXT,
    "tags": st.dictionaries(st.sampled_from("ab"), TEXT, min_size=1),
    "prompt": TEXT | st.lists(TURN, min_size=1, max_size=3),
}
ROWS = {
    "label": st.fixed_dictionaries({"label": st.sampled_from(["x", "y"]), "completion": TEXT, **SHARED}),
    "rating": st.fixed_dictionaries({"score": st.floats(-1e6, 1e6), "completion": TEXT, **SHARED}),
    "pair": st.fixed_dictionaries({"chosen": TEXT, "rejected": TEXT, **SHARED}),
}  # fmt: skip


@LOADED
@given(data=st.data())
@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_every_kind_survive_the_round_trip(tmp_path_factory, kind, data):
    rows = data.draw(st.lists(ROWS[kind], min_size=1, max_size=4))
    path = write(tmp_path_factory.mktemp("h") / "a.jsonl.gz", rows)
    found = open_dataset(path)
    assert (found.kind, found.n_rows) == (kind, len(rows))
    texts = [row.get("completion") for row in rows]
    if kind == "pair":
        texts = [row[side] for row in rows for side in ("chosen", "rejected")]
        rows = [row for row in rows for _ in range(2)]
    for example, row, text in zip(found.examples(), rows, texts, strict=True):
        turns = row["prompt"]
        if isinstance(turns, str):
            turns = [{"role": "user", "content": turns}]
        assert [{"role": m.role, "content": m.content} for m in example.prompt] == turns
        assert (example.completion, example.group, example.tags) == (
            text,
            row["group"],
            row["tags"],
        )
        assert (example.label, example.score) == (row.get("label"), row.get("score"))


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["user", "a"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "Rating", "response", "overall_score"]), inner)
    | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=8,
)  # fmt: skip
NAMES = [
    "prompt", "completion", "text", "label", "score", "chosen", "rejected", "group", "tags", "id",
    "instruction", "completions", "score_chosen", "score_rejected", "response", "helpfulness",
]  # fmt: skip


ALMOST = st.builds(
    lambda row, name, value: {**row, name: value},
    st.sampled_from([GOOD, *(rows[0] for rows in LAYOUTS.values()), {"text": "t", "label": 1}]),
    st.sampled_from(NAMES),
    VALUE,
)


@LOADED
@given(rows=st.lists(ALMOST, min_size=1, max_size=2))
def test_whatever_a_row_holds_the_answer_is_examples_or_one_line(tmp_path_factory, rows):
    path = write(tmp_path_factory.mktemp("h") / "a.jsonl", rows)
    try:
        found = open_dataset(path)
    except DataError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        for example in found.examples():
            for text in (
                example.id,
                example.group,
                example.completion or "",
                *example.tags.values(),
            ):
                text.encode()
        check(found)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_memory_does_not_grow_with_the_text(tmp_path, suffix):
    """Twenty times the rows: a few hashes a row more, nothing of the 2 kB of text in each."""

    def peak(n):
        rows = [{**GOOD, "prompt": f"{i} " * 500} for i in range(n)]
        path = write(tmp_path / f"{n}.{suffix}", rows)
        del rows
        default, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)  # Arrow's memory is not Python's
        tracemalloc.start()
        for _ in open_dataset(path).examples():
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        pa.set_memory_pool(default)
        return found, pool.max_memory()

    n = 1000 if suffix == "parquet" else 100  # Arrow holds pages of 1 MiB, so a small file whole
    (small, _), (large, arrow) = peak(n), peak(20 * n)
    # Two hashes of 12 bytes a row take 200 bytes in two sets, and twice that while a set grows.
    assert large - small < 400 * 19 * n
    assert arrow < 8 * 2**20  # of 48 MB of text
