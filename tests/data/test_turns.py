"""Where a conversation ends and its answer begins, the same in every reader."""

from __future__ import annotations

import json

import pytest

from probekit.data import Message, open_dataset
from probekit.data.prompts import open_prompts
from probekit.errors import DataError


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(*texts):
    """Turns of user and assistant in turn."""
    return [{"role": "user assistant".split()[i % 2], "content": t} for i, t in enumerate(texts)]


@pytest.mark.parametrize("target", [{"label": 1}, {"score": 2.0}])
def test_a_prompt_that_ends_with_the_answer_is_a_prompt_and_a_completion(tmp_path, target):
    inside = {"prompt": turns("q", "a", "more", "yes"), **target}
    beside = {"prompt": turns("q", "a", "more"), "completion": "no", **target}
    path = write(tmp_path / "p.jsonl", inside, beside)
    one, other = open_dataset(path).examples()
    assert (one.completion, other.completion) == ("yes", "no")
    assert one.prompt == other.prompt and one.group == other.group
    assert [example.prompt for example in open_prompts(path)] == [one.prompt]


@pytest.mark.parametrize(
    "row",
    [
        {"completion": "b", "label": 1},
        {"completion": "b", "score": 1.0},
        {"chosen": "b", "rejected": "c"},
        {"chosen": turns("q", "a", "b")[1:2], "rejected": [{"role": "assistant", "content": "c"}]},
    ],
)
def test_a_row_with_two_answers_is_refused_everywhere(tmp_path, row):
    path = write(tmp_path / "p.jsonl", {"prompt": turns("q", "a"), **row})
    for read in (open_dataset, open_prompts):
        with pytest.raises(
            DataError, match=r"p\.jsonl:1: the prompt ends with a turn of the assis"
        ):
            read(path)


def test_an_answer_without_a_question_is_refused(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": turns("q", "a")[1:], "label": 1})
    for read in (open_dataset, open_prompts):
        with pytest.raises(
            DataError, match=r"p\.jsonl:1: prompt is a turn of the assistant and no"
        ):
            read(path)
    twice = [*turns("q", "a"), {"role": "assistant", "content": "b"}]
    path = write(tmp_path / "p.jsonl", {"chosen": twice, "rejected": [*twice[:-1], twice[1]]})
    for read in (open_dataset, open_prompts):
        with pytest.raises(DataError, match="the prompt ends with a turn of the assistant"):
            read(path)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", ("blue.", "green.")),
        ("The sky is bluish.", "The sky is blue.", "The sky is", ("bluish.", "blue.")),
        ("The sky", "The sky is blue", "The", ("sky", "sky is blue")),
        ("Q: hm?\nA: It is a.", "Q: hm?\nA: It is b.", "Q: hm?", ("A: It is a.", "A: It is b.")),
        ("你好吗？很好", "你好吗？不好", "你好吗？", ("很好", "不好")),  # noqa: RUF001
        ("one e\u0301", "one e", "one", ("e\u0301", "e")),
        ("Yes", "No", None, ("Yes", "No")),
        ("blueish", "blue", None, ("blueish", "blue")),
    ],
)
def test_an_implicit_prompt_of_texts_is_split_between_words(
    tmp_path, chosen, rejected, prompt, answers
):
    path = write(tmp_path / "p.jsonl", {"chosen": chosen, "rejected": rejected, "id": "x"})
    found = open_dataset(path)
    rows = list(found.examples())
    assert found.layout == "trl" and {row.id for row in rows} == {"x"}
    expected = None if prompt is None else (Message("user", prompt),)
    assert [row.prompt for row in rows] == [expected] * 2
    assert tuple(row.completion for row in rows) == answers
    raw = [row.completion for row in open_dataset(path, layout="probekit").examples()]
    assert raw == [chosen, rejected]


def test_the_implicit_prompt_of_texts_is_that_of_messages(tmp_path):
    """And of rows that say it: all four share a group."""
    texts = {"chosen": "What is it?\nA cat.", "rejected": "What is it?\nA dog."}
    said = {"prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog."}
    talk = {"chosen": turns("What is it?", "A cat."), "rejected": turns("What is it?", "A dog.")}
    groups = set()
    for row in (texts, said, talk):
        examples = list(open_dataset(write(tmp_path / "p.jsonl", row)).examples())
        assert [row.completion for row in examples] == ["A cat.", "A dog."]
        groups |= {example.group for example in examples}
        assert open_prompts(tmp_path / "p.jsonl")[0].group in groups
    assert len(groups) == 1


def test_a_long_shared_beginning_is_cut_in_one_pass(tmp_path):
    """A million characters without a space: no cut, and no copy for each of them."""
    path = write(tmp_path / "p.jsonl", {"chosen": "x" * 10**6 + "a", "rejected": "x" * 10**6 + "b"})
    assert [row.prompt for row in open_dataset(path).examples()] == [None, None]


def test_helpsteer2_turn_markers_become_turns(tmp_path):
    def row(prompt):
        return {"prompt": prompt, "response": "r", "helpfulness": 3, "correctness": 1}

    marked = "hi\n\n<extra_id_1>Assistant\nhello\nyou\n\n<extra_id_1>User\nand you?"
    prompts = [marked, "plain <b>?", marked + "\n<extra_id_1>Assistant\n"]
    prompts.append("hi\n\n<extra_id_1>Assistant\nhello")
    path = write(tmp_path / "h.jsonl", *map(row, prompts))
    found = open_dataset(path)
    one, plain, open_end = found.examples()
    assert one.prompt == (
        Message("user", "hi"), Message("assistant", "hello\nyou"), Message("user", "and you?")
    )  # fmt: skip
    assert plain.prompt == (Message("user", "plain <b>?"),)
    assert open_end.prompt == one.prompt and open_end.group == one.group
    assert found.dropped == {"prompt ends with an answer": 1}
    assert [len(example.prompt) for example in open_prompts(path)] == [3, 1]


def test_transcripts_that_answer_twice_are_left_out(tmp_path):
    start = "\n\nHuman: q\n\nAssistant: a"
    rows = [
        {"chosen": f"{start}\n\nAssistant: b", "rejected": f"{start}\n\nAssistant: c"},
        {"chosen": start, "rejected": "\n\nHuman: q\n\nAssistant: z"},
    ]
    found = open_dataset(write(tmp_path / "hh.jsonl", *rows))
    assert found.dropped == {"prompt ends with an answer": 1}
    assert [row.completion for row in found.examples()] == ["a", "z"]
