"""Pairs as tokens: what every other command reads of them, what TRL learns from, and how likely they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.activations.gather import pad
from probekit.data.open import Dataset
from probekit.data.rows import Example
from probekit.errors import DataError
from probekit.models.chat import Rendered, render
from probekit.models.load import LoadedModel
from probekit.models.new_tokens import NewTokens, logit_tokens
from probekit.models.prefix import SharedPrefix, plan_shared
from probekit.probes.splits import parts_by_group

SHOWN = 5
"""Rows that a message names."""
LONG, ALIKE = "prompt too long", "alike up to --max-tokens"
"""Why a pair is left out."""


class Pair(NamedTuple):
    """Both sides of a pair as rows of tokens, cut at the length limit."""

    example: Example
    """The chosen side as it was read."""
    chosen: Rendered
    rejected: Rendered
    cut: bool
    """Whether the limit cut either of them."""

    def to_trl(self) -> dict[str, list[int]]:
        """Return the pair as TRL's collator takes it, in token ids."""
        at = self.chosen.new
        ids = {"prompt": self.chosen.ids[:at]}
        ids |= {"chosen": self.chosen.ids[at:], "rejected": self.rejected.ids[at:]}
        return {f"{name}_ids": part.tolist() for name, part in ids.items()}


def check_pairs(dataset: Dataset) -> None:
    """Refuse rows that are no pairs, and pairs whose sides are the same text.

    Raises
    ------
    DataError
        With the remedy, or the first rows.
    """
    if dataset.kind != "pair":
        remedy = "Name columns with --chosen-field and --rejected-field."
        if dataset.kind == "rating":
            remedy = "Make pairs of them first: probekit data pairs."
        raise DataError(
            f"{dataset.source}: holds {dataset.kind} rows, expected pairs (chosen and rejected). {remedy}"
        )
    same = [(place, a.id) for place, (a, b) in _sides(dataset) if _text(a) == _text(b)]
    if same:
        names = ", ".join(name for _, name in same[:SHOWN])
        more = f" and {len(same) - SHOWN} more" if len(same) > SHOWN else ""
        raise DataError(
            f"{same[0][0]}: chosen and rejected are the same text, in row {names}{more}. Expected sides that "
            "differ; leave these rows out."
        )


def read_pairs(
    dataset: Dataset, loaded: LoadedModel, max_tokens: int
) -> tuple[list[Pair], dict[str, int]]:
    """Return pairs as token ids, and how many were left out, by reason.

    The ids are those of `render`: what `probekit cache` reads of the same rows. A row that is longer than
    `max_tokens` loses its end.

    Raises
    ------
    DataError, ModelError
        When a row cannot be rendered, has a token that the model lacks, or none is left.
    """
    pairs, left = [], Counter[str]()
    limit = min(max_tokens, loaded.max_length)
    for _, (one, other) in _sides(dataset):
        rows = [render(side, loaded.tokenizer) for side in (one, other)]
        for row, side in zip(rows, (one, other), strict=True):
            loaded.check_ids(row.ids, side.where)
        chosen, rejected = (_cut(row, limit) for row in rows)
        if max(chosen.new, rejected.new, 1) >= min(len(chosen.ids), len(rejected.ids)):
            left[LONG] += 1
        elif chosen.ids.tolist() == rejected.ids.tolist():
            left[ALIKE] += 1
        else:
            cut = max(len(row.ids) for row in rows) > limit
            pairs.append(Pair(one, chosen, rejected, cut))
    if not pairs:
        why = ", ".join(f"{n} {reason}" for reason, n in left.items())
        raise DataError(
            f"{dataset.source}: no pair is left within {limit} tokens ({why}). Raise --max-tokens."
        )
    return pairs, dict(left)


def split_pairs(pairs: Sequence[Pair], share: float, *, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Return pairs to train on and pairs that are held out; a group is wholly in one of them.

    Raises
    ------
    DataError
        When there are too few groups to hold any out.
    """
    groups = np.array([pair.example.group for pair in pairs])
    if (n := len(np.unique(groups))) < 2:  # noqa: PLR2004
        raise DataError(
            f"pairs: {n} group in all, expected two or more, so that some can be held out. Give rows "
            "distinct prompts or `group` fields."
        )
    part = parts_by_group(groups, (1 - share, share), seed=seed)
    train, held_out = ([p for p, k in zip(pairs, part, strict=True) if k == i] for i in (0, 1))
    return train, held_out


@torch.inference_mode()
def sequence_logprobs(
    loaded: LoadedModel, rows: Sequence[Rendered], *, batch_tokens: int = 4096
) -> NDArray[np.float64]:
    """Return the log-probability of every row's completion given its prompt, in nats, shape (n,).

    It is the sum over the tokens that the model writes itself: those of a header, the content, and the end
    of the turn. Of a text without a prompt the first token is given.

    Parameters
    ----------
    loaded
        The model.
    rows
        Prompt and completion as one row each, n of them.
    batch_tokens
        Padded tokens of a forward pass at most.
    """
    rows = [row if row.new else replace(row, start=row.start + 1) for row in rows]
    total = np.zeros(len(rows))
    for batch in plan_shared(rows, logit_tokens(loaded, batch_tokens), loaded.model):
        part = [rows[i] for i in batch]
        n_new = [len(row.ids) - row.new for row in part]
        shared = SharedPrefix(part, loaded.model)
        ids, mask = pad(shared.rows, loaded.device)
        tokens = NewTokens(shared.rows, n_new, ids)
        found = tokens.logprobs(loaded.model, loaded.model, ids, mask, **shared.inputs(mask))
        pieces = np.split(found.double().cpu().numpy(), np.cumsum(n_new)[:-1])
        total[batch] = [piece.sum() for piece in pieces]
    return total


def _sides(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    return ((place, unit) for place, unit in dataset.placed())


def _text(side: Example) -> str:
    return (side.completion or "").strip()


def _cut(row: Rendered, limit: int) -> Rendered:
    if len(row.ids) <= limit:
        return row
    return replace(row, ids=row.ids[:limit], stop=min(row.stop, limit), turn_end=None)
