"""Ratings as pairs: of every prompt the best completion against the worst."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from probekit.container import write_jsonl
from probekit.data.open import Dataset
from probekit.data.rows import Example, Message
from probekit.errors import DataError
from probekit.outputs import claim
from probekit.provenance import run_record

Asked = tuple[str, tuple[Message, ...] | None]


class PairsMade(NamedTuple):
    """Pairs, and how many prompts had none."""

    rows: list[dict[str, Any]]
    """In probekit's own fields, in the order in which their prompts first came."""
    n_prompts: int
    without: dict[str, int]
    """Prompts without a pair, by reason."""


def pairs_of_ratings(
    dataset: Dataset, *, min_gap: float = 0.0, left_out: Collection[str] = ()
) -> PairsMade:
    """Return a pair a prompt: its best-rated completion as chosen, its worst-rated one as rejected.

    Of equally rated completions the first in the file counts. A pair keeps its group, and the tags that its
    two rows share. Texts without a prompt are paired within their group.

    Parameters
    ----------
    dataset
        Ratings, as `read_rows` gives them.
    min_gap
        Least difference of the two ratings; ties never make a pair.
    left_out
        Groups that give no pair.

    Raises
    ------
    DataError
        When rows are no ratings, or no prompt has a pair.

    Examples
    --------
    >>> from probekit.data import open_dataset, pairs_of_ratings
    >>> rated = [("Hi", "Hello!", 5), ("Hi", "What?", 1), ("Hi", "Yes", 3), ("Bye", "See you", 4)]
    >>> rows = [{"prompt": p, "completion": c, "score": s} for p, c, s in rated]
    >>> made = pairs_of_ratings(open_dataset(rows))
    >>> [(row["chosen"], row["rejected"]) for row in made.rows], made.without
    ([('Hello!', 'What?')], {'one completion': 1})
    """
    if dataset.kind != "rating":
        raise DataError(
            f"{dataset.source}: holds {dataset.kind} rows, expected ratings: a score for every completion. "
            "Name its column with --score-field."
        )
    if not 0 <= min_gap < float("inf"):
        raise DataError(f"min_gap: got {min_gap:g}, expected a finite number, 0 or more.")
    found: dict[Asked, tuple[Example, Example, int]] = {}
    for row in dataset.examples():
        asked = (row.group, row.prompt)
        best, worst, n = found.get(asked, (row, row, 0))
        best = row if _score(row) > _score(best) else best
        worst = row if _score(row) < _score(worst) else worst
        found[asked] = (best, worst, n + 1)
    rows: list[dict[str, Any]] = []
    without: dict[str, int] = {}
    for best, worst, n in found.values():
        gap = _score(best) - _score(worst)
        if best.group in left_out:
            reason = "in a group that is left out"
        elif n == 1:
            reason = "one completion"
        elif gap == 0:
            reason = "all rated alike"
        elif gap < min_gap:
            reason = f"closer than {min_gap:g}"
        elif _text(best) == _text(worst):
            reason = "best and worst are the same text"
        else:
            rows.append(_row(best, worst, len(rows) + 1))
            continue
        without[reason] = without.get(reason, 0) + 1
    if not rows:
        why = ", ".join(f"{n} with {reason}" for reason, n in without.items())
        raise DataError(
            f"{dataset.source}: no prompt has a pair ({why}). Expected several completions of a prompt with "
            "different ratings."
        )
    return PairsMade(rows, len(found), without)


def write_pairs(
    dataset: Dataset,
    out: str | Path,
    *,
    min_gap: float = 0.0,
    left_out: Collection[str] = (),
    force: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> PairsMade:
    """Write `pairs_of_ratings` to a `.jsonl` file, with its run record.

    Parameters
    ----------
    dataset, min_gap, left_out
        See `pairs_of_ratings`.
    out, force
        The file; replace it when it is there.
    arguments
        For the run record.
    """
    with claim(out, "data pairs", force=force, inputs=[dataset.source]) as path:
        made = pairs_of_ratings(dataset, min_gap=min_gap, left_out=left_out)
        record = {
            **run_record("data pairs", dict(arguments or {})),
            "data": dataset.fingerprint,
            "min_gap": min_gap,
            "n_pairs": len(made.rows),
            "n_prompts": made.n_prompts,
            "without": made.without,
        }
        write_jsonl(path, made.rows, replace=force, record=record)
    return made


def _row(best: Example, worst: Example, number: int) -> dict[str, Any]:
    prompt = [{"role": turn.role, "content": turn.content} for turn in best.prompt or ()]
    return {
        "id": f"pair-{number:06d}",
        **({"prompt": prompt} if prompt else {}),
        "chosen": best.completion,
        "rejected": worst.completion,
        "group": best.group,
        "tags": {name: value for name, value in best.tags.items() if worst.tags.get(name) == value},
    }


def _score(row: Example) -> float:
    assert row.score is not None
    return row.score


def _text(row: Example) -> str:
    return (row.completion or "").strip()
