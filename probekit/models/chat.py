"""Render an example with the model's own chat template; spans are known because the row is put together.

A row is three pieces: the prompt as the model is given it (with the generation prompt), what the
template prints of an answer, and the token that ends a turn. The completion is never looked for in
the text: the template is rendered once with a marker in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.data.rows import Example, Message
from probekit.errors import TemplateRefusal
from probekit.models.frame import (
    Ids,
    answer_of,
    continuation,
    encode,
    encode_whole,
    frame_of,
    printed_whole,
    unclosed,
)

FIRST = ("a", "A", "1", " a", "  a", "\n", "\na", "\n\na", "\ta", "/", ".")
"""Texts that an answer may begin with, of all kinds that tokenizers tell apart."""


@dataclass(frozen=True)
class Rendered:
    """The tokens of one example and where its completion lies among them."""

    ids: Ids
    """Token ids, shape (n_tokens,), ending with the end-of-turn token where there is one."""
    start: int
    """Index of the first completion token; `n_tokens` when the row ends with its prompt."""
    stop: int
    """One past the last content token of the completion (before the end-of-turn token)."""
    turn_end: int | None
    """Index of the token that closes the completion, None when nothing closes it."""
    has_prompt: bool = True
    """False for raw text, which nothing but special tokens can precede."""
    header: int = 0
    """Tokens before `start` that an answer begins with (an empty think block, a channel's name)."""

    @property
    def n_content(self) -> int:
        """Content tokens of the completion, or all tokens of a row that ends with its prompt."""
        return self.stop - self.start or len(self.ids)

    @property
    def new(self) -> int:
        """Index of the first token that the model writes itself: the header's, or `start`."""
        return self.start - self.header


@dataclass(frozen=True)
class Turn:
    """What a chat template puts around an answer, beside the generation prompt."""

    headers: tuple[Ids, ...]
    """Tokens between the generation prompt and the answer, such as an empty think block. Several: their
    last ones depend on what the answer begins with."""
    closing: Ids
    """Tokens after the answer, the end-of-turn token last; empty where nothing ends a turn."""
    ends: bool
    """Whether the last of them is a token of its own that a model can end its turn with."""
    header: str = ""
    """The header as text; a tokenizer may join its last white space with the answer's first word."""

    opened: str = ""
    """Tag that the generation prompt ends with and the history does not, such as `<think>`."""

    @classmethod
    def closed_by(cls, token: int | None) -> Turn:
        """Return a turn that a single token ends, or nothing."""
        return cls((), np.array([] if token is None else [token], dtype=np.int32), ends=True)

    def header_of(self, written: Ids) -> int:
        """Return how many of a completion's first tokens are the template's header."""
        fits = (len(h) for h in self.headers if written[: len(h)].tolist() == h.tolist())
        return max(fits, default=0)


def turn_of(tokenizer: Any) -> Turn:  # noqa: ANN401 - a transformers tokenizer
    """Return what the template puts around the answer to a question without a system turn."""
    if not tokenizer.chat_template:
        return Turn.closed_by(tokenizer.eos_token_id)
    dummy = Example("turn", "turn", (Message("user", "a"),), "a")
    try:
        frame = frame_of(dummy, tokenizer)
    except TemplateRefusal:  # its conversations have more than a question
        return Turn.closed_by(tokenizer.eos_token_id)
    headers = {}
    for begin in FIRST if frame.header else ():
        ids, offsets = continuation(tokenizer, frame.header + begin, frame.ids)
        for first in _inside(offsets, len(frame.header))[:1]:  # white space may have no token
            headers[ids[:first].tobytes()] = ids[:first]
    return Turn(tuple(headers.values()), frame.closing, frame.ends, frame.header, frame.opened)


def render(example: Example, tokenizer: Any) -> Rendered:  # noqa: ANN401 - a transformers tokenizer
    """Tokenise one example, put together of parts, so that its spans are known.

    The prompt is what the model is given when it is to answer: the tokenizer's own template with its
    generation prompt, tokenised without added special tokens, because the template wrote them already
    (never a second BOS). The completion's tokens follow, as they continue the prompt, then the
    template's own end of turn. So a row of data has the tokens of the same text when the model
    writes it. What the template prints between the two (an empty think block, a channel) is kept
    as the completion's header, unless the completion brings its own; what it trims is left out. A
    tokenizer without a template joins the turns with blank lines. Raw text is tokenised with the
    tokenizer's own special tokens and closed by its end-of-sequence token.

    Raises
    ------
    TemplateRefusal
        When the template refuses, drops or rewrites the conversation, or a completion has no tokens.

    Examples
    --------
    >>> from probekit.data.rows import Example, Message
    >>> from probekit.models.load import load_model
    >>> tokenizer = load_model("smollm2-135m").tokenizer
    >>> row = render(Example("1", "1", (Message("user", "Capital of France?"),), "Paris."), tokenizer)
    >>> tokenizer.decode(row.ids[row.start : row.stop]), tokenizer.decode(row.ids[row.turn_end])
    ('Paris.', '<|im_end|>')
    """
    if example.prompt is None:
        return _render_text(example, tokenizer)
    if not tokenizer.chat_template:
        return _render_joined(example, tokenizer)
    if example.completion is None:
        ids = encode(tokenizer, printed_whole(tokenizer, example, None), special=False)[0]
        return Rendered(ids, start=len(ids), stop=len(ids), turn_end=None)
    frame = frame_of(example, tokenizer)
    header, content = answer_of(example, tokenizer, frame)
    content = unclosed(content, tokenizer, frame.closing) if frame.ends else content
    if frame.left if header else frame.left_without_header:
        content = content.lstrip()
    if frame.right:
        content = content.rstrip()
    return _joined(example, tokenizer, frame.ids, header, content, frame.closing)


def text_of(tokenizer: Any, row: Rendered, turn: Turn) -> str:  # noqa: ANN401 - a transformers tokenizer
    """Return a row's completion as the text that `render` makes the same tokens of."""
    written = row.ids[row.new : row.stop]
    text = str(tokenizer.decode(written, clean_up_tokenization_spaces=False))
    return text.removeprefix(turn.header) if row.header or turn.header.isspace() else text


def _render_text(example: Example, tokenizer: Any) -> Rendered:  # noqa: ANN401
    text = example.completion or ""
    ids, offsets = encode_whole(tokenizer, text)
    # A text that went through a template has its first and last token in it; they are no content.
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    inside = [i for i, (left, right) in enumerate(offsets) if right > left]
    while inside and ids[inside[0]] in ends:
        inside = inside[1:]
    while inside and ids[inside[-1]] in ends:
        inside = inside[:-1]
    if not inside:
        raise TemplateRefusal(f"{example.where}: the completion has no tokens. Expected some text.")
    start, stop = inside[0], inside[-1] + 1
    closing = ids[stop : stop + 1]
    if not len(closing) and tokenizer.eos_token_id is not None:
        closing = np.array([tokenizer.eos_token_id], dtype=np.int32)
    end = stop if len(closing) else None
    return Rendered(np.concatenate([ids[:stop], closing]), start, stop, end, has_prompt=False)


def _render_joined(example: Example, tokenizer: Any) -> Rendered:  # noqa: ANN401
    """Join the turns with blank lines, for a tokenizer without a template."""
    text = "".join(turn.content + "\n\n" for turn in example.prompt or ())
    ids, offsets = encode_whole(tokenizer, text)
    # Nothing has written the BOS that this tokenizer adds; the EOS that it adds would end the prompt.
    while len(ids) > 1 and offsets[len(ids) - 1][0] == offsets[len(ids) - 1][1]:
        ids = ids[:-1]
    if example.completion is None:
        return Rendered(ids, start=len(ids), stop=len(ids), turn_end=None)
    closing = turn_of(tokenizer).closing
    content = unclosed(example.completion, tokenizer, closing)
    return _joined(example, tokenizer, ids, "", content, closing)


def _joined(
    example: Example,
    tokenizer: Any,  # noqa: ANN401
    head: Ids,
    header: str,
    content: str,
    closing: Ids,
) -> Rendered:
    """Return the row of its parts: prompt, header with content as one continuation, end of turn."""
    own = None if header else example.completion_ids
    # Of another tokenizer, or of a text that was changed since, they are not this completion's.
    if own and tokenizer.decode(list(own), clean_up_tokenization_spaces=False) == content:
        rest, offsets = np.array(own, dtype=np.int32), [(0, 1)] * len(own)
    else:
        rest, offsets = continuation(tokenizer, header + content, head)
    inside = _inside(offsets, len(header))
    if not inside:
        raise TemplateRefusal(f"{example.where}: the completion has no tokens. Expected some text.")
    start, stop = len(head) + inside[0], len(head) + inside[-1] + 1
    ids = np.concatenate([head, rest, closing]).astype(np.int32)
    end = len(ids) - 1 if len(closing) else None
    return Rendered(ids, start, stop, end, header=inside[0])


def _inside(offsets: list[tuple[int, int]], begin: int) -> list[int]:
    """Return the tokens that cover any character from `begin` on."""
    return [i for i, (left, right) in enumerate(offsets) if right > max(left, begin)]
