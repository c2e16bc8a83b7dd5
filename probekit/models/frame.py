"""What a chat template prints around an answer, and how a piece of text becomes tokens in its place."""

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
_LAST_TAG = re.compile(r"(<[^<>\s]+>)\s*$")
_NONE = np.array([], dtype=np.int32)

MARKER = "\ue0f1\ue0f0"
"""Stands for the answer: private characters, which no template reads."""
QUESTION = "\ue0f2"
"""Stands for a question."""
BARRIERS = ("\n", "a", ".", "0", " a")
"""Texts that a continuation is tokenised after: the first with which it does not merge is used."""


@dataclass(frozen=True)
class Frame:
    """What stands around the answer to one prompt, whatever the answer is."""

    head: str
    """The prompt with the generation prompt."""
    ids: Ids
    before: str
    """What the template prints before an answer of the history."""
    after: str
    header: str
    """What of `before` follows `head`."""
    opened: str
    """As in `Turn`."""
    closing: Ids
    ends: bool
    left: bool
    """Whether a special token before the answer takes in white space that the answer begins with."""
    left_without_header: bool
    right: bool


def frame_of(example: Example, tokenizer: Any) -> Frame:  # noqa: ANN401
    """Return what the template prints around an answer to the example's prompt.

    Raises
    ------
    TemplateRefusal
        When the template refuses the conversation, or does not print the answer once.
    """
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
    template: str,  # part of the key: a tokenizer may be given another
    prompt: tuple[Message, ...],
    marker: str,
) -> Frame | None:
    """Return the frame of a prompt, None where the template does not print the answer once."""
    head, whole = _print(tokenizer, prompt, None), _print(tokenizer, prompt, marker)
    before, found, after = whole.partition(marker)
    if not found or marker in after:
        return None
    repeats = before.startswith(head)
    header = before[len(head) :] if repeats else ""
    alone = (Message("user", QUESTION),)
    if not repeats and prompt != alone:
        header = _header_of(_plain(tokenizer, template, alone), head, before)
    opens = None if repeats or header else _LAST_TAG.search(head)
    ids = encode(tokenizer, head, special=False)[0]
    closing, ends = _closing(tokenizer, after)
    last = continuation(tokenizer, header, ids)[0] if header else ids
    return Frame(
        head,
        ids,
        before,
        after,
        header,
        opened=opens[1] if opens else "",
        closing=closing,
        ends=ends,
        left=_takes_in(tokenizer, last[-1:], "rstrip"),
        left_without_header=_takes_in(tokenizer, ids[-1:], "rstrip"),
        right=_takes_in(tokenizer, closing[:1], "lstrip"),
    )


def _takes_in(tokenizer: Any, beside: Ids, side: str) -> bool:  # noqa: ANN401
    """Return whether a token beside the answer takes in white space on that side of itself."""
    return any(bool(getattr(_added(tokenizer, int(i)), side, False)) for i in beside)


@functools.lru_cache(maxsize=1024)
def _added(tokenizer: Any, token: int) -> Any:  # noqa: ANN401 - transformers' AddedToken, or None
    """Return a token that was added to the vocabulary; the tokenizer makes a table of all at every look."""
    return tokenizer.added_tokens_decoder.get(token)


def answer_of(example: Example, tokenizer: Any, frame: Frame) -> tuple[str, str]:  # noqa: ANN401
    """Return header and content of an answer: as the template prints it, which may trim it."""
    given = example.completion or ""
    whole = printed_whole(tokenizer, example, given)
    completion = _unopened(given, frame.head, whole)
    own = completion.removeprefix(frame.header)
    if frame.header.strip() and own != completion and own.strip():
        return frame.header, own
    if completion != given or _brings(completion, frame.header or frame.opened):
        return "", completion
    printed = _between(whole, frame.before, frame.after)
    if printed is not None and printed.strip() == completion.strip():
        return frame.header, printed
    # The template drops the reasoning from an answer; the model would write it after the prompt.
    if printed and completion.rstrip().endswith(printed.rstrip()):
        return "", completion
    raise _rewritten(example)


def _unopened(completion: str, head: str, whole: str) -> str:
    """Return a completion without the tags that its prompt ends with, which it would open twice.

    Unless the template prints them twice too.
    """
    for tag in _TAG.finditer(head):
        opened = head[tag.start() :]
        if completion.startswith(opened.rstrip()) and not whole.startswith(head + completion):
            rest = completion.removeprefix(opened.rstrip())
            return rest.removeprefix(opened[len(opened.rstrip()) :])
    return completion


def unclosed(content: str, tokenizer: Any, closing: Ids) -> str:  # noqa: ANN401
    """Return a completion without the token that ends a turn, where it ends with it already."""
    end = tokenizer.convert_ids_to_tokens(int(closing[-1])) if len(closing) else ""
    bare = content.rstrip().removesuffix(end)
    return bare if end and bare.strip() and bare != content.rstrip() else content


def _plain(tokenizer: Any, template: str, prompt: tuple[Message, ...]) -> Frame | None:  # noqa: ANN401
    try:
        return _frame(tokenizer, template, prompt, MARKER)
    except TemplateError:
        return None


def _header_of(plain: Frame | None, head: str, before: str) -> str:
    """Return what stands before an answer where the template repeats the prompt in another way.

    Without its system turn, say. It is what stands after a single question, where that is there.
    """
    if plain is None:
        return ""
    opening = plain.head.rpartition(QUESTION)[2]
    fits = head.endswith(opening) and before.endswith(opening + plain.header)
    return plain.header if fits else ""


def _brings(completion: str, header: str) -> bool:
    """Return whether a completion has a think block or a channel of its own, in the header's place.

    Or that it ends the block which the prompt has opened.
    """
    tags = _TAG.findall(header)
    if not tags:
        return False
    end = tags[-1] if tags[-1].startswith("</") else "</" + tags[-1][1:]
    closes = end in completion
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
    ids, offsets = continuation(tokenizer, after) if after else (_NONE, [])
    ending = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ending |= set(tokenizer.all_special_ids)
    at = next((at for at, token in enumerate(ids) if int(token) in ending), None)
    if at is not None:
        names = tokenizer.convert_ids_to_tokens(ids[at:].tolist())
        for more, name in enumerate(names, at):  # the end of an answer and that of the turn
            if after[slice(*offsets[more])] != name or int(ids[more]) not in ending:
                break
            if int(ids[more]) == tokenizer.eos_token_id:
                return ids[: more + 1], True
        return ids[: at + 1], True
    if tokenizer.eos_token_id is not None:  # what a written turn ends with
        return np.array([tokenizer.eos_token_id], dtype=np.int32), True
    return ids[:1], False


def continuation(
    tokenizer: Any,  # noqa: ANN401
    text: str,
    before: Ids = _NONE,
) -> tuple[Ids, list[tuple[int, int]]]:
    """Tokenise a text as it continues another, and return ids and character offsets.

    Some tokenizers put a space before what begins a text, so it is tokenised after a short other one:
    the last of the ids `before`, shape (n_before,), where that is a token of the template's own, or the
    first of `BARRIERS` that it does not merge with.
    """
    tokens = (_added(tokenizer, int(i)) for i in before[-1:])
    own = [token.content for token in tokens if token is not None]
    for barrier in (*own, *BARRIERS):
        alone = _alone(tokenizer, barrier)
        ids, offsets = encode(tokenizer, barrier + text, special=False)
        n, cut = len(alone), len(barrier)
        if len(ids) >= n and (ids[:n] == alone).all() and (n == len(ids) or offsets[n][0] >= cut):
            return ids[n:], [(left - cut, right - cut) for left, right in offsets[n:]]
    return encode(tokenizer, text, special=False)


@functools.lru_cache(maxsize=64)
def _alone(tokenizer: Any, barrier: str) -> Ids:  # noqa: ANN401
    return encode(tokenizer, barrier, special=False)[0]


def printed_whole(tokenizer: Any, example: Example, answer: str | None) -> str:  # noqa: ANN401
    """Return the example's prompt with the generation prompt, or with an answer in its place."""
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


def encode_whole(tokenizer: Any, text: str) -> tuple[Ids, Any]:  # noqa: ANN401
    """Tokenise a text with the tokenizer's own special tokens, the first of which may be in it already."""
    written = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return encode(tokenizer, text, special=not written)


def encode(tokenizer: Any, text: str, *, special: bool) -> tuple[Ids, Any]:  # noqa: ANN401
    """Tokenise a text, with the tokenizer's own special tokens or without; return ids and offsets."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__}: is a slow one without character offsets, which "
            "completion spans need. Use a model with a tokenizer.json."
        )
    encoded = tokenizer(
        text, add_special_tokens=special, return_offsets_mapping=True, verbose=False
    )
    return np.asarray(encoded["input_ids"], dtype=np.int32), encoded["offset_mapping"]
