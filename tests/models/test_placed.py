"""Spans of rows under generated chat templates equal those of a slow, obvious reference."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from probekit.data.rows import Example, Message
from probekit.errors import DataError, TemplateRefusal
from probekit.models.chat import render, text_of, turn_of
from probekit.models.dates import set_date
from probekit.models.sampling import Completion

SPECIAL = (
    "<unk>",
    "<s>",
    "</s>",
    "<|start|>",
    "<|message|>",
    "<|channel|>",
    "<|end|>",
    "<|return|>",
)
CORPUS = (
    "the film was good\n\nthe film was bad\n\n\nuser\nassistant\n think final the answer is 42. "
    "Paris, of course.\n<think>\n\n</think>\n\nParis<think>\nwell\n</think>\n\n  two  spaces\tand tabs "
) * 8
HEADERS = ("", "<think>\n\n</think>\n\n", "<|channel|>final<|message|>", " ")
OPENED = ("", "<think>\n")
CLOSINGS = ("<|end|>\n", "<|return|>", " </s>", "\n<|end|>")
OPENINGS = (("<|start|>", "\n"), ("<|start|>", "<|message|>"), ("### ", ":\n"))
TEXTS = (
    "t", "think", "/", "final", "message", "<|", "user", "assistant\n", "Paris.", "\n\nnew lines\n", "  two ",
    "<think>\nwell\n</think>\n\nParis.",
    "well\n</think>\n\nParis.", "<|channel|>analysis<|message|>", "ünïcode ☃", "42", " ", "\t",
    "the film was", "a" * 40,
)  # fmt: skip


@functools.cache
def words_tokenizer() -> Tokenizer:
    """Return a tokenizer that merges: words, runs of newlines, pieces of the templates' own text."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator([CORPUS], trainer)
    return core


def with_template(core, template):
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=template,
    )


def tokenizer_with(template, *, rstrip=False, lstrip=False):
    core = Tokenizer.from_str(words_tokenizer().to_str())
    core.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False, rstrip=rstrip, lstrip=lstrip)
            for t in SPECIAL[3:]
        ]
    )
    return with_template(core, template)


class Format:
    """A chat format: as a template, and as plain functions that say what it prints."""

    def __init__(self, opening, header, opened, closing, *, bos, trims):
        self.opening, self.header, self.opened, self.closing = opening, header, opened, closing
        self.bos, self.trims = "<s>" if bos else "", trims
        left, right = opening
        content = "m['content'] | trim" if trims else "m['content']"
        self.template = (
            f"{{{{ {self.bos!r} }}}}{{% for m in messages %}}{{{{ {left!r} + m['role'] + {right!r} }}}}"
            f"{{% if m['role'] == 'assistant' %}}{{{{ {header!r} }}}}{{% endif %}}"
            f"{{{{ {content} }}}}{{{{ {closing!r} }}}}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{{{{ {left + 'assistant' + right + opened!r} }}}}{{% endif %}}"
        )

    def prompt(self, turns):
        left, right = self.opening
        body = "".join(
            left
            + role
            + right
            + (self.header if role == "assistant" else "")
            + self.printed(text)
            + self.closing
            for role, text in turns
        )
        return self.bos + body + left + "assistant" + right + self.opened

    def printed(self, text):
        return text.strip() if self.trims else text

    def answer(self, text):
        """Return header and content after the generation prompt."""
        if self.opened and text.startswith("<think>"):
            return "", text.removeprefix(self.opened)  # the prompt has opened it already
        if self.opened and not self.header.startswith(self.opened):
            # The prompt goes on where the history does not.
            return "", text if "</think>" in text else self.printed(text)
        if "think" in self.header and ("</think>" in text or text.lstrip().startswith("<think>")):
            return "", text  # the text brings its own
        if "channel" in self.header and text.lstrip().startswith("<|channel|>"):
            return "", text
        return self.header.removeprefix(self.opened), self.printed(text)


FORMATS = [
    Format(opening, header, opened, closing, bos=bos, trims=trims)
    for opening, header, opened, closing, bos, trims in itertools.product(
        OPENINGS, HEADERS, OPENED, CLOSINGS, (False, True), (False, True)
    )
]


def reference(form, tokenizer, turns, text):
    """Return ids, start, stop and turn_end by adding up bytes, one token after the other."""

    def ids_of(piece):
        return tokenizer(piece, add_special_tokens=False)["input_ids"]

    header, content = form.answer(text)
    head, rest = ids_of(form.prompt(turns)), ids_of(header + content)
    closing = list(itertools.takewhile(lambda i: i not in ENDING, after := ids_of(form.closing)))
    closing = after[: len(closing) + 1]
    at, inside = 0, []
    first, last = len(header.encode()), len((header + content).encode())
    for place, token in enumerate(rest):
        size = size_of(tokenizer, token)
        if at + size > first and at < last:
            inside.append(len(head) + place)
        at += size
    assert at == last  # the reference has accounted for every byte
    ids = head + rest + closing
    return ids, inside[0], inside[-1] + 1, len(ids) - 1


ENDING = set(range(len(SPECIAL)))


def size_of(tokenizer, token):
    text = tokenizer.convert_ids_to_tokens(token)
    return len(text.encode()) if token in ENDING else len(text)  # byte-level: one character a byte


def conversation(rng):
    """Return an earlier exchange perhaps, and a question."""
    turns = [("user", some_text(rng))]
    if rng.random() < 0.5:
        turns = [("user", some_text(rng)), ("assistant", some_text(rng)), *turns]
    return [("system", "Be brief."), *turns] if rng.random() < 0.3 else turns


def some_text(rng):
    pieces = rng.choice(len(TEXTS), size=int(rng.integers(1, 4)))
    return "".join(TEXTS[i] for i in pieces)


def test_generated_templates_and_texts_have_the_spans_of_the_reference(rng):
    """15 random texts under each of 384 formats, 5,760 rows in all; the few without any text are left out."""
    compared = 0
    for form in FORMATS:
        tokenizer = tokenizer_with(form.template)
        turn = turn_of(tokenizer)
        for _ in range(15):
            turns, text = conversation(rng), some_text(rng)
            if not form.answer(text)[1]:
                continue
            example = Example("r", "g", tuple(Message(*turn) for turn in turns), text)
            row = render(example, tokenizer)
            ids, *spans = reference(form, tokenizer, turns, text)
            assert row.ids.tolist() == ids, (form.template, turns, text)
            assert [row.start, row.stop, row.turn_end] == spans, (form.template, turns, text)
            compared += 1
            # The same text, written by a model after the prompt, is the same row.
            prompt = render(Example("r", "g", example.prompt), tokenizer)
            assert row.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()
            assert row.new == len(prompt.ids)
            for finished in (True, False):
                written = row.ids[row.new :] if finished else row.ids[row.new : row.stop]
                done = Completion(0, 0, written, np.empty(0), finished).rendered(prompt, turn)
                assert done.ids.tolist() == ids
                assert (done.stop, done.turn_end) == (row.stop, row.turn_end)
                if form.header != " ":  # a space may be one token with the first word
                    assert done.start == row.start, (form.template, text)
    assert compared > 5000


def test_the_text_of_a_row_gives_its_tokens_back(rng):
    for form in rng.choice(FORMATS, size=40):
        tokenizer = tokenizer_with(form.template)
        text = form.printed(some_text(rng)) or "x"
        example = Example("r", "g", (Message("user", "a"),), text)
        row = render(example, tokenizer)
        again = render(
            Example("r", "g", example.prompt, text_of(tokenizer, row, turn_of(tokenizer))),
            tokenizer,
        )
        assert again.ids.tolist() == row.ids.tolist(), (form.template, text)


def metaspace_tokenizer(template):
    """Return a tokenizer that puts a space before what begins a text, as SentencePiece does."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=list(SPECIAL), show_progress=False)
    core.train_from_iterator([CORPUS, "user a [INST] [/INST]"], trainer)
    return with_template(core, template)


@pytest.mark.parametrize("text", ["Paris", "the film was good", "42.", "and tabs"])
def test_a_tokenizer_that_begins_texts_with_a_space_adds_none_within_a_row(text):
    newline = "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    newline += "{% if add_generation_prompt %}assistant\n{% endif %}"
    plain = metaspace_tokenizer(newline)
    row = render(Example("r", "g", (Message("user", "a"),), text), plain)
    whole = plain.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}],
        tokenize=True, return_dict=False,
    )  # fmt: skip
    assert row.ids.tolist() == whole
    assert not plain.convert_ids_to_tokens(int(row.ids[row.start])).startswith("▁")
    spaced = metaspace_tokenizer(
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
    )
    row = render(Example("r", "g", (Message("user", "a"),), text), spaced)
    tokens = spaced.convert_ids_to_tokens(row.ids.tolist())
    # The space that the template prints is one token with the first word; the one before the end is not.
    assert "".join(tokens[row.start : row.stop]).replace("▁", " ") == " " + text
    assert tokens[row.stop :] == ["▁", "</s>"] and row.header == 0
    assert turn_of(spaced).closing.tolist() == row.ids[row.stop :].tolist()


@pytest.mark.parametrize("text", [" hello", "hello\n", "hello"])
@pytest.mark.parametrize("lstrip", [False, True])
def test_special_tokens_that_take_in_white_space_are_no_content(text, lstrip):
    template = (
        "{% for m in messages %}<|start|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>\n{% endif %}"
    )
    tokenizer = tokenizer_with(template, rstrip=True, lstrip=lstrip)
    row = render(Example("r", "g", (Message("user", "hi"),), text), tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(row.ids.tolist())
    assert tokens[row.start - 1] == "<|start|>"
    assert tokens[row.turn_end] == "<|end|>"
    content = tokenizer.decode(row.ids[row.start : row.stop])
    assert content == (text.strip() if lstrip else text.lstrip())


def test_a_reasoning_template_that_drops_the_thoughts_keeps_the_row_as_written():
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|start|>{{ m['content'] }}{% else %}"
        "<|message|>{{ m['content'].split('</think>')[-1] }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|message|><think>\n{% endif %}"
    )
    tokenizer = tokenizer_with(template)
    for text in ("Paris.", "well\n</think>\n\nParis."):
        row = render(Example("r", "g", (Message("user", "Where?"),), text), tokenizer)
        assert tokenizer.decode(row.ids) == f"<|start|>Where?<|message|><think>\n{text}</s>"
        assert tokenizer.decode(row.ids[row.start : row.stop]) == text
    assert turn_of(tokenizer).opened == "<think>"
    assert turn_of(tokenizer_with(FORMATS[0].template)).opened == ""


def test_a_refused_row_is_named_by_its_place():
    tokenizer = tokenizer_with("{{ raise_exception('no system role') }}")
    example = Example("r7", "g", (Message("user", "a"),), "b", place="rows.jsonl:7")
    with pytest.raises(TemplateRefusal, match=r"^rows\.jsonl:7: row r7: .*no system role"):
        render(example, tokenizer)
    with pytest.raises(DataError, match="no tokens"):
        render(Example("r", "g", (Message("user", "a"),), ""), tokenizer_with(FORMATS[0].template))


def test_a_template_that_prints_the_date_prints_the_one_it_was_given():
    template = (
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    )
    tokenizer = tokenizer_with(template)
    assert set_date(tokenizer, "2025-03-04") == "2025-03-04"
    row = render(Example("r", "g", (Message("user", "a"),), "b"), tokenizer)
    assert tokenizer.decode(row.ids).startswith("04 Mar 2025")
    assert set_date(tokenizer_with(FORMATS[0].template), None) is None
