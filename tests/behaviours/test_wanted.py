"""What is hoped for, everywhere or by class."""

from __future__ import annotations

import pytest

from probekit.behaviours import Behaviours, Wanted
from probekit.errors import BehaviourError

KNOWLEDGE = Behaviours.load("knowledge-awareness")


def test_one_rule_holds_for_every_prompt():
    wanted = Wanted.parse(["hedges,refuses"], KNOWLEDGE)
    assert wanted.holds("hedges", {}) and wanted.holds("refuses", {"class": "real"})
    assert wanted.holds("answers", {}) is False
    assert str(wanted) == "hedges or refuses"


def test_rules_by_class_leave_other_prompts_open():
    wanted = Wanted.parse(["class=invented:hedges, refuses", "class=real:answers"], KNOWLEDGE)
    assert wanted.holds("hedges", {"class": "invented"}) is True
    assert wanted.holds("hedges", {"class": "real"}) is False
    assert wanted.holds("answers", {"class": "real"}) is True
    assert wanted.holds("answers", {"class": "animal"}) is None
    assert str(wanted) == "class=invented: hedges or refuses; class=real: answers"


def test_rules_of_one_class_add_up_and_go_before_a_rule_for_all():
    wanted = Wanted.parse(
        ["answers", "class=invented:hedges", "refuses", "class=invented:refuses"], KNOWLEDGE
    )
    assert wanted.holds("refuses", {"class": "real"}) and wanted.holds("answers", {})
    assert wanted.holds("refuses", {"class": "invented"})
    assert wanted.holds("answers", {"class": "invented"}) is False


def test_nothing_is_wanted_when_nothing_is_named():
    assert Wanted.parse([], KNOWLEDGE) is None


@pytest.mark.parametrize(
    ("spec", "behaviours", "message"),
    [
        ("lies", KNOWLEDGE, "behaviour 'lies': is no category. Expected hedges"),
        ("hedges", None, "none, without a behaviours file"),
        ("class:hedges", KNOWLEDGE, "expected NAME"),
        ("=real:hedges", KNOWLEDGE, "expected NAME"),
        ("", KNOWLEDGE, "is no category"),
        ("class=real:", KNOWLEDGE, "is no category"),
    ],
)
def test_what_cannot_be_read_is_refused(spec, behaviours, message):
    with pytest.raises(BehaviourError, match=message):
        Wanted.parse([spec], behaviours)
