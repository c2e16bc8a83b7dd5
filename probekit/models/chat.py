"""Render an example with the model's own chat template; spans are known because the row is put together.

A row is three pieces: the prompt as the model is given it (with the generation prompt), what the
template prints of an answer, and the token that ends a turn. The completion is never looked for in
the text: the template is rendered once with a marker in its place.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray

from probekit.data.rows import Example, Message
from probekit.errors import ModelError, TemplateRefusal

Ids = NDArray[np.int32]

_TAG = re.compile(r"<[^<>\s]+>")
_NONE = np.array([], dtype=np.int32)

MARKER = "\ue0f1\ue0f0"
"""Stands for the answer: private characters, which no template reads."""
FIRST = ("a", "A", "1", " a", "  a", "\n", "\na", "\n\na", "\ta", "/", ".")
"""Texts that an answer may begin with, of all kinds that tokenizers tell apart."""
BARRIERS = ("\n", "a", ".", "0", " a")
"""Texts that a continuation is tokenised after: the first with which it does not merge is used."""


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
        frame = _frame_of(dummy, tokenizer)
    except TemplateRefusal:  # its conversations have more than a question
        return Turn.closed_by(tokenizer.eos_token_id)
    headers = {}
    for begin in FIRST if frame.header else ():
        ids, offsets = continuation(tokenizer, frame.header + begin)
        own = ids[: _inside(offsets, len(frame.header))[0]]
        headers[own.tobytes()] = own
    goes_on = not frame.before.startswith(frame.head)
    opened = _TAG.findall(frame.head)[-1] if goes_on and _TAG.search(frame.head) else ""
    return Turn(tuple(headers.values()), frame.closing, frame.ends, frame.header, opened)


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
        ids = _encode(tokenizer, _apply(tokenizer, example, None), special=False)[0]
        return Rendered(ids, start=len(ids), stop=len(ids), turn_end=None)
    frame = _frame_of(example, tokenizer)
    header, content = _answer(example, tokenizer, frame)
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
    ids, offsets = _encode(tokenizer, text, special=True)
    inside = [i for i, (left, right) in enumerate(offsets) if right > left]
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
    ids, offsets = _encode(tokenizer, text, special=True)
    # Nothing has written the BOS that this tokenizer adds; the EOS that it adds would end the prompt.
    while len(ids) > 1 and offsets[len(ids) - 1][0] == offsets[len(ids) - 1][1]:
        ids = ids[:-1]
    if example.completion is None:
        return Rendered(ids, start=len(ids), stop=len(ids), turn_end=None)
    return _joined(example, tokenizer, ids, "", example.completion, turn_of(tokenizer).closing)


def _joined(
    example: Example,
    tokenizer: Any,  # noqa: ANN401
    head: Ids,
    header: str,
    content: str,
    closing: Ids,
) -> Rendered:
    """Return the row of its parts: prompt, header with content as one continuation, end of turn."""
    rest, offsets = continuation(tokenizer, header + content)
    if not header and example.completion_ids is not None:
        own = list(example.completion_ids)
        # Of another tokenizer, or of a text that was changed since, they are not this completion's.
        if tokenizer.decode(own, clean_up_tokenization_spaces=False) == content:
            rest, offsets = np.array(own, dtype=np.int32), [(0, 1)] * len(own)
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


@dataclass(frozen=True)
class _Frame:
    """What stands around the answer to one prompt, whatever the answer is."""

    head: str
    """The prompt with the generation prompt."""
    ids: Ids
    before: str
    """What the template prints before an answer of the history."""
    after: str
    header: str
    """What of `before` follows `head`."""
    closing: Ids
    ends: bool
    left: bool
    """Whether a special token before the answer takes in white space that the answer begins with."""
    left_without_header: bool
    right: bool


def _frame_of(example: Example, tokenizer: Any) -> _Frame:  # noqa: ANN401
    marker = MARKER
    while any(marker in turn.content for turn in example.prompt or ()):
        marker += MARKER[0]
    try:
        frame = _frame(tokenizer, tokenizer.chat_template, example.prompt, marker)
    except TemplateError as error:
        raise _refused(example, error) from error
    if frame is None:
        raise _rewritten(example)
    return frame


@functools.lru_cache(maxsize=64)
def _frame(
    tokenizer: Any,  # noqa: ANN401
    template: str,  # noqa: ARG001 - part of the key: a tokenizer may be given another
    prompt: tuple[Message, ...],
    marker: str,
) -> _Frame | None:
    """Return the frame of a prompt, None where the template does not print the answer once."""
    head, whole = _print(tokenizer, prompt, None), _print(tokenizer, prompt, marker)
    before, found, after = whole.partition(marker)
    if not found or marker in after:
        return None
    header = before[len(head) :] if before.startswith(head) else ""
    ids = _encode(tokenizer, head, special=False)[0]
    closing, ends = _closing(tokenizer, after)
    added = tokenizer.added_tokens_decoder
    takes = [int(i) in added and added[int(i)].rstrip for i in ids[-1:]]
    inner = [
        int(i) in added and added[int(i)].rstrip for i in continuation(tokenizer, header)[0][-1:]
    ]
    first = [int(i) in added and added[int(i)].lstrip for i in closing[:1]]
    left = any(inner if header else takes)
    return _Frame(head, ids, before, after, header, closing, ends, left, any(takes), any(first))


def _answer(example: Example, tokenizer: Any, frame: _Frame) -> tuple[str, str]:  # noqa: ANN401
    """Return header and content of an answer: as the template prints it, which may trim it."""
    completion = example.completion or ""
    if frame.header and _brings(completion, frame.header):
        return "", completion
    whole = _apply(tokenizer, example, completion)
    printed = _between(whole, frame.before, frame.after)
    if printed is not None and printed.split() == completion.split():
        return frame.header, printed
    # The template drops the reasoning from an answer; the model would write it after the prompt.
    if printed and completion.rstrip().endswith(printed.rstrip()):
        return "", completion
    raise _rewritten(example)


def _brings(completion: str, header: str) -> bool:
    """Return whether a completion has a think block or a channel of its own, in the header's place."""
    tags = _TAG.findall(header)
    if not tags:
        return False
    closes = tags[-1].startswith("</") and tags[-1] in completion
    return closes or completion.lstrip().startswith(tags[0])


def _between(text: str, before: str, after: str) -> str | None:
    """Return what stands in a text between its known beginning and end, None where they differ."""
    if len(text) < len(before) + len(after):
        return None
    fits = text.startswith(before) and text.endswith(after)
    return text[len(before) : len(text) - len(after)] if fits else None


def _rewritten(example: Example) -> TemplateRefusal:
    return TemplateRefusal(
        f"{example.where}: the model's chat template rewrites the completion, so its tokens can "
        "not be located. Store the completion as the template prints it."
    )


def _closing(tokenizer: Any, after: str) -> tuple[Ids, bool]:  # noqa: ANN401
    """Return the tokens that follow an answer up to the one that ends the turn, and whether one does.

    What follows the end of the turn (a template's final newline) is left out: it cannot influence
    anything before it.
    """
    ids = continuation(tokenizer, after)[0] if after else _NONE
    ending = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ending |= set(tokenizer.all_special_ids)
    for at, token in enumerate(ids):
        if int(token) in ending:
            return ids[: at + 1], True
    if tokenizer.eos_token_id is not None:  # what a written turn ends with
        return np.array([tokenizer.eos_token_id], dtype=np.int32), True
    return ids[:1], False


def continuation(tokenizer: Any, text: str) -> tuple[Ids, list[tuple[int, int]]]:  # noqa: ANN401
    """Tokenise a text as it continues another, and return ids and character offsets.

    Some tokenizers put a space before what begins a text, so it is tokenised after a short other one;
    the first of `BARRIERS` that it does not merge with.
    """
    for barrier in BARRIERS:
        alone = _alone(tokenizer, barrier)
        ids, offsets = _encode(tokenizer, barrier + text, special=False)
        n, cut = len(alone), len(barrier)
        if len(ids) >= n and (ids[:n] == alone).all() and (n == len(ids) or offsets[n][0] >= cut):
            return ids[n:], [(left - cut, right - cut) for left, right in offsets[n:]]
    return _encode(tokenizer, text, special=False)


@functools.lru_cache(maxsize=64)
def _alone(tokenizer: Any, barrier: str) -> Ids:  # noqa: ANN401
    return _encode(tokenizer, barrier, special=False)[0]


def _apply(tokenizer: Any, example: Example, answer: str | None) -> str:  # noqa: ANN401
    try:
        return _print(tokenizer, example.prompt or (), answer)
    except TemplateError as error:
        raise _refused(example, error) from error


def _print(tokenizer: Any, prompt: tuple[Message, ...], answer: str | None) -> str:  # noqa: ANN401
    """Return the prompt with the generation prompt, or with an answer in its place."""
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    return str(
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None)
    )


def _refused(example: Example, error: Exception) -> TemplateRefusal:
    return TemplateRefusal(
        f"{example.where}: the model's chat template refuses the conversation ({error}). "
        "Roles must be ones it knows, usually user and assistant in turn."
    )


def _encode(tokenizer: Any, text: str, *, special: bool) -> tuple[Ids, Any]:  # noqa: ANN401
    if not tokenizer.is_fast:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__}: is a slow one without character offsets, which "
            "completion spans need. Use a model with a tokenizer.json."
        )
    encoded = tokenizer(
        text, add_special_tokens=special, return_offsets_mapping=True, verbose=False
    )
    return np.asarray(encoded["input_ids"], dtype=np.int32), encoded["offset_mapping"]
