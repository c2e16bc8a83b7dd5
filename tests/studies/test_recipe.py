"""Recipes: what is read, and one line for what cannot be."""

from __future__ import annotations

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
    plain, one, two = recipe.variants
    assert recipe.polarity == {"a": (("plain",), ("one", "two")), "b": (("one", "two"), ("plain",))}
    assert (one.prefill, one.keep, one.behaviour) == ("I do not know", "not know", {"hedges"})
    assert [turn.role for turn in two.shots] == ["user", "assistant"]
    assert [recipe.samples_of(v) for v in (plain, one, two)] == [6, 3, 3]


def test_shipped_recipes_are_whole_and_turn_the_polarity_with_the_class():
    recipe = Recipe.load("knowledge-awareness")
    chosen, rejected = zip(*recipe.polarity.values(), strict=True)
    assert set(chosen[0]) == set(rejected[1]) and set(chosen[1]) == set(rejected[0])
    assert recipe.samples == 64


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('class_tag = "half"\n', "", "has no class_tag"),
        ("samples = 6", 'samples = "six"', "samples is 'six', expected int"),
        ("samples = 6", "sample = 6", "sample is unknown. Expected name"),
        ('chosen = "plain"', 'chosen = "plane"', "classes.a.chosen: 'plane' is no variant"),
        ('rejected = ["one", "two"]', 'rejected = "plain"', "'plain' is both chosen and rejected"),
        (
            'rejected = ["one", "two"]',
            "",
            "expected a table with chosen, rejected and perhaps familiar",
        ),
        ('keep = "not know"', 'keep = "I do"', "keep is not the end of prefill"),
        ('"I do not know"\n', '"I do not know "\nkeep_ = 1\n', "keep_ is unknown"),
        ("['\\bsystem\\b']", "['(']", "'(' is no pattern"),
        ('["hedges"]', '["dodges"]', "'dodges' is no category"),
        ("samples = 6", 'unfinished = "cut"', "unfinished is 'cut', expected trim"),
        ("samples = 6", "min_words = 0", "min_words is 0"),
        ("[{prompt", "[{question", "shots[0]: has no prompt"),
        ("samples = 6", "skip = {half = []}", "skip.half is [], expected a list of words"),
        ("samples = 6", "mentions = 1", "mentions is 1, expected bool"),
        ("[variants.plain]", "[variants.plain]\nfacts = true", "there is no table facts"),
        ('chosen = "plain"', 'chosen = "plain"\nfacts = "all"', "classes.a.facts is 'all'"),
        ('chosen = "plain"', 'chosen = "plain"\nfacts = 1', "is 1, expected one of own, any"),
        (
            "[variants.plain]",
            "[variants.plain]\nname_within = 0",
            "plain.name_within is 0, expected 1",
        ),
        ('chosen = "plain"', 'chosen = "plain"\nknows = 2', "knows is 2, expected a share above 0"),
        ('chosen = "plain"', 'chosen = "plain"\nknows = true', "knows is True, expected a number"),
        ('chosen = "plain"', 'chosen = "plain"\nknows = 0.5', "knows counts completions that tell"),
        ("[variants.plain]", "[facts.a]\nb = []\n[variants.plain]", "facts.a.b is [], expected a"),
        ("[variants.plain]", "[facts.a]\n[variants.plain]", "facts.a: expected a table of lists"),
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
