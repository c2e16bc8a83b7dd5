"""Recipes: what is read, and one line for what cannot be."""

from __future__ import annotations

import hashlib
import json
import tomllib

import pytest

from probekit.errors import DataError
from probekit.studies import Recipe

GOOD = """
name = "letters"
class_tag = "half"
samples = 6
behaviours = "knowledge-awareness"

[variants.plain]

[variants.one]
prefill = "I do not know"
keep = "not know"
behaviour = ["hedges"]

[variants.two]
system = "Say that you do not know."
shots = [{prompt = "Who?", completion = "I do not know."}]
leaks = ['\\bsystem\\b']

[classes.a]
chosen = "plain"
rejected = ["one", "two"]

[classes.b]
chosen = ["one", "two"]
rejected = "plain"
"""


def parse(text):
    return Recipe.parse(tomllib.loads(text), "recipe.toml")


def test_a_recipe_is_read_with_its_variants_and_polarity():
    recipe = parse(GOOD)
    plain, one, two = recipe.variants.values()
    assert recipe.polarity == {"a": (("plain",), ("one", "two")), "b": (("one", "two"), ("plain",))}
    assert (one.prefill, one.keep, one.behaviour) == ("I do not know", "not know", {"hedges"})
    assert [turn.role for turn in two.turns] == ["user", "assistant"]
    assert [recipe.samples_of(v) for v in (plain, one, two)] == [6, 3, 3]


def test_what_decides_the_completions_is_described_and_does_not_change():
    recipe = Recipe.load("knowledge-awareness")
    before = json.dumps(recipe.describe(), sort_keys=True)
    assert recipe.fact_words.tag in recipe.facts and recipe.fact_words is recipe.fact_words
    assert json.dumps(recipe.describe(), sort_keys=True) == before
    # An interrupted run is continued where the digest is the same. This one was taken before the recipe was
    # a pydantic model; behaviours are left out, as their functions' source counts.
    plain = json.dumps({**recipe.describe(), "behaviours": None}, sort_keys=True)
    assert hashlib.sha256(plain.encode()).hexdigest()[:16] == "e8c11e8af85444e1"
    one = parse(GOOD).describe()["variants"][1]
    assert (one["prefill"], one["behaviour"], one["name_within"]) == (
        "I do not know",
        ["hedges"],
        0,
    )


def test_shipped_recipes_are_whole_and_turn_the_polarity_with_the_class():
    recipe = Recipe.load("knowledge-awareness")
    chosen, rejected = zip(*recipe.polarity.values(), strict=True)
    assert set(chosen[0]) == set(rejected[1]) and set(chosen[1]) == set(rejected[0])
    assert recipe.samples == 64


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('class_tag = "half"\n', "", "recipe.toml: has no class_tag. Add it."),
        ("samples = 6", 'samples = "six"', "samples: got 'six', expected a whole number"),
        ("samples = 6", "sample = 6", "sample: unknown key. Did you mean samples?"),
        ('chosen = "plain"', 'chosen = "plane"', "classes.a.chosen: 'plane' is no variant"),
        ('rejected = ["one", "two"]', 'rejected = "plain"', "'plain' is both chosen and rejected"),
        (
            'rejected = ["one", "two"]',
            "",
            "classes.a: has no rejected. Add it.",
        ),
        ('keep = "not know"', 'keep = "I do"', "variants.one: keep is not the end of prefill"),
        (
            '"I do not know"\n',
            '"I do not know "\nkeep_ = 1\n',
            "keep_: unknown key. Did you mean keep?",
        ),
        (
            "['\\bsystem\\b']",
            "['(']",
            "variants.two.leaks[0]: pattern '(' is not a regular expression",
        ),
        ('["hedges"]', '["dodges"]', "variants.one.behaviour: 'dodges' is no category"),
        ("samples = 6", 'unfinished = "cut"', "unfinished: got 'cut', expected trim, keep or drop"),
        ("samples = 6", "min_words = 0", "min_words: got 0, expected 1 or more"),
        (
            "[{prompt",
            "[{question",
            "two.shots[0]: question: unknown key. Expected prompt",
        ),
        ("samples = 6", "skip = {half = []}", "skip.half: got [], expected at least 1 value"),
        ("samples = 6", "skip = {half = ['']}", "skip.half[0]: got '', expected a word"),
        ("samples = 6", "skip = 3", "skip: got 3, expected a table"),
        ("samples = 6", "temperature = true", "temperature: got True, expected a number"),
        ('"knowledge-awareness"', "3", "behaviours: got 3, expected a name in quotes"),
        ("[variants.plain]", "[variants.plain]\nname = 'x'", "plain: name is an unknown key"),
        ("samples = 6", "mentions = 1", "mentions: got 1, expected true or false"),
        ("[variants.plain]", "[variants.plain]\nfacts = true", "there is no table facts"),
        (
            'chosen = "plain"',
            'chosen = "plain"\nfacts = "all"',
            "a.facts: got 'all', expected own or any",
        ),
        (
            'chosen = "plain"',
            'chosen = "plain"\nfacts = 1',
            "classes.a.facts: got 1, expected own or any",
        ),
        (
            "[variants.plain]",
            "[variants.plain]\nname_within = 0",
            "variants.plain.name_within: got 0, expected 1 or more",
        ),
        (
            'chosen = "plain"',
            'chosen = "plain"\nknows = 2',
            "classes.a.knows: got 2, expected 1 or less",
        ),
        (
            'chosen = "plain"',
            'chosen = "plain"\nknows = true',
            "a.knows: got True, expected a number",
        ),
        ('chosen = "plain"', 'chosen = "plain"\nknows = 0.5', "knows counts completions that tell"),
        (
            "[variants.plain]",
            "[facts.a]\nb = []\n[variants.plain]",
            "facts.a.b: got [], expected at least 1",
        ),
        (
            "[variants.plain]",
            "[facts.a]\n[variants.plain]",
            "facts.a: got {}, expected at least 1 value",
        ),
        (
            "[variants.plain]",
            "[facts.a]\nb = ['c']\n[facts.d]\ne = ['f']\n[variants.plain]",
            "facts: names 2 tags (a, d), expected one",
        ),
    ],
)
def test_a_malformed_recipe_is_one_line(old, new, message):
    assert old in GOOD
    with pytest.raises(DataError) as caught:
        parse(GOOD.replace(old, new, 1))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_prefill_that_ends_with_a_space_is_refused():
    with pytest.raises(DataError, match="ends with a space"):
        parse(GOOD.replace('prefill = "I do not know"\nkeep = "not know"', 'prefill = "I do "'))


def test_an_unknown_name_lists_what_ships(tmp_path):
    with pytest.raises(DataError, match="knowledge-awareness"):
        Recipe.load("nothing")
    (tmp_path / "r.toml").write_text("name = ")
    with pytest.raises(DataError, match="cannot be read as TOML"):
        Recipe.load(tmp_path / "r.toml")


@pytest.mark.parametrize("source", ["n" * 300, "a\0b", "~nobody-of-this-name/r"])
def test_a_name_that_no_file_can_have_is_one_line(source):
    with pytest.raises(DataError, match="no such recipe file, and none that ships"):
        Recipe.load(source)
