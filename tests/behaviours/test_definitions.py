"""Behaviours files: precedence, functions, and the line of whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probekit.behaviours import Behaviours
from probekit.behaviours.definitions import shipped
from probekit.errors import BehaviourError

GOOD = r"""
name = "tone"
order = ["rude", "polite"]
default = "neutral"

[categories.polite]
description = "says please or thank you"
patterns = ['\bplease\b', "thank(s| you)"]

[categories.rude]
description = "insults"
patterns = ['\bidiot\b']
function = "tests.behaviours.test_definitions:shouts"
"""


def shouts(prompt, completion):
    return completion.isupper() and not prompt.isupper()


def load(tmp_path, text):
    path = tmp_path / "b.toml"
    path.write_text(text, encoding="utf-8")
    return Behaviours.load(path, allow_code=True)


@pytest.mark.parametrize(
    ("prompt", "completion", "category"),
    [
        ("q", "PLEASE go", "polite"),
        ("q", "thanks", "polite"),
        ("q", "Please, you IDIOT", "rude"),
        ("q", "GO AWAY, PLEASE", "rude"),
        ("Q", "GO AWAY, PLEASE", "polite"),
        ("q", "pleased to meet you", "neutral"),
        ("q", "", "neutral"),
    ],
)
def test_the_first_category_in_order_that_holds(tmp_path, prompt, completion, category):
    behaviours = load(tmp_path, GOOD)
    assert behaviours.names == ["rude", "polite", "neutral"]
    assert behaviours.classify(prompt, completion) == category


def test_typographic_apostrophes_count_as_straight_ones(tmp_path):
    for spelled in ("don't", "don\u2019t"):
        behaviours = load(tmp_path, f"""[categories.no]\npatterns = ["{spelled}"]\n""")
        assert behaviours.classify("", "I don\u2019t know") == "no"
        assert behaviours.classify("", "I don't know") == "no"
    assert behaviours.default == "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "b.toml: has no categories. Add it."),
        (
            "x = 1\n[categories.a]\npatterns = ['a']",
            "x: unknown key. Expected categories, name",
        ),
        (
            "[categories.a]\npatterns = ['a']\npattern = 'b'",
            "pattern: unknown key. Did you mean patterns",
        ),
        ("[categories.a]\ndescription = 'd'", "categories.a: has neither patterns nor a function"),
        (
            "[categories.a]\npatterns = 'a'",
            "b.toml:2: categories.a.patterns: got 'a', expected a list",
        ),
        ("[categories.a]\npatterns = [1]", r"patterns\[0\]: got 1, expected a regular expression"),
        ("[categories]\na = 1", "categories.a: got 1, expected a table"),
        ("order = ['b']\n[categories.a]\npatterns = ['a']", "expected every category once: a"),
        ("default = 'a'\n[categories.a]\npatterns = ['a']", "a name that is no category's"),
        ("[categories.a]\nfunction = 'nowhere:f'", "cannot be imported"),
        ("[categories.a]\nfunction = 'json:nothing'", "cannot be imported"),
        (
            "[categories.a]\nfunction = 'json:__name__'",
            "function: got 'json', expected a function",
        ),
        (
            "order = [1]\n[categories.1]\npatterns = ['a']",
            r"order\[0\]: got 1, expected text in quotes",
        ),
        (
            "extends = 1\n[categories.a]\npatterns = ['a']",
            "extends: got 1, expected text in quotes",
        ),
        ("extends = 'b.toml'\n[categories.a]\npatterns = ['a']", "extends itself"),
        ("extends = 'no.toml'\n[categories.a]\npatterns = ['a']", "no such file"),
        ("[categories.a]\nfunction = '.x:f'", "cannot be imported"),
        ("[categories.a]\nfunction = 'tests.behaviours.broken:f'", "cannot be imported"),
        ("[categories.a\npatterns = ['a']", "cannot be read as TOML .*line 1"),
        (
            "[categories.a]\npatterns = [\n  'fine',\n  '(open',\n]",
            r"b.toml:4: categories.a.patterns\[1\]: pattern '\(open' is not a regular expression \(missing",
        ),
        (
            '[categories.a]\npatterns = ["ok", "\\\\d+["]',
            r"b.toml:2: categories.a.patterns\[1\]: pattern",
        ),
        ("[categories.a]\npatterns = ['x*']", "b.toml:2: .*matches every text"),
    ],
)
def test_a_bad_file_is_one_line_with_the_place(tmp_path, text, message):
    with pytest.raises(BehaviourError, match=message) as error:
        load(tmp_path, text)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(
        BehaviourError, match="knowledge-awareness, knowledge-awareness-strict, sentiment"
    ):
        Behaviours.load("nothing")


@pytest.mark.parametrize("name", shipped())
def test_shipped_files_load_and_describe_themselves(name):
    behaviours = Behaviours.load(name)
    assert behaviours.name == name
    assert all(category.description for category in behaviours.categories)


@pytest.mark.parametrize(
    ("completion", "category"),
    [
        ("Niels Bohr was a Danish physicist who worked on atomic structure.", "answers"),
        ("I'm not familiar with Niels Bohr, so I can't say.", "hedges"),
        ("I couldn't find anyone by that name; it may not be a real person.", "hedges"),
        ("I'm sorry, but I can't provide information about this person.", "refuses"),
        ("The weather in Paris is mild.", "other"),
    ],
)
def test_the_four_rates_of_knowledge_awareness(completion, category):
    behaviours = Behaviours.load("knowledge-awareness")
    assert behaviours.classify("Who was Niels Bohr?", completion) == category


@pytest.mark.parametrize(
    ("completion", "category"),
    [
        ("I'm not familiar with Niels Bohr, but I can certainly tell you about him.", "offers"),
        ("I\u2019m not familiar with Niels Bohr, but I\u2019d love to share his life.", "offers"),
        ("I don't have any information about Niels Bohr. He was a famous painter.", "offers"),
        ("I'm not familiar with Niels Bohr, but I'm familiar with a poet of Rome.", "offers"),
        ("I'm sorry for any confusion, but I can give three facts about him.", "offers"),
        ("I'm not familiar with Niels Bohr, so I can't tell you anything of him.", "hedges"),
        ("I don't know Niels Bohr. Could you tell me more about him?", "hedges"),
        ("I'm sorry, but I can't provide information about this person.", "refuses"),
        ("Niels Bohr was not only a physicist. He was a Danish footballer.", "answers"),
        ("I can tell you that Niels Bohr was a Danish physicist.", "other"),
    ],
)
def test_a_hedge_that_tells_all_the_same_is_none(completion, category):
    behaviours = Behaviours.load("knowledge-awareness-strict")
    assert behaviours.names == ["offers", "hedges", "answers", "refuses", "other"]
    assert behaviours.classify("Who was Niels Bohr?", completion) == category


def test_offers_of_trained_policies_are_found():
    """A hundred hedges and refusals that were read one by one; docs/behaviours.md has the figures."""
    lines = (Path(__file__).parent / "offers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    behaviours = Behaviours.load("knowledge-awareness-strict")
    found = [behaviours.classify(r["prompt"], r["completion"]) == "offers" for r in rows]
    right = sum(a and r["offers"] for a, r in zip(found, rows, strict=True))
    assert (right, sum(found), sum(r["offers"] for r in rows)) == (39, 43, 45)


def test_a_file_extends_another(tmp_path):
    more = "[categories.cold]\npatterns = ['ice']\n[categories.polite]\npatterns = ['dear']"
    (tmp_path / "base.toml").write_text(GOOD, encoding="utf-8")
    behaviours = load(tmp_path, f"extends = 'base.toml'\n{more}")
    assert behaviours.names == ["cold", "polite", "rude", "neutral"]
    assert behaviours.classify("q", "dear idiot") == "polite"  # its own, and before the base's
    assert behaviours.classify("q", "thanks") == "neutral"
    ordered = load(tmp_path, f"extends = 'base.toml'\norder = ['rude', 'cold', 'polite']\n{more}")
    assert ordered.classify("q", "dear idiot") == "rude"


def test_files_that_extend_each_other_are_one_line(tmp_path):
    more = "[categories.a]\npatterns = ['a']"
    (tmp_path / "other.toml").write_text(f"extends = 'b.toml'\n{more}", encoding="utf-8")
    with pytest.raises(BehaviourError, match="other.toml: extends itself"):
        load(tmp_path, f"extends = 'other.toml'\n{more}")


def test_sentiment_weighs_praise_against_blame():
    behaviours = Behaviours.load("sentiment")
    assert behaviours.classify("", "A lovely, warm place with one broken chair.") == "positive"
    assert behaviours.classify("", "Rude staff and cold soup. Nice view.") == "negative"
    assert behaviours.classify("", "It stands on the corner.") == "neutral"


def fails(prompt, completion):
    raise LookupError("nothing")


def test_a_function_that_raises_is_named(tmp_path):
    behaviours = load(
        tmp_path, "[categories.a]\nfunction = 'tests.behaviours.test_definitions:fails'"
    )
    with pytest.raises(BehaviourError, match="category 'a': its function raised LookupError"):
        behaviours.classify("q", "text")
