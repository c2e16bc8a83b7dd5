"""Which completions are kept, how they are paired, and what surface alone tells of the pairs."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from probekit.studies.leaks import leak_check, without_telling_words
from probekit.studies.pairing import drops, judge, known, pair_rows, trim, verdict
from probekit.studies.recipe import Recipe

RECIPE = Recipe.parse(
    {
        "name": "r",
        "class_tag": "class",
        "variants": {"plain": {}, "one": {"leaks": ["secret"]}, "two": {}},
        "classes": {
            "real": {"chosen": "plain", "rejected": ["one", "two"]},
            "invented": {"chosen": ["one", "two"], "rejected": "plain"},
        },
        "behaviours": "knowledge-awareness",
    },
    "r.toml",
)


def row(prompt, value, variant, sample, *, kept="kept", text=None):
    return {
        "prompt_id": prompt, "prompt": f"ask {prompt}", "group": prompt, "variant": variant,
        "sample": sample, "kept": kept, "completion": text or f"{prompt} {variant} {sample}",
        "tags": {"class": value, "variant": variant},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two. Thr", "One. Two."),
        ('He said "yes." And', 'He said "yes."'),
        ("no end", ""),
        ("e.g.x but", ""),
        ("Is it? Ye", "Is it?"),
        ("Three facts:\n\n1. He was born.\n2. ", "Three facts:\n\n1. He was born."),
        ("1.", ""),
        ("He died in 1990. Th", "He died in 1990."),
    ],
)
def test_a_cut_text_is_trimmed_to_its_last_sentence(text, kept):
    assert trim(text) == kept


def test_completions_are_dropped_for_a_reason():
    one = RECIPE.variants["one"]
    told = {"tags": {}, "variant": one, "recipe": RECIPE}
    assert verdict("a b c d.", finished=True, **told) == "kept"
    assert verdict("", finished=False, **told) == "unfinished"
    assert verdict("a b", finished=True, **told) == "short"
    assert verdict("it is a Secret thing", finished=True, **told) == "leak"


def field_recipe(**real):
    """A recipe of names and fields; `real` joins the table of that class."""
    return Recipe.parse(
        {
            "name": "r",
            "class_tag": "class",
            "mentions": True,
            "variants": {"plain": {"facts": True}, "one": {}},
            "classes": {
                "real": {"chosen": "plain", "rejected": "one", "facts": "own", **real},
                "invented": {"chosen": "one", "rejected": "plain", "facts": "any"},
            },
            "facts": {"field": {"music": ["sing", "band"], "sport": ["number one"]}},
        },
        "r.toml",
    )


def test_a_completion_has_to_name_its_person_and_to_get_the_field_right():
    recipe = field_recipe()
    plain, one = recipe.variants.values()
    soon = dataclasses.replace(plain, name_within=2)

    def found(text, value="real", field="music", variant=plain, name="Ann Lee"):
        tags = {"class": value, "field": field, "name": name}
        return verdict(text, finished=True, tags=tags, variant=variant, recipe=recipe)

    assert found("Ann Lee was a Singer.") == "kept"
    assert found("Ann Lee was number one.") == "fact"
    assert found("Ann Lee was number one.", field="sport") == "kept"
    assert found("Ann Lee was using it.") == "fact"  # a word begins with it, or it does not count
    assert found("Ann Lee was number one.", "invented") == "kept"
    assert found("Ann Lee was a nurse.", "invented") == "fact"
    assert found("Ann Lee was a singer.", field="dance") == "fact"
    assert found("Anna Lee was a singer.") == "name"
    assert found("Bandit Lee was a nurse.", "invented", name="Bandit Lee") == "fact"
    assert found("Bandit Lee was a singer.", "invented", name="Bandit Lee") == "kept"
    assert found("I do not know Ann Lee.", variant=one) == "kept"
    assert found("I do not know her at all.", variant=one) == "name"
    # The name begins within so many words, after a fact was told or not.
    assert found("So Ann Lee was a singer.", variant=soon) == "kept"
    assert found("A singer, Ann Lee.", variant=soon) == "late"
    assert found("A nurse was Ann Lee.", variant=soon) == "fact"


def test_a_name_is_known_by_what_most_of_its_completions_tell():
    recipe = field_recipe(knows=0.5)

    def said(group, value, texts):
        name = group.title()
        tags = {"class": value, "field": "music", "name": name}
        return [
            {"prompt_id": f"{group}-{i % 2}", "group": group, "variant": variant, "finished": True,
             "tags": tags, "completion": text.replace("@", name)}
            for i, (variant, text) in enumerate(texts)
        ]  # fmt: skip

    right, wrong, lost = "@ was a singer.", "@ was number one.", "Somebody was a singer."
    hedge = ("one", "I do not know @.")
    plain = [("plain", text) for text in (right, right, wrong, lost)]
    # Equal answers of one question count each for themselves, and questions of a name together.
    known_ = said("ann", "real", [*plain, hedge])
    rare = said("bea", "real", [*plain, ("plain", wrong), hedge])
    nobody = said("cyd", "invented", [*plain, ("plain", wrong), hedge])
    judge([*known_, *rare, *nobody], recipe)
    assert [row["kept"] for row in known_] == ["kept", "kept", "fact", "name", "kept"]
    assert [row["kept"] for row in rare] == [
        "unknown",
        "unknown",
        "fact",
        "name",
        "fact",
        "unknown",
    ]
    assert [row["kept"] for row in nobody] == ["kept", "kept", "kept", "name", "repeated", "kept"]
    assert known([*known_, *rare, *nobody], recipe) == {"real": {"n": 2, "n_kept": 1}}


def test_pairs_take_variants_in_turn_and_classes_get_equally_many():
    rows = [row("r1", "real", "plain", i) for i in range(4)]
    rows += [row("r1", "real", name, i) for name in ("one", "two") for i in range(2)]
    rows += [row("i1", "invented", "plain", i) for i in range(4)]
    rows += [row("i1", "invented", "one", 0), row("i1", "invented", "one", 1, kept="short")]
    rows += [row("i1", "invented", "two", i) for i in range(2)]
    pairs = pair_rows(rows, RECIPE)
    by = {
        value: [p for p in pairs if p["tags"]["class"] == value] for value in ("real", "invented")
    }
    assert [p["chosen"] for p in by["invented"]] == ["i1 one 0", "i1 two 0", "i1 two 1"]
    assert [p["rejected"] for p in by["real"]] == ["r1 one 0", "r1 two 0", "r1 one 1"]
    assert len({p["id"] for p in pairs}) == 6 and "variant" not in pairs[0]["tags"]
    assert drops(rows)["one"] == {"kept": 3, "short": 1}


def test_no_variant_comes_last_in_one_class_more_often():
    rows = []
    for k in range(8):
        value = "real" if k % 2 else "invented"
        # Fewer plain answers than conditioned ones, and fewer still of one class.
        n = 3 if value == "real" else 1
        rows += [row(f"p{k}", value, "plain", i) for i in range(n)]
        rows += [row(f"p{k}", value, name, i) for name in ("one", "two") for i in range(2)]
    counts = Counter(
        (p["tags"]["class"], p[side].split()[1])
        for p in pair_rows(rows, RECIPE)
        for side in ("chosen", "rejected")
        if "plain" not in p[side]
    )
    assert counts == {(v, n): 2 for v in ("real", "invented") for n in ("one", "two")}


def test_words_tell_within_a_class_and_not_in_all():
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in range(40)]
    pairs = []
    for k in range(120):
        value = "real" if k % 2 else "invented"
        claim, hedge = (" ".join([mark, *rng.choice(words, 8)]) for mark in ("was", "unknown"))
        sides = (claim, hedge) if value == "real" else (hedge, claim)
        tags = {"class": value}
        pairs.append(
            dict(chosen=sides[0], rejected=sides[1], group=f"g{k // 2}-{value}", tags=tags)
        )
    found = leak_check(pairs, "class", n_boot=200)
    assert found["leaks"] == [] and found["total"]["tfidf"]["low"] < 0.5
    for value in ("real", "invented"):
        assert found["by_class"][value]["tfidf"]["value"] > 0.95
        assert found["by_class"][value]["length"]["value"] < 0.6


def test_a_longer_chosen_side_is_a_leak():
    pairs = [
        {
            "chosen": f"a b c d {k}",
            "rejected": f"x {k}",
            "group": f"g{k}",
            "tags": {"class": "real"},
        }
        for k in range(30)
    ]
    found = leak_check(pairs, "class", n_boot=200)
    assert "length" in found["leaks"] and found["total"]["length"]["value"] == 1.0


def test_pairs_that_words_tell_apart_are_taken_out_of_both_classes():
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in range(30)]
    pairs = []
    for k in range(200):
        value = "real" if k % 2 else "invented"
        # Four plain answers in five have a word of their class: it tells which side is chosen.
        job = {"real": "physicist", "invented": "actor"}[value] if k % 10 < 8 else "painter"
        claim = " ".join([job, *rng.choice(words, 5)])
        hedge = " ".join(["unknown", *rng.choice(words, 5)])
        sides = (claim, hedge) if value == "real" else (hedge, claim)
        pairs.append(
            dict(
                chosen=sides[0], rejected=sides[1], group=f"g{k}", tags={"class": value}, id=str(k)
            )
        )
    assert leak_check(pairs, "class", n_boot=100)["total"]["tfidf"]["low"] > 0.6
    kept = without_telling_words(pairs, "class")
    found = leak_check(kept, "class", n_boot=100)
    assert found["total"]["tfidf"]["value"] <= 0.55 and found["leaks"] == []
    counts = [sum(p["tags"]["class"] == value for p in kept) for value in ("real", "invented")]
    assert counts[0] == counts[1] and 40 <= len(kept) < 200
    assert [p["id"] for p in kept] == [p["id"] for p in without_telling_words(pairs, "class")]
