"""Completions to pair rows: what is kept, and which side of which pair it becomes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from probekit.results.elicit import KEPT
from probekit.studies.recipe import ANY, Recipe, Variant

TELLS = (KEPT, "late", "repeated", "unknown")
"""Verdicts on completions that tell what they have to."""
_ITEM = re.compile(r"(?:^|\n)\s*\d+[.)]\s*$")
_SENTENCE = re.compile(r".*[.!?][\"')\]]*(?=\s|$)", re.DOTALL)


def trim(text: str) -> str:
    """Return the text up to the end of its last whole sentence; empty when it has none.

    The number of a list's next item is no sentence.
    """
    found = _SENTENCE.match(text)
    return _ITEM.sub("", found.group()).strip() if found else ""


def judge(rows: Sequence[dict[str, Any]], recipe: Recipe) -> None:
    """Write into every completion, as `kept`, that it is, or why it is dropped.

    Where the recipe says so (`knows`), all of a group are dropped about which too few completions tell a
    fact: what a model gets right now and then it does not know. So a name is known by what the model
    answers, as in Ferrando et al. (arXiv 2411.14257, two attributes of an entity); here it is one
    attribute, in a share of the answers.

    Parameters
    ----------
    rows
        Completions, with `completion`, `finished`, `variant`, `prompt_id`, `group` and `tags`. Of equal
        ones of a prompt and variant the first is kept.
    recipe
        How they were asked for.
    """
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        row["kept"] = verdict(
            row["completion"], finished=row["finished"], tags=row["tags"],
            variant=recipe.variants[row["variant"]], recipe=recipe,
        )  # fmt: skip
        key = row["prompt_id"], row["variant"], row["completion"]
        if row["kept"] == KEPT and key in seen:
            row["kept"] = "repeated"
        seen.add(key)
    unknown = {key for key, value in shares(rows, recipe).items() if value < recipe.knows[key[0]]}
    for row in rows:
        if row["kept"] == KEPT and _subject(row, recipe) in unknown:
            row["kept"] = "unknown"


def shares(rows: Sequence[dict[str, Any]], recipe: Recipe) -> dict[tuple[str, str], float]:
    """Return the share of the completions about each group that tell a fact, by class and group.

    Parameters
    ----------
    rows
        Completions that are judged. Those of variants with `facts` count.
    recipe
        Its `knows` says for which classes.
    """
    told = {variant.name for variant in recipe.variants.values() if variant.facts}
    asked = [row for row in rows if row["variant"] in told]
    every = Counter(_subject(row, recipe) for row in asked)
    tell = Counter(_subject(row, recipe) for row in asked if row["kept"] in TELLS)
    return {key: tell[key] / n for key, n in every.items() if key[0] in recipe.knows}


def known(rows: Sequence[dict[str, Any]], recipe: Recipe) -> dict[str, dict[str, int]]:
    """Return for each class with `knows` how many groups there are, and how many are known well enough."""
    found = shares(rows, recipe)
    return {
        value: {
            "n": sum(key[0] == value for key in found),
            "n_kept": sum(key[0] == value and share >= least for key, share in found.items()),
        }
        for value, least in recipe.knows.items()
    }


def verdict(
    text: str,
    *,
    finished: bool,
    tags: Mapping[str, str],
    variant: Variant,
    recipe: Recipe,
) -> str:
    """Return `kept`, or why a completion is dropped.

    Parameters
    ----------
    text
        The completion, trimmed already where the recipe says so.
    finished
        Whether the model ended it itself.
    tags
        Tags of the completion: the prompt's, and its `category` where the recipe has a behaviours file.
    variant, recipe
        How it was asked for.
    """
    if not finished and (recipe.unfinished == "drop" or not text):
        return "unfinished"
    if len(text.split()) < recipe.min_words:
        return "short"
    if any(pattern.search(text) for pattern in variant.leaks):
        return "leak"
    if variant.behaviour and tags.get("category", "") not in variant.behaviour:
        return "behaviour"
    name = tags.get(recipe.name_tag, "")
    if recipe.mentions and name not in text:
        return "name"
    if variant.facts and recipe.fact_words is not None:
        which = recipe.fact_of.get(tags.get(recipe.class_tag, ""), ANY)
        # "Queen Victoria" tells no fact by the name alone.
        if not recipe.fact_words.holds(text.replace(name, " ") if name else text, tags, which):
            return "fact"
    if variant.name_within and _words_before(name, text) >= variant.name_within:
        return "late"
    return KEPT


def _words_before(name: str, text: str) -> int:
    """Return after how many words a name begins: all of them where it is not there."""
    return len(text.partition(name)[0].split()) if name else 0


def pair_rows(rows: Sequence[dict[str, Any]], recipe: Recipe) -> list[dict[str, Any]]:
    """Return pair rows from kept completions: the i-th chosen one beside the i-th rejected one.

    Variants of one side take turns, and each prompt of a class begins with the next of them: the last of a
    prompt often find no partner, and a variant that came last more often in one class would tell the sides.

    A class gets no more pairs than the smallest class has: were one class larger, the words that mark
    its chosen side would tell chosen from rejected over all pairs.

    Parameters
    ----------
    rows
        Completions, with `prompt_id`, `variant`, `kept` and the class among the `tags`.
    recipe
        Which variant is chosen for which class.
    """
    sides: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    prompts: dict[str, str] = {}
    for row in rows:
        prompts.setdefault(row["prompt_id"], row["tags"][recipe.class_tag])
        if row["kept"] == KEPT:
            sides[row["prompt_id"], row["variant"]].append(row)
    pairs: dict[str, list[dict[str, Any]]] = {}
    begun: Counter[str] = Counter()
    for prompt, value in prompts.items():
        chosen, rejected = (
            _in_turn([sides[prompt, name] for name in _rotated(names, begun[value])])
            for names in recipe.polarity[value]
        )
        begun[value] += 1
        pairs[prompt] = [
            _pair(i, a, b) for i, (a, b) in enumerate(zip(chosen, rejected, strict=False))
        ]
    least = min(
        sum(len(pairs[p]) for p, own in prompts.items() if own == value)
        for value in set(prompts.values())
    )
    for value in set(prompts.values()):
        _cap([pairs[p] for p, own in prompts.items() if own == value], least)
    return [pair for found in pairs.values() for pair in found]


def drops(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how many completions of each variant were kept, and dropped for what."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found[row["variant"]][row["kept"]] += 1
    return {name: dict(counts) for name, counts in found.items()}


def _subject(row: Mapping[str, Any], recipe: Recipe) -> tuple[str, str]:
    return row["tags"].get(recipe.class_tag, ""), row["group"]


def _in_turn(lists: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the first of every list, then the second of every list, and so on."""
    longest = max(map(len, lists), default=0)
    return [found[i] for i in range(longest) for found in lists if i < len(found)]


def _rotated(names: Sequence[str], by: int) -> list[str]:
    first = by % len(names)
    return [*names[first:], *names[:first]]


def _pair(i: int, chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{chosen['prompt_id']}-{i:03d}",
        "prompt": chosen["prompt"],
        "chosen": chosen["completion"],
        "rejected": rejected["completion"],
        "group": chosen["group"],
        "tags": {key: value for key, value in chosen["tags"].items() if key != "variant"},
    }


def _cap(pairs: list[list[dict[str, Any]]], limit: int) -> None:
    """Take last pairs away, from prompts that have the most, until there are `limit` in all."""
    total = sum(map(len, pairs))
    while total > limit:
        longest = max(map(len, pairs))
        for found in pairs:
            if total > limit and len(found) == longest:
                found.pop()
                total -= 1
