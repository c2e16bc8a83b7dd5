"""How well a model knows a name before it is asked anything: the surprisal of its later words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.activations.gather import pad, plan_batches
from probekit.data.rows import Example, Message
from probekit.errors import DataError
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel
from probekit.models.new_tokens import NewTokens, logit_tokens

TAGS = ("name", "entity")
"""Tags that hold a name."""


class NameTable:
    """The names of a data set's rows, each with the prompt that it stands in once."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], int] = {}
        self._prompts: list[Example] = []
        self._row: list[int] = []

    def append(self, example: Example) -> None:
        """Add a row; one whose last turn (or raw text) does not hold its name has no surprisal."""
        name = next((example.tags[tag] for tag in TAGS if example.tags.get(tag)), "")
        place = -1
        if name and name in _content(example):
            key = (name, str(example.prompt or example.completion))
            if key not in self._places:
                self._places[key] = len(self._prompts)
                completion = None if example.prompt else example.completion
                own = dataclasses.replace(example, completion=completion, tags={TAGS[0]: name})
                self._prompts.append(own)
            place = self._places[key]
        self._row.append(place)

    def surprisals(self, loaded: LoadedModel, batch_tokens: int) -> NDArray[np.float64] | None:
        """Return −log p of every row's name, nats, shape (n,), NaN without one; None where none has."""
        if not self._prompts:
            return None
        logprobs = name_logprobs(loaded, self._prompts, TAGS[0], batch_tokens=batch_tokens)
        return -np.append(logprobs, np.nan)[self._row]


@torch.inference_mode()
def name_logprobs(
    loaded: LoadedModel, prompts: Sequence[Example], tag: str, *, batch_tokens: int = 4096
) -> NDArray[np.float64]:
    """Return log p(the name's words after its first | the prompt up to them), nats, shape (n,).

    A model that has read about Ludwig van Beethoven continues "Who is Ludwig" with " van Beethoven"; it
    continues no prompt with an invented surname. Nothing is generated and no probe is involved. Of a name
    of one word the whole name counts.

    Parameters
    ----------
    loaded
        The model.
    prompts
        Rows that end with their prompt, whose last turn contains the name, or raw texts that do.
    tag
        Tag that holds the name.
    batch_tokens
        Padded tokens of a batch: the bound on memory.

    Raises
    ------
    DataError
        When a prompt has no such tag, or its last turn does not hold the name.
    """
    cut = [_cut(prompt, tag, loaded) for prompt in prompts]
    rows, n_new = [row for row, _ in cut], [n for _, n in cut]
    logprobs = np.empty(len(rows))
    lengths = np.array([len(row.ids) for row in rows])
    for batch in plan_batches(lengths, logit_tokens(loaded, batch_tokens)):
        part, new = [rows[i] for i in batch], [n_new[i] for i in batch]
        ids, mask = pad(part, loaded.device)
        tokens = NewTokens(part, new, ids)
        each = tokens.logprobs(loaded.model, loaded.model, ids, mask).float().cpu()
        logprobs[batch] = [float(piece.sum()) for piece in torch.split(each, new)]
    return logprobs


def _cut(prompt: Example, tag: str, loaded: LoadedModel) -> tuple[Rendered, int]:
    """Return the prompt up to the end of its name, and how many tokens are the name's later words."""
    name, content = prompt.tags.get(tag, ""), _content(prompt)
    if not name or name not in content:
        raise DataError(
            f"prompt {prompt.id}: its last turn does not hold its {tag} {name!r}. Expected a tag {tag} "
            "with the words that the prompt uses."
        )
    before = content.split(name)[0]
    first = name.split()[0] if len(name.split()) > 1 else ""
    shorter, longer = (_ids(prompt, (before + words).rstrip(), loaded) for words in (first, name))
    # Of a text that begins with a name of one word, the first token cannot be predicted.
    start = max(1, _shared(shorter, longer))
    stop = len(longer) - _shared(shorter[start:][::-1], longer[start:][::-1])
    row = Rendered(longer[:stop], start, stop, None, has_prompt=True)
    return row, stop - start


def _content(row: Example) -> str:
    return row.prompt[-1].content if row.prompt else row.completion or ""


def _ids(prompt: Example, content: str, loaded: LoadedModel) -> NDArray[np.int32]:
    if not prompt.prompt:
        return render(dataclasses.replace(prompt, completion=content), loaded.tokenizer).ids
    turns = (*prompt.prompt[:-1], Message("user", content))
    return render(dataclasses.replace(prompt, prompt=turns), loaded.tokenizer).ids


def _shared(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Return how many first tokens two rows share."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n
