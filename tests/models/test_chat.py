"""One rendering, one tokenisation, spans that point at the right tokens."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from probekit.activations.positions import PositionRule, parse_positions
from probekit.data.rows import Example, Message
from probekit.errors import DataError
from probekit.models.chat import render
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def example(completion="Paris, of course.", prompt="Capital of France?", **more):
    turns = None if prompt is None else (Message("user", prompt),)
    return Example(id="row-1", group="g", prompt=turns, completion=completion, **more)


def text(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def test_chat_tokens_are_those_of_the_template_up_to_the_end_of_turn():
    row = render(example(), TOKENIZER)
    turns = [
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris, of course."},
    ]
    expected = TOKENIZER.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert list(row.ids) == expected[: len(row.ids)]
    assert text(expected[len(row.ids) :]) == "\n"
    assert text(row.ids[row.start : row.stop]) == "Paris, of course."
    assert row.ids[row.turn_end] == TOKENIZER.eos_token_id
    assert row.turn_end == row.stop == len(row.ids) - 1


def test_no_double_bos_and_eos_inside_the_text_is_kept():
    row = render(example(prompt="Say <|im_end|> twice"), TOKENIZER)
    assert list(row.ids).count(TOKENIZER.bos_token_id) == 2  # one a turn, none added in front
    assert text(row.ids[row.start : row.stop]) == "Paris, of course."


@pytest.mark.parametrize("completion", [" leading space", "ünïcode ☃ end", "\n\nnew lines\n", "x"])
def test_spans_cover_the_completion_exactly(completion):
    row = render(example(completion), TOKENIZER)
    assert text(row.ids[row.start : row.stop]) == completion


def test_a_completion_that_repeats_the_prompt_is_found_after_it():
    row = render(example("Capital of France?"), TOKENIZER)
    assert text(row.ids[: row.start]).endswith("assistant\n")
    assert text(row.ids[row.start : row.stop]) == "Capital of France?"


def test_prompt_alone_ends_with_the_generation_prompt():
    row = render(example(None), TOKENIZER)
    assert text(row.ids).endswith("<|im_start|>assistant\n")
    assert (row.start, row.stop, row.turn_end) == (len(row.ids), len(row.ids), None)
    assert PositionRule("prompt_end").resolve(row) == [len(row.ids) - 1]
    with pytest.raises(DataError, match="only prompt_end, not last"):
        PositionRule("last").resolve(row)


def test_raw_text_is_closed_by_the_end_token_and_has_no_prompt():
    row = render(example("Ada Lovelace", prompt=None), TOKENIZER)
    assert text(row.ids) == "Ada Lovelace<|im_end|>"
    assert PositionRule("turn_end").resolve(row) == [row.stop]
    with pytest.raises(DataError, match="no prompt_end"):
        PositionRule("prompt_end").resolve(row)


def test_without_a_template_turns_are_joined_by_blank_lines():
    plain = tiny_tokenizer(chat=False)
    row = render(example(), plain)
    assert plain.decode(row.ids) == "Capital of France?\n\nParis, of course.<|im_end|>"
    assert plain.decode(row.ids[row.start : row.stop]) == "Paris, of course."


def test_a_template_that_adds_a_think_block_and_one_that_strips():
    thinking = tiny_tokenizer()
    thinking.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "<think>\n\n</think>\n\n{% endif %}{{ m.content.strip() }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = render(example("  Paris  "), thinking)
    assert thinking.decode(row.ids[row.start : row.stop]) == "Paris"
    assert thinking.decode(row.ids[: row.start]).endswith("</think>\n\n")


def test_a_template_that_rewrites_the_completion_is_refused():
    shouting = tiny_tokenizer()
    shouting.chat_template = TOKENIZER.chat_template.replace("m['content']", "m['content'].upper()")
    with pytest.raises(DataError, match="row-1.*rewrites the completion"):
        render(example(), shouting)


def test_a_template_that_refuses_a_role_names_the_row():
    strict = tiny_tokenizer()
    strict.chat_template = "{{ raise_exception('system not supported') }}"
    with pytest.raises(DataError, match="row-1.*system not supported"):
        render(example(), strict)


RULES = {
    "last": lambda c: c[-1:],
    "mean": lambda c: c,
    "first:3": lambda c: c[:3],
    "first:99": lambda c: c,
    "token:0": lambda c: c[:1],
    "token:-1": lambda c: c[-1:],
    "token:-2": lambda c: c[-2:-1],
    "all": lambda c: c,
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_read_the_tokens_they_name(rule):
    row = render(example(), TOKENIZER)
    content = np.arange(row.start, row.stop)
    assert list(PositionRule.parse(rule).resolve(row)) == list(RULES[rule](content))


def test_pooled_rules_leave_out_the_attention_sink_of_raw_text():
    row = render(example("Ada Lovelace", prompt=None), TOKENIZER)
    assert PositionRule("mean").resolve(row)[0] == 1
    assert list(PositionRule("first:2").resolve(row)) == [1, 2]
    assert PositionRule("all").resolve(row)[0] == 0
    single = render(example("A", prompt=None), TOKENIZER)
    assert list(PositionRule("mean").resolve(single)) == [0]


def test_a_missing_token_and_unknown_rules_say_what_was_expected():
    row = render(example("abc"), TOKENIZER)
    with pytest.raises(DataError, match="3 tokens, so no token:3"):
        PositionRule("token:3").resolve(row)
    with pytest.raises(DataError, match="3 tokens, so no token:-4"):
        PositionRule("token:-4").resolve(row)
    for bad in ("middle", "first:0", "first:", "token:", "token:x", ""):
        with pytest.raises(DataError, match="Expected last, turn_end"):
            parse_positions(bad)
    assert [rule.name for rule in parse_positions("last, mean,last")] == ["last", "mean"]


@pytest.mark.parametrize("written", [False, True])
def test_a_prompt_stays_open_under_a_tokenizer_that_closes_every_text(written):
    """The end token that the tokenizer adds is taken off, one that the prompt itself ends with is not."""
    plain, closing = tiny_tokenizer(chat=False), tiny_tokenizer(chat=False)
    closing.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    turn = example(None, prompt="One, two" + ("<|im_end|>" if written else ""))
    expected = [1, *render(turn, plain).ids]
    row = render(turn, closing)
    assert list(row.ids) == expected
    assert row.start == row.stop == len(expected)
    whole = render(example("three", prompt="One, two"), closing)
    assert whole.ids[-1] == 2 and whole.turn_end == len(whole.ids) - 1
