"""Rows in memory read as the same rows in a file do, whatever holds them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from probekit.data import Dataset, check, open_dataset
from probekit.data.prompts import open_prompts, open_texts
from probekit.data.rows import Message
from probekit.errors import DataError, ProbekitError

LABEL = [
    {"text": f"{word} {i}", "label": word, "group": f"g{i}", "tags": {"half": str(i % 2)}}
    for i, word in enumerate(["good", "bad"] * 4)
]
RATING = [{"prompt": f"q{i}", "completion": "yes", "score": i / 2} for i in range(6)]
PAIR = [
    {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": f"q{i}"}],
        "chosen": f"yes {i}",
        "rejected": f"no {i}",
    }
    for i in range(4)
]
KINDS = {"label": LABEL, "rating": RATING, "pair": PAIR}


def huggingface(rows):
    return pytest.importorskip("datasets").Dataset.from_list(rows)


def polars(rows):
    return pytest.importorskip("polars").DataFrame(rows)


HOLDERS = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "pandas": pd.DataFrame,
    "datasets": huggingface,
    "formatted": lambda rows: huggingface(rows).with_format("numpy"),
    "polars": polars,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_rows_in_memory_are_those_of_the_file(kind, holder, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in KINDS[kind]))
    told, read = open_dataset(file), open_dataset(HOLDERS[holder](KINDS[kind]))
    assert list(read.examples()) == list(told.examples())
    assert list(read.examples()) == list(told.examples()), "a second time"
    for name in ("kind", "fingerprint", "classes", "score_range", "n_rows", "n_groups"):
        assert getattr(read, name) == getattr(told, name), name
    assert check(read).to_json() == {**check(told).to_json(), "source": "rows in memory"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_is_a_sequence_of_rows_that_read_as_it(kind):
    dataset = open_dataset(KINDS[kind])
    rows = list(dataset)
    assert len(dataset) == len(rows) == len(KINDS[kind])
    assert dataset[0] == rows[0] and dataset[-1] == rows[-1]
    assert {k: v for k, v in rows[1].items() if k in KINDS[kind][1]} == KINDS[kind][1]
    assert open_dataset(rows).fingerprint == dataset.fingerprint
    with pytest.raises(IndexError):
        dataset[len(rows)]
    assert open_dataset(dataset) is dataset and isinstance(dataset, Dataset)


def test_numbers_of_tables_are_plain_and_gaps_are_absent():
    frame = pd.DataFrame(
        {
            "text": ["a", "b", "c"],
            "label": pd.array([1, 0, 1], dtype="Int64"),
            "id": [None, "second", None],
            "unused": [np.nan, 2.0, object()],
        }
    )
    examples = list(open_dataset(frame).examples())
    assert [e.label for e in examples] == [1, 0, 1] and type(examples[0].label) is int
    assert [e.id for e in examples] == ["row-000001", "second", "row-000003"]
    numpy = [{"text": np.str_("a"), "label": np.int64(1)}, {"text": "b", "label": np.int8(0)}]
    assert (
        open_dataset(numpy).fingerprint
        == open_dataset([{"text": "a", "label": 1}, {"text": "b", "label": 0}]).fingerprint
    )


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (5, "rows: got a int. Expected a path, hf:NAME"),
        ({"text": ["a"]}, "rows: got a dict. Expected a path"),
        ([{"text": "a", "label": 1}, 7], r"rows\[1\]: is a int, expected a dict of fields."),
        (
            [{"text": "a", "label": 1}, {"text": "b"}],
            r"rows\[1\]: has no label \(its fields: 'text'\)",
        ),
        ([{"text": "a", "label": [1]}], r"rows\[0\]: label is a list"),
        ([], "rows in memory: has no rows."),
    ],
)
def test_a_bad_row_is_named_in_one_line(rows, line):
    with pytest.raises(DataError, match=f"^{line}") as caught:
        open_dataset(rows)
    assert "\n" not in str(caught.value)


def test_a_split_has_to_be_chosen():
    split = pytest.importorskip("datasets").DatasetDict({"train": huggingface(LABEL)})
    with pytest.raises(DataError, match="^rows: are split into train. Give one split"):
        open_dataset(split)


def test_prompts_are_texts_rows_or_what_was_read(tmp_path):
    file = tmp_path / "p.jsonl"
    rows = [{"prompt": "why?", "tags": {"a": "b"}}, {"prompt": "how?"}, {"prompt": "why?"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = open_prompts(file)
    assert open_prompts(rows) == open_prompts(pd.DataFrame(rows)) == told
    assert open_prompts(told) == told and open_prompts(told, limit=1) == told[:1]
    assert [p.prompt for p in open_prompts(["why?", "how?"])] == [p.prompt for p in told]
    with pytest.raises(ProbekitError, match=r"^rows\[0\]: has no prompt"):
        open_prompts([{"text": "a"}])


def test_texts_to_score_need_no_label():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    raw, row, chat, asked = open_texts(
        ["raw", {"prompt": "q", "completion": "a", "id": 7}, turns, {"prompt": "q"}]
    )
    assert (raw.prompt, raw.completion) == (None, "raw")
    assert (row.prompt, row.completion, row.id) == ((Message("user", "q"),), "a", "7")
    assert (chat.prompt, chat.completion) == (row.prompt, "a")
    assert (asked.prompt, asked.completion) == (row.prompt, None)
    frame = pd.DataFrame({"text": ["one", "two"]})
    assert [e.completion for e in open_texts(frame)] == ["one", "two"]
    with pytest.raises(DataError, match="^texts: got one text, expected a list of them"):
        open_texts("one")
    with pytest.raises(DataError, match=r"^rows\[0\]: has no completion, text or prompt"):
        open_texts([{"label": 1}])
