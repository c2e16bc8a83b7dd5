# ruff: noqa: E501 - a table
"""Files as people write them are read rightly at the first guess, or refused with the option that reads them."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from probekit.data import open_dataset
from probekit.data.prompts import open_prompts
from probekit.errors import DataError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def seen(dataset):
    """Return what is read of every row, in plain values: turns, completion or sides, and target."""
    found = []
    units = [unit for _, unit in dataset.placed()]
    for unit in units:
        first = unit[0]
        turns = None if first.prompt is None else [(m.role, m.content) for m in first.prompt]
        texts = [e.completion for e in unit] if first.side else first.completion
        target = first.label if first.score is None else first.score
        found.append((turns, texts, target))
    return found


def raw(text, target):
    return (None, text, target)


def asked(question, answer, target):
    return ([("user", question)], answer, target)


HUMAN, GPT = {"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}
TALK = [user("Hi?"), assistant("Hello.")]
MARKED = "One?\n<extra_id_1>Assistant\nTwo.\n<extra_id_1>User\nThree?"

JSON = {
    "own text": ([{"text": "a", "label": "x"}], [raw("a", "x")]),
    "glue": ([{"sentence": "a", "label": 1, "idx": 0}], [raw("a", 1)]),
    "imdb": ([{"review": "a", "sentiment": "positive"}], [raw("a", "positive")]),
    "tweets": ([{"tweet": "a", "class": 0}, {"tweet": "b", "class": 1}], [raw("a", 0), raw("b", 1)]),
    "statements": ([{"statement": "Rome is big.", "label": True}], [raw("Rome is big.", "true")]),
    "booleans": (
        [{"text": "a", "label": True}, {"text": "b", "label": False}],
        [raw("a", "true"), raw("b", "false")],
    ),
    "is_ columns": ([{"content": "a", "is_spam": False}], [raw("a", "false")]),
    "question alone": ([{"question": "Who?", "label": "known"}], [asked("Who?", None, "known")]),
    "question and answer": (
        [{"question": "Who?", "answer": "Me.", "correct": True}],
        [asked("Who?", "Me.", "true")],
    ),
    "messages": ([{"messages": TALK, "label": 1}], [asked("Hi?", "Hello.", 1)]),
    "parts of content": (
        [{"messages": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TALK], "label": 1}],
        [asked("Hi?", "Hello.", 1)],
    ),
    "sharegpt": ([{"conversations": [HUMAN, GPT], "label": "ok"}], [asked("Hi?", "Hello.", "ok")]),
    "sharegpt, system": (
        [{"conversations": [{"from": "system", "value": "S."}, HUMAN, GPT], "score": 2}],
        [([("system", "S."), ("user", "Hi?")], "Hello.", 2.0)],
    ),
    "sharegpt, preferences": (
        [{"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "No."}}],
        [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "trl, unpaired": (
        [{"prompt": "Hi?", "completion": "Hello.", "label": True}], [asked("Hi?", "Hello.", "true")],
    ),
    "trl, unpaired, conversational": (
        [{"prompt": [user("Hi?")], "completion": [TALK[1]], "label": False}],
        [asked("Hi?", "Hello.", "false")],
    ),
    "trl, unpaired, implicit": ([{"completion": TALK, "label": True}], [asked("Hi?", "Hello.", "true")]),
    "trl, preference": (
        [{"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}], [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "trl, preference, conversational": (
        [{"prompt": [user("Hi?")], "chosen": [TALK[1]], "rejected": [assistant("No.")]}],
        [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "trl, implicit": (
        [{"chosen": "The sky is blue.", "rejected": "The sky is green."}],
        [asked("The sky is", ["blue.", "green."], None)],
    ),
    "trl, implicit, conversational": (
        [{"chosen": TALK, "rejected": [user("Hi?"), assistant("No.")]}],
        [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "trl, stepwise": (
        [{"prompt": "2+2?", "completions": ["Two and two.", "Five."], "labels": [True, False]}],
        [asked("2+2?", "Two and two.", "true"), asked("2+2?", "Two and two.\nFive.", "false")],
    ),
    "response and score": (
        [{"prompt": "Hi?", "response": "Hello.", "score": 3.5}], [asked("Hi?", "Hello.", 3.5)],
    ),
    "instruction, input, output": (
        [{"instruction": "Add.", "input": "1 2", "output": "3", "rating": 5}], [asked("Add.\n\n1 2", "3", 5.0)],
    ),
    "query and reward": ([{"query": "Hi?", "response": "Hello.", "reward": 0.1}], [asked("Hi?", "Hello.", 0.1)]),
    "positive and negative": (
        [{"anchor": "Hi?", "positive": "Hello.", "negative": "No."}], [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "winner and loser": (
        [{"prompt": "Hi?", "winner": "Hello.", "loser": "No."}], [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "orca": (
        [{"system": "S.", "question": "Hi?", "chosen": "Hello.", "rejected": "No."}],
        [([("system", "S."), ("user", "Hi?")], ["Hello.", "No."], None)],
    ),
    "helpsteer2, turns": (
        [{"prompt": MARKED, "response": "Four.", "helpfulness": 3}],
        [([("user", "One?"), ("assistant", "Two."), ("user", "Three?")], "Four.", 3.0)],
    ),
    "helpsteer2, preferences": (
        [
            {"prompt": "Hi?", "response_1": "Hello.", "response_2": "No.", "preference_strength": -2},
            {"prompt": "Hi?", "response_1": "A.", "response_2": "B.", "preference_strength": 1},
            {"prompt": "Hi?", "response_1": "A.", "response_2": "B.", "preference_strength": 0},
        ],
        [asked("Hi?", ["Hello.", "No."], None), asked("Hi?", ["B.", "A."], None)],
    ),
    "helpsteer3": (
        [{"domain": "code", "context": [user("Hi?")], "response1": "No.", "response2": "Hello.", "overall_preference": 3}],
        [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "rewardbench": (
        [{"id": 7, "prompt": "Hi?", "chosen": "Hello.", "rejected": "No.", "chosen_model": "m", "subset": "s"}],
        [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "rewardbench2": (
        [{"id": "7", "prompt": "Hi?", "chosen": ["Hello."], "rejected": ["No.", "Go."], "num_correct": 1}],
        [asked("Hi?", ["Hello.", "No."], None), asked("Hi?", ["Hello.", "Go."], None)],
    ),
    "arena": (
        [
            {"prompt": "Hi?", "response_a": "No.", "response_b": "Hello.", "winner": "model_b"},
            {"prompt": "Hi?", "response_a": "No.", "response_b": "Hello.", "winner": "tie"},
        ],
        [asked("Hi?", ["Hello.", "No."], None)],
    ),
    "shp": (
        [{"history": "Hi?", "human_ref_A": "Hello.", "human_ref_B": "No.", "labels": 1}],
        [asked("Hi?", ["Hello.", "No."], None)],
    ),
}  # fmt: skip
TABLES = {
    "glue.tsv": ("sentence\tlabel\nit works , well\t1\n", [raw("it works , well", 1)]),
    "semicolons.csv": ("text;label\na, b and c;x\n", [raw("a, b and c", "x")]),
    "tabs.csv": ("text\tlabel\na, b\tx\n", [raw("a, b", "x")]),
    "stars.csv": ("review,stars\ngood,4.5\n", [raw("good", 4.5)]),
    "sentiment.csv": ("review,sentiment\ngood,10\nbad,9\n", [raw("good", 10), raw("bad", 9)]),
    "pairs.csv": ("prompt,winner,loser\nHi?,Hello.,No.\n", [asked("Hi?", ["Hello.", "No."], None)]),
    "array.json": ('\n[ {"text": "a",\n "label": 1} ,{"text": "]é", "label": 0}]', [raw("a", 1), raw("]é", 0)]),
    "lines.json": ('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n', [raw("a", 1), raw("b", 0)]),
    "marked.json": ('\ufeff[{"text": "a", "label": 1}]', [raw("a", 1)]),
    "packed.csv.gz": ("text,label\na,x\n", [raw("a", "x")]),
    "packed.json.gz": ('[{"text": "a", "label": 1}]', [raw("a", 1)]),
}  # fmt: skip
REFUSED = {
    "unknown names": ({"utt": "a", "y": 1}, "--label-field", {"text_field": "utt", "label_field": "y"}),
    "unknown label": ({"sentence": "a", "annotation": "x"}, "--label-field", {"label_field": "annotation"}),
    "unknown text": ({"blurb": "a", "label": "x"}, "--text-field", {"text_field": "blurb"}),
    "unknown score": ({"text": "a", "mos": 2.0}, "--score-field", {"score_field": "mos"}),
    "unknown sides": (
        {"prompt": "Hi?", "yes": "Hello.", "no": "No."},
        "--chosen-field and --rejected-field", {"chosen_field": "yes", "rejected_field": "no"},
    ),
    "two labels": ({"text": "a", "topic": "x", "intent": "y"}, "--label-field topic", {"label_field": "topic"}),
    "two texts": ({"title": "a", "body": "b", "label": "x"}, "--text-field body", {"text_field": "body"}),
    "two sentences": (
        {"sentence1": "a", "sentence2": "b", "label": 1}, "--prompt-field or --completion-field",
        {"prompt_field": "sentence1", "completion_field": "sentence2"},
    ),
    "trl, language modelling": ({"text": "a", "kind": "x"}, "--label-field", {"label_field": "kind"}),
    "trl, prompt only": ({"prompt": "a", "kind": "x"}, "--label-field", {"label_field": "kind"}),
    "trl, prompt and completion": (
        {"prompt": "a", "completion": "b", "kind": "x"}, "--label-field", {"label_field": "kind"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_layouts_are_read_at_the_first_guess(tmp_path, name):
    rows, expected = JSON[name]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = open_dataset(path)
    assert seen(found) == expected
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert seen(open_dataset(tmp_path / "rows.parquet")) == expected
    assert seen(open_dataset(rows)) == expected


@pytest.mark.parametrize("name", TABLES)
def test_text_files_are_read_at_the_first_guess(tmp_path, name):
    text, expected = TABLES[name]
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert seen(open_dataset(tmp_path / name)) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_names_the_option_that_reads_it(tmp_path, name):
    row, option, named = REFUSED[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=option) as told:
        open_dataset(path)
    assert "\n" not in str(told.value)
    assert all(
        f"--{field.replace('_', '-')}" in str(told.value) or len(named) > 1 for field in named
    )
    (example, *_) = open_dataset(path, **named).examples()
    columns = {column: row[column] for column in named.values()}
    values = {example.completion, example.label, example.score}
    values |= {turn.content for turn in example.prompt or ()}
    assert values & set(columns.values())


def test_a_named_column_wins_over_a_known_one(tmp_path):
    row = {"text": "short", "sentence": "long", "label": 1, "annotation": "x", "score": 3}
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    found = open_dataset(tmp_path / "r.jsonl", text_field="sentence", label_field="annotation")
    assert seen(found) == [raw("long", "x")]
    assert found.fields == {"text": "sentence", "label": "annotation"}
    grouped = open_dataset(tmp_path / "r.jsonl", kind="label", group_field="sentence")
    assert [e.group for e in grouped.examples()] == ["long"]
    assert seen(grouped) == [raw("short", 1)]


def test_named_columns_of_a_table_are_numbers(tmp_path):
    (tmp_path / "r.csv").write_text("blurb,mark,kind\na,4.5,2\nb,1e1,10\n")
    assert seen(open_dataset(tmp_path / "r.csv", text_field="blurb", score_field="mark")) == [
        raw("a", 4.5), raw("b", 10.0),
    ]  # fmt: skip
    labels = open_dataset(tmp_path / "r.csv", text_field="blurb", label_field="kind")
    assert labels.classes == ("2", "10") and seen(labels) == [raw("a", 2), raw("b", 10)]
    parquet.write_table(
        pa.table({"blurb": ["a"], "mark": [2.5], "x": [b"\xff"]}), tmp_path / "r.parquet"
    )
    found = open_dataset(tmp_path / "r.parquet", text_field="blurb", score_field="mark")
    assert seen(found) == [raw("a", 2.5)]


def test_a_named_column_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(
        DataError, match=r"r\.jsonl:1: the column 'body' of --text-field is not there"
    ):
        open_dataset(tmp_path / "r.jsonl", text_field="body")
    with pytest.raises(DataError, match="is named by --text-field and --label-field"):
        open_dataset(tmp_path / "r.jsonl", text_field="x", label_field="x")


CLASSES = [{"text": t, "label": c} for t, c in zip("abcde", "xyzxy", strict=True)]


def test_three_classes_are_one_against_the_rest():
    with pytest.raises(
        DataError, match=r"rows\[2\]: a third class \('x', 'y', 'z'\).*--positive NAME"
    ):
        open_dataset(CLASSES)
    found = open_dataset(CLASSES, positive="y")
    assert found.classes == ("not y", "y")
    assert [e.label for e in found.examples()] == ["not y", "y", "not y", "not y", "y"]
    assert found.fingerprint != open_dataset(CLASSES, positive="x").fingerprint
    with pytest.raises(DataError, match="--positive w: the classes are 'x', 'y', 'z'"):
        open_dataset(CLASSES, positive="w")
    with pytest.raises(DataError, match="rating rows have no classes"):
        open_dataset([{"text": "a", "score": 1.0}], positive="x")


def test_the_positive_of_two_classes_is_named():
    two = CLASSES[:2]
    assert open_dataset(two).classes == ("x", "y")
    found = open_dataset(two, positive="x")
    assert found.classes == ("y", "x") and [e.label for e in found.examples()] == ["x", "y"]
    numbers = open_dataset([{"text": "a", "label": 0}, {"text": "b", "label": 1}], positive="0")
    assert numbers.classes == ("1", "0")


def test_what_was_understood_is_one_line():
    rows = [{"review": "a", "sentiment": "good"}, {"review": "b", "sentiment": "bad"}]
    assert open_dataset(rows).understood == (
        "label, layout columns: text = review, label = sentiment; classes bad, good (positive: good); "
        "2 rows in 2 groups"
    )
    pairs = [{"prompt": "q", "chosen": "a", "rejected": "b"}] * 2
    assert open_dataset(pairs).understood == "pair: prompt, chosen, rejected; 2 rows in 1 groups"


def test_prompts_are_found_under_other_names():
    assert [p.prompt[0].content for p in open_prompts([{"question": "Hi?", "answer": "No."}])] == [
        "Hi?"
    ]
    assert [p.prompt[0].content for p in open_prompts([{"conversations": [HUMAN, GPT]}])] == ["Hi?"]


def test_lines_of_plain_text_are_prompts(tmp_path):
    (tmp_path / "p.txt").write_text("Who?\n\nWhy?\n")
    found = open_prompts(tmp_path / "p.txt")
    assert [(turn.role, turn.content) for p in found for turn in p.prompt] == [
        ("user", "Who?"),
        ("user", "Why?"),
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[{"text": "a", "label": 1}', "row 2: cannot be read as JSON.*breaks off"),
        ('[{"text": "a", "label": 1}, {"text": ', "row 2: cannot be read as JSON"),
        ("[1, 2]", "row 1: is a JSON int"),
        ('"text"', "is neither a JSON array nor one JSON object a line"),
        ("", "has no rows"),
        ("[]", "has no rows"),
    ],
)
def test_a_bad_array_is_refused(tmp_path, text, match):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=match):
        open_dataset(tmp_path / "a.json")


def test_objects_of_an_array_are_read_one_by_one(tmp_path, monkeypatch):
    rows = [{"text": "é" * (k * 7000), "label": k % 2} for k in range(1, 40)]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False, indent=2))
    assert seen(open_dataset(tmp_path / "a.json")) == [raw(r["text"], r["label"]) for r in rows]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_header_with_a_carriage_return_within_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"te\rxt,label\na,b\n")
    with pytest.raises(DataError, match=rf"{name}:\d+: is not valid csv"):
        open_dataset(tmp_path / name)
