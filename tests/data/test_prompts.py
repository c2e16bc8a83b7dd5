"""Prompts of rows of any kind, each once, and what cannot be answered."""

from __future__ import annotations

import json

import pytest

from probekit.data.prompts import open_prompts
from probekit.errors import DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text):
    return {"role": "user", "content": text}


def test_any_kind_of_row_gives_its_prompt_once(tmp_path):
    rows = [
        {"prompt": "a", "id": "first", "tags": {"class": "x"}},
        {"prompt": "a", "completion": "b", "score": 1.0},
        {"prompt": [user("c")], "chosen": "d", "rejected": "e"},
        {"prompt": [{"role": "system", "content": "s"}, user("f")], "label": 1, "group": "g"},
        {"chosen": [user("h"), {"role": "assistant", "content": "i"}], "rejected": []},
    ]
    found = open_prompts(write(tmp_path / "p.jsonl", rows))
    assert [e.prompt[-1].content for e in found] == ["a", "c", "f", "h"]
    assert found[0].id == "first"
    assert found[0].tags == {"class": "x"}
    assert found[2].group == "g"
    assert all(e.completion is None and e.label is None and e.score is None for e in found)
    assert len(open_prompts(tmp_path / "p.jsonl", limit=2)) == 2


def test_public_layouts_and_demo_sets_have_prompts(tmp_path):
    row = {
        "instruction": "Say hi.",
        "completions": [
            {"response": "hi", "overall_score": 4.0, "fine-grained_score": 3.0},
            {"response": "ho", "overall_score": 2.0, "fine-grained_score": 2.0},
        ],
    }
    found = open_prompts(write(tmp_path / "uf.jsonl", [row, row]))
    assert [e.prompt[-1].content for e in found] == ["Say hi."]
    assert len(open_prompts("demo:sentiment_prompts")) == 48
    assert len(open_prompts("demo:researchers_pairs", limit=7)) == 7


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "raw"}, "p.jsonl:2: has no prompt"),
        ({"prompt": ""}, "p.jsonl:2: has no prompt"),
        ({"prompt": 3}, "p.jsonl:2: prompt is a number"),
        (
            {"prompt": [{"role": "system", "content": "s"}]},
            "p.jsonl:2: the prompt has no user turn",
        ),
        ({"prompt": [user(" "), user("")]}, "p.jsonl:2: prompt has no text"),
        (
            {"prompt": [user("a"), {"role": "assistant", "content": "b"}], "completion": "c"},
            "p.jsonl:2: the prompt ends with a turn of the assistant",
        ),
        ({"prompt": "other", "id": "one"}, "p.jsonl:2: id 'one' occurs twice"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named(tmp_path, row, message):
    path = write(tmp_path / "p.jsonl", [{"prompt": "fine", "id": "one"}, row])
    with pytest.raises(DataError, match=message):
        open_prompts(path)


def test_no_prompts_and_a_limit_of_none_are_refused(tmp_path):
    with pytest.raises(DataError, match="has no prompts"):
        open_prompts(write(tmp_path / "p.jsonl", []))
    with pytest.raises(DataError, match="limit 0"):
        open_prompts("demo:researchers", limit=0)
