"""Render an example with the model's own chat template, tokenise it once, and keep its spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.data.rows import Example
from probekit.errors import DataError, ModelError


@dataclass(frozen=True)
class Rendered:
    """The tokens of one example and where its completion lies among them."""

    ids: NDArray[np.int32]
    """Token ids, shape (n_tokens,), ending with the end-of-turn token where there is one."""
    start: int
    """Index of the first completion token; `n_tokens` when the row ends with its prompt."""
    stop: int
    """One past the last content token of the completion (before the end-of-turn token)."""
    turn_end: int | None
    """Index of the token that closes the completion, None when nothing closes it."""
    has_prompt: bool = True
    """False for raw text, which nothing but special tokens can precede."""

    @property
    def n_content(self) -> int:
        """Content tokens of the completion, or all tokens of a row that ends with its prompt."""
        return self.stop - self.start or len(self.ids)


def render(example: Example, tokenizer: Any) -> Rendered:  # noqa: ANN401 - a transformers tokenizer
    """Tokenise one example once, with the completion's span known from character offsets.

    A chat goes through the tokenizer's own template and is tokenised without added special tokens,
    because the template wrote them already (never a second BOS). A tokenizer without a template
    joins the turns with blank lines. Raw text is tokenised with the tokenizer's own special tokens
    and closed by its end-of-sequence token. What follows the end of the turn (a template's final
    newline) is left out: it cannot influence anything before it.

    Raises
    ------
    DataError
        When the template drops or rewrites the completion, or it has no tokens.
    """
    if example.prompt is None:
        return _render_text(example, tokenizer)
    head, full, begin, end = _chat_text(example, tokenizer)
    if example.completion is None:
        ids, offsets = _encode(tokenizer, head, special=not tokenizer.chat_template)
        left, right = offsets[-1] if len(ids) else (0, 1)
        if left == right and int(ids[-1]) == tokenizer.eos_token_id:
            ids = ids[:-1]  # this tokenizer closes every text, but a prompt goes on
        return Rendered(ids, start=len(ids), stop=len(ids), turn_end=None)
    # Without a template nothing has written the BOS that this tokenizer would add.
    ids, offsets = _encode(tokenizer, full, special=not tokenizer.chat_template)
    return _with_span(example, tokenizer, ids, offsets, begin, end)


def _render_text(example: Example, tokenizer: Any) -> Rendered:  # noqa: ANN401
    text = example.completion or ""
    ids, offsets = _encode(tokenizer, text, special=True)
    return _with_span(example, tokenizer, ids, offsets, 0, len(text))


def _chat_text(example: Example, tokenizer: Any) -> tuple[str, str, int, int]:  # noqa: ANN401
    """Return the prompt's text, the whole text, and the completion's character span in it."""
    turns = [{"role": turn.role, "content": turn.content} for turn in example.prompt or ()]
    completion = example.completion or ""
    if not tokenizer.chat_template:
        head = "\n\n".join(turn["content"] for turn in turns) + "\n\n"
        return head, head + completion, len(head), len(head) + len(completion)
    head = _apply(tokenizer, turns, example, generation_prompt=True)
    if example.completion is None:
        return head, head, len(head), len(head)
    answer = [*turns, {"role": "assistant", "content": completion}]
    full = _apply(tokenizer, answer, example, generation_prompt=False)
    # Some templates strip the content; some write a think block between prompt and completion.
    for text in (completion, completion.strip()):
        begin = full.find(text, _common_prefix(head, full))
        if text and begin >= 0:
            return head, full, begin, begin + len(text)
    raise DataError(
        f"row {example.id}: the model's chat template rewrites the completion, so its tokens can "
        "not be located. Store the completion as the template prints it."
    )


def _apply(
    tokenizer: Any,  # noqa: ANN401
    turns: list[dict[str, str]],
    example: Example,
    *,
    generation_prompt: bool,
) -> str:
    from jinja2.exceptions import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=generation_prompt
        )
    except TemplateError as error:
        raise DataError(
            f"row {example.id}: the model's chat template refuses the conversation ({error}). "
            "Roles must be ones it knows, usually user and assistant in turn."
        ) from error
    return str(text)


def _encode(tokenizer: Any, text: str, *, special: bool) -> tuple[NDArray[np.int32], Any]:  # noqa: ANN401
    if not tokenizer.is_fast:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__}: is a slow one without character offsets, which "
            "completion spans need. Use a model with a tokenizer.json."
        )
    encoded = tokenizer(
        text, add_special_tokens=special, return_offsets_mapping=True, verbose=False
    )
    return np.asarray(encoded["input_ids"], dtype=np.int32), encoded["offset_mapping"]


def _with_span(
    example: Example,
    tokenizer: Any,  # noqa: ANN401
    ids: NDArray[np.int32],
    offsets: Any,  # noqa: ANN401 - list of (int, int)
    begin: int,
    end: int,
) -> Rendered:
    # A token belongs to the completion when it covers any of its characters; BOS covers none.
    inside = [i for i, (left, right) in enumerate(offsets) if right > begin and left < end]
    if not inside:
        raise DataError(f"row {example.id}: the completion has no tokens. Expected some text.")
    start, stop = inside[0], inside[-1] + 1
    chat = example.prompt is not None
    specials = set(tokenizer.all_special_ids)
    closing = next((i for i in range(stop, len(ids)) if int(ids[i]) in specials), None)
    if closing is None and stop < len(ids) and chat:
        closing = stop
    if closing is not None:
        return Rendered(ids[: closing + 1], start, stop, closing, chat)
    if tokenizer.eos_token_id is None:
        return Rendered(ids[:stop], start, stop, None, chat)
    closed = np.append(ids[:stop], np.int32(tokenizer.eos_token_id)).astype(np.int32)
    return Rendered(closed, start, stop, stop, chat)


def _common_prefix(a: str, b: str) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
