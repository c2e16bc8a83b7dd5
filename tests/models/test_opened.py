"""Completions that bring what the template prints of itself: think blocks, end and begin of a text."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probekit.data.rows import Example, Message
from probekit.models.chat import render, turn_of
from probekit.models.sampling import Completion
from tests.models.test_placed import metaspace_tokenizer, tokenizer_with

QUESTION = (Message("user", "Where?"),)
ASKED = "<|start|>user\nWhere?<|end|>\n<|start|>assistant\n"
TURN = "{{ '<|start|>' + m['role'] + '\n' }}"
THOUGHT = "<think>\nwell\n</think>\n\nParis."
EMPTY = "<think>\n\n</think>\n\n"


def template(content, opened):
    """A template that prints `content` (Jinja) of an answer and `opened` after the generation prompt."""
    return (
        f"{{% for m in messages %}}{TURN}{{% if m['role'] == 'user' %}}{{{{ m['content'] }}}}"
        f"{{% else %}}{{{{ {content} }}}}{{% endif %}}<|end|>\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '<|start|>assistant\n' + {opened!r} }}}}{{% endif %}}"
    )


LAST = "m['content'].split('</think>')[-1]"
TEMPLATES = {
    "drops the thoughts": template(LAST, "<think>\n"),
    "drops them and trims": template(f"{LAST} | trim", "<think>\n"),
    "keeps them": template("m['content']", "<think>\n"),
    "adds an empty block": template(
        "m['content'] if '<think>' in m['content'] else '<think></think>' + m['content']",
        "<think>\n",
    ),
    "rebuilds them": template(
        "'<think>\n' + m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') + "
        f"'\n</think>\n\n' + {LAST}.lstrip('\n') if '</think>' in m['content'] else "
        f"{EMPTY!r} + m['content']",
        "<think>\n",
    ),
    "ends the block": template("m['content']", EMPTY),
    "opens nothing": template("m['content']", ""),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("text", [THOUGHT, "<think>\nwell", f"{EMPTY}Paris."])
def test_a_block_that_the_prompt_opened_is_not_opened_twice(name, text):
    tokenizer = tokenizer_with(TEMPLATES[name])
    if name == "ends the block" and not text.startswith(EMPTY):
        pytest.skip("the model cannot think after this prompt")
    row = render(Example("r", "g", QUESTION, text), tokenizer)
    assert tokenizer.decode(row.ids) == ASKED + text + "<|end|>"
    if text.startswith(EMPTY) and name in ("rebuilds them", "ends the block"):
        assert tokenizer.decode(row.ids[row.start : row.stop]) == "Paris."


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_model_wrote_is_the_same_row_of_data(name):
    """As it is written, without the tag that the prompt has opened."""
    tokenizer = tokenizer_with(TEMPLATES[name])
    prompt = render(Example("r", "g", QUESTION), tokenizer)
    head = tokenizer.decode(prompt.ids)
    for whole in (THOUGHT, f"{EMPTY}Paris."):
        text = (ASKED + whole).removeprefix(head)
        if text == ASKED + whole:
            continue  # a model cannot write it after this prompt
        row = render(Example("r", "g", QUESTION, text), tokenizer)
        assert tokenizer.decode(row.ids) == f"{head}{text}<|end|>"
        done = Completion(0, 0, row.ids[len(prompt.ids) :], np.empty(0), finished=True)
        written = done.rendered(prompt, turn_of(tokenizer))
        assert written.ids.tolist() == row.ids.tolist()
        assert [written.start, written.stop] == [row.start, row.stop]


def test_what_stands_before_an_answer_does_not_hang_on_how_the_prompt_is_repeated():
    """Mistral prints a system turn with the last question alone, and a space before each answer."""
    chat = metaspace_tokenizer(
        "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}"
        "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}<s>"
        "{% for m in rest %}{% if m['role'] == 'user' %}[INST] {% if loop.last and told is defined %}"
        "{{ told }} {% endif %}{{ m['content'] }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}"
        "{% endfor %}"
    )
    told = (Message("system", "user"), *QUESTION)
    plain, with_system = (render(Example("r", "g", p, "good"), chat) for p in (QUESTION, told))
    assert with_system.ids[with_system.new :].tolist() == plain.ids[plain.new :].tolist()
    assert chat.convert_ids_to_tokens(int(with_system.ids[with_system.new])).startswith("▁")


@pytest.mark.parametrize("text", ["Paris.<|end|>", "Paris.<|end|>\n"])
def test_a_completion_with_its_end_of_turn_has_one(text):
    tokenizer = tokenizer_with(TEMPLATES["opens nothing"])
    row, bare = (render(Example("r", "g", QUESTION, t), tokenizer) for t in (text, "Paris."))
    assert row.ids.tolist() == bare.ids.tolist() and row.stop == bare.stop


def test_a_raw_text_with_its_first_and_last_token_has_one_of_each():
    tokenizer = tokenizer_with(None)
    tokenizer.add_bos_token = True  # as a tokenizer of LLaMA, which adds one
    row, bare = (render(Example("r", "g", None, t), tokenizer) for t in ("<s>It is.</s>", "It is."))
    assert row.ids.tolist() == bare.ids.tolist()
    assert tokenizer.decode(row.ids) == "<s>It is.</s>"
    assert tokenizer.decode(row.ids[row.start : row.stop]) == "It is."
    assert [bare.start, bare.stop, bare.turn_end] == [row.start, row.stop, row.turn_end]


def test_the_end_of_an_answer_and_of_its_turn_are_told_apart():
    """Command R7B closes an answer and then the turn; Phi-3 prints the end of the text after the last."""
    for after, eos, closing in (
        ("<|return|><|end|>", "<|end|>", "<|return|><|end|>"),
        ("<|end|>\n</s>", "</s>", "<|end|>"),
    ):
        tokenizer = tokenizer_with(TEMPLATES["opens nothing"].replace("<|end|>\n", after))
        tokenizer.eos_token = eos
        row = render(Example("r", "g", QUESTION, "Paris."), tokenizer)
        assert tokenizer.decode(row.ids[row.stop :]) == closing
        assert row.turn_end == len(row.ids) - 1
        assert turn_of(tokenizer).closing.tolist() == row.ids[row.stop :].tolist()


@pytest.mark.parametrize("text", ["Paris", "the film was good", " good", "42."])
def test_an_answer_right_after_a_token_of_the_template_is_tokenised_as_there(text):
    """A tokenizer that begins texts with a space does so behind each of them, also in training."""
    chat = metaspace_tokenizer(
        "{% for m in messages %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant<|message|>{% endif %}"
    )
    row = render(Example("r", "g", QUESTION, text), chat)
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": text}]
    assert row.ids.tolist() == chat.apply_chat_template(turns, return_dict=False)
    assert chat.convert_ids_to_tokens(int(row.ids[row.start - 1])) == "<|message|>"


def test_white_space_without_tokens_is_no_header():
    core = Tokenizer(models.WordPiece({"<unk>": 0, "paris": 1, "where": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.normalizer = normalizers.Lowercase()
    words = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")
    words.chat_template = "{% for m in messages %} {{ m['content'] }}{% endfor %}"
    turn = turn_of(words)
    row = render(Example("r", "g", (Message("user", "Where"),), "Paris"), words)
    assert row.ids.tolist() == [2, 1, *turn.closing] and (row.start, row.header) == (1, 0)
    assert turn.header_of(row.ids[1:]) == 0
