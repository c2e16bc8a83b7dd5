"""How well a model knows a name before it is asked anything: the surprisal of its later words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.activations.gather import pad, plan_batches
from probekit.data.rows import Example, Message
from probekit.errors import DataError
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel
from probekit.models.new_tokens import NewTokens, logit_tokens


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
        Rows that end with their prompt, whose last turn contains the name.
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


def familiar(
    prompts: Sequence[Example],
    logprobs: NDArray[np.float64],
    class_tag: str,
    lowest: Mapping[str, float],
) -> list[Example]:
    """Return prompts whose name is known well enough, equally many of each class, in their order.

    Parameters
    ----------
    prompts
        Rows that end with their prompt.
    logprobs
        `name_logprobs` of the prompts, shape (n,).
    class_tag
        Tag that holds a prompt's class.
    lowest
        Class to the least log-probability of its names; other classes have no limit.

    Raises
    ------
    DataError
        When a class has none left.
    """
    by_class: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        own = by_class.setdefault(prompt.tags[class_tag], [])
        if logprobs[i] >= lowest.get(prompt.tags[class_tag], -np.inf):
            own.append(i)
    for value, members in by_class.items():
        if not members:
            raise DataError(
                f"classes.{value}.familiar is {lowest[value]}: the model knows none of its names so well. "
                "Use a lower number, or prompts with better known names."
            )
    least = min(map(len, by_class.values()))
    return [prompts[i] for i in sorted(i for own in by_class.values() for i in own[:least])]


def summary(
    prompts: Sequence[Example],
    logprobs: NDArray[np.float64],
    class_tag: str,
    kept: Sequence[Example],
) -> dict[str, Any]:
    """Return how many prompts of each class were kept, and the median log-probability of their names."""
    chosen = {prompt.id for prompt in kept}
    by_class: dict[str, Any] = {}
    for value in sorted({prompt.tags[class_tag] for prompt in prompts}):
        own = [i for i, prompt in enumerate(prompts) if prompt.tags[class_tag] == value]
        by_class[value] = {
            "n": len(own),
            "n_kept": sum(prompts[i].id in chosen for i in own),
            "median_logprob": float(np.median(logprobs[own])),
            "median_logprob_kept": float(
                np.median([logprobs[i] for i in own if prompts[i].id in chosen])
            ),
        }
    return by_class


def _cut(prompt: Example, tag: str, loaded: LoadedModel) -> tuple[Rendered, int]:
    """Return the prompt up to the end of its name, and how many tokens are the name's later words."""
    name = prompt.tags.get(tag, "")
    turns = prompt.prompt or ()
    if not name or not turns or name not in turns[-1].content:
        raise DataError(
            f"prompt {prompt.id}: its last turn does not hold its {tag} {name!r}. Expected a tag {tag} "
            "with the words that the prompt uses."
        )
    before = turns[-1].content.split(name)[0]
    first = name.split()[0] if len(name.split()) > 1 else ""
    shorter, longer = (_ids(prompt, (before + words).rstrip(), loaded) for words in (first, name))
    start = _shared(shorter, longer)
    stop = len(longer) - _shared(shorter[start:][::-1], longer[start:][::-1])
    row = Rendered(longer[:stop], start, stop, None, has_prompt=True)
    return row, stop - start


def _ids(prompt: Example, content: str, loaded: LoadedModel) -> NDArray[np.int32]:
    turns = (*(prompt.prompt or ())[:-1], Message("user", content))
    return render(dataclasses.replace(prompt, prompt=turns), loaded.tokenizer).ids


def _shared(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Return how many first tokens two rows share."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n
