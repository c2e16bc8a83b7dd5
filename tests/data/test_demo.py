"""The demo set holds what its README promises: only knowing the name decides the label."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

DEMO = files("probekit") / "data" / "demo"
CLASSES = ("real", "invented")
SIDES = ("chosen", "rejected")
VECTORS = [{"analyzer": "word"}, {"analyzer": "char_wb", "ngram_range": (2, 4)}]


def read(name):
    return [json.loads(line) for line in (DEMO / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def labels():
    return read("researchers.jsonl")


@pytest.fixture(scope="module")
def pairs():
    return read("researchers_pairs.jsonl")


def of_class(rows, name):
    return [row for row in rows if row["tags"]["class"] == name]


def slug(name):
    # NFKD does not take ø apart.
    plain = unicodedata.normalize("NFKD", name.replace("ø", "o").replace("Ø", "O"))
    ascii_name = plain.encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")


def name_of(row):
    """The shared stretch of the three texts whose slug is the row's group."""
    words = re.findall(r"\S+", row["prompt"])
    spans = (
        " ".join(words[i:j]).rstrip("?.,")
        for i in range(len(words))
        for j in range(i + 1, len(words) + 1)
    )
    return next(span for span in spans if slug(span) == row["group"])


def side(row, kind):
    """The row's claim or its hedge, whichever of the two sides holds it."""
    claim_is_chosen = row["tags"]["class"] == "real"
    return row["chosen" if (kind == "claim") == claim_is_chosen else "rejected"]


def mean_length(texts):
    return float(np.mean([len(text) for text in texts]))


def folds(rows, strata, seed):
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    return splitter.split(np.zeros(len(rows)), strata, [row["group"] for row in rows])


def test_counts_ids_and_keys(labels, pairs):
    for rows in (labels, pairs):
        assert len(rows) >= 400
        assert len({row["id"] for row in rows}) == len(rows)
        assert len(of_class(rows, "real")) == len(of_class(rows, "invented")) == len(rows) / 2
    for row in labels:
        assert set(row) == {"id", "prompt", "label", "group", "tags"}
        assert set(row["tags"]) == {"class", "field", "template"}
        assert row["label"] == row["tags"]["class"]
        assert row["id"].startswith(row["label"] + "-")
    for row in pairs:
        assert set(row) == {"id", "prompt", "chosen", "rejected", "group", "tags"}
        assert set(row["tags"]) == {"class", "field", "template", "hedge", "claim"}


def test_one_row_a_name_and_both_files_ask_the_same(labels, pairs):
    assert len({row["group"] for row in labels}) == len(labels)
    shared = [
        {(row["id"], row["prompt"], row["group"], row["tags"]["template"]) for row in rows}
        for rows in (labels, pairs)
    ]
    assert shared[0] == shared[1]


def test_group_is_the_name_and_every_text_holds_it_once(pairs):
    for row in pairs:
        name = name_of(row)
        for text in (row["prompt"], row["chosen"], row["rejected"]):
            assert text.count(name) == 1, (row["id"], text)


def test_no_invented_surname_is_a_real_one(labels):
    def surnames(name):
        words = [slug(word) for word in re.split(r"[\s-]+", name)]
        return set(words[1:]) - {"of", "de", "da", "von", "van", "al", "y", "la", "du"}

    real = set().union(*(surnames(name_of(row)) for row in of_class(labels, "real")))
    middle = {"christian", "friedrich", "wilhelm", "nath", "jay", "anta"}  # first names as well
    for row in of_class(labels, "invented"):
        assert not {w for w in surnames(name_of(row)) if len(w) > 1} & (real - middle), row["id"]


@pytest.mark.parametrize("tag", ["template", "hedge", "claim", "field"])
def test_wording_has_the_same_distribution_in_both_classes(pairs, tag):
    real, invented = (Counter(row["tags"][tag] for row in of_class(pairs, c)) for c in CLASSES)
    assert real == invented
    if tag != "field":
        assert len(set(real.values())) == 1
        assert len(real) >= 8


def test_pairs_are_inverted_by_class(pairs):
    # A hedge is told from a claim by its opening, which is fixed for each of the phrasings.
    openings = {}
    for row in pairs:
        hedge = side(row, "hedge").replace(name_of(row), "{X}")
        assert openings.setdefault(row["tags"]["hedge"], hedge) == hedge
        assert side(row, "claim").replace(name_of(row), "{X}") not in openings.values()
    assert len(set(openings.values())) == len(openings)


def test_lengths_tell_nothing(labels, pairs):
    real, invented = (mean_length(r["prompt"] for r in of_class(labels, c)) for c in CLASSES)
    assert real == pytest.approx(invented, rel=0.03)
    chosen, rejected = (mean_length(r[s] for r in pairs) for s in SIDES)
    assert chosen == pytest.approx(rejected, rel=0.03)
    for c in CLASSES:
        rows = of_class(pairs, c)
        claim, hedge = (mean_length(side(r, kind) for r in rows) for kind in ("claim", "hedge"))
        assert claim == pytest.approx(hedge, rel=0.03)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["analyzer"])
def test_surface_of_the_prompt_does_not_tell_the_label(labels, vector):
    # Folds are stratified by wording too: the wordings are counted out exactly, so an unstratified
    # held-out fold is anti-correlated with the rest and would read below one half.
    y = np.array([row["label"] == "real" for row in labels], dtype=int)
    text = np.array([row["prompt"] for row in labels])
    strata = [row["tags"]["template"] + row["label"] for row in labels]
    scores = np.zeros(len(labels))
    for train, test in folds(labels, strata, 0):
        tfidf = TfidfVectorizer(**vector)
        model = LogisticRegression(max_iter=1000).fit(tfidf.fit_transform(text[train]), y[train])
        scores[test] = model.decision_function(tfidf.transform(text[test]))
    # 416 rows: the standard error of an AUROC of one half is 0.03.
    assert 0.35 < roc_auc_score(y, scores) < 0.65


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["analyzer"])
def test_surface_of_the_answers_does_not_tell_the_chosen_side(pairs, vector):
    strata = [row["tags"]["class"] for row in pairs]
    right = []
    for train, test in folds(pairs, strata, 0):
        tfidf = TfidfVectorizer(**vector).fit([pairs[i][s] for i in train for s in SIDES])
        x = margins(tfidf, pairs, train)
        target = np.repeat([1, 0], len(train))
        model = LogisticRegression(fit_intercept=False, max_iter=1000)
        model.fit(sparse.vstack([x, -x]), target)
        right.extend(model.decision_function(margins(tfidf, pairs, test)) > 0)
    # Below one half is the counted-out wording again, not knowledge.
    assert 0.3 < np.mean(right) < 0.6


def margins(tfidf, pairs, index):
    chosen, rejected = (tfidf.transform([pairs[i][s] for i in index]) for s in SIDES)
    return chosen - rejected


# people and false_premises: a real subject and an invented twin stand in rows that follow each other.


@pytest.fixture(scope="module")
def people():
    return read("people.jsonl")


@pytest.fixture(scope="module")
def premises():
    return read("false_premises.jsonl")


@pytest.fixture(params=["people", "premises"])
def subjects(request):
    return request.getfixturevalue(request.param)


def twins(rows):
    return list(zip(rows[::2], rows[1::2], strict=True))


def wording(row):
    return row["prompt"].replace(row["tags"]["name"], "{X}")


def cross_validated_auroc(rows, vector):
    """AUROC of a surface classifier that never saw the held-out twins nor their second question."""
    y = np.array([row["label"] == "real" for row in rows], dtype=int)
    text = np.array([row["prompt"] for row in rows])
    pair = [row["id"].split("-")[1] for row in rows]
    scores = np.zeros(len(rows))
    for train, test in GroupKFold(5, shuffle=True, random_state=0).split(text, y, pair):
        tfidf = TfidfVectorizer(**vector)
        model = LogisticRegression(max_iter=1000).fit(tfidf.fit_transform(text[train]), y[train])
        scores[test] = model.decision_function(tfidf.transform(text[test]))
    return roc_auc_score(y, scores)


def test_people_asks_each_name_twice_in_two_halves(people):
    half = len(people) // 2
    assert len({row["id"] for row in people}) == len(people)
    for rows, letter in ((people[:half], "a"), (people[half:], "b")):
        assert [row["label"] for row in rows] == list(CLASSES) * (half // 2)
        assert len({row["group"] for row in rows}) == half
        numbers = {f"{n:03d}" for n in range(1, half // 2 + 1)}
        assert {row["id"] for row in rows} == {
            f"{c}-{n}-{letter}" for n in numbers for c in CLASSES
        }
        for real, invented in twins(rows):
            assert real["id"].removeprefix("real-") == invented["id"].removeprefix("invented-")
    for first, second in zip(people[:half], people[half:], strict=True):
        assert first["group"] == second["group"]
        assert first["tags"]["name"] == second["tags"]["name"]
        assert first["tags"]["template"] != second["tags"]["template"]
        assert first["id"].removesuffix("-a") == second["id"].removesuffix("-b")
    assert half // 2 == 640


def test_people_first_half_mixes_the_two_lots(people):
    """A limit that takes fewer names has the less and the very famous in the file's proportion."""
    very_famous = [int(row["id"].split("-")[1]) > 360 for row in people[: len(people) // 2]]
    for limit in (160, 320, 720, 1280):
        assert 0.35 < np.mean(very_famous[:limit]) < 0.55


def test_people_keys_and_slugs(people):
    for row in people:
        assert set(row) == {"id", "prompt", "label", "group", "tags"}
        assert set(row["tags"]) == {"class", "field", "template", "name"}
        assert row["label"] == row["tags"]["class"]
        assert row["group"] == slug(row["tags"]["name"])


def test_people_holds_the_researchers_and_other_walks_of_life(people, labels):
    label_of = {row["group"]: (row["label"], row["tags"]["field"]) for row in people}
    for row in labels:
        assert label_of[row["group"]] == (row["label"], row["tags"]["field"])
    new = {row["group"] for row in of_class(people, "real")} - {row["group"] for row in labels}
    assert len(new) == 432


def test_false_premises_pairs_and_topics(premises):
    assert len(premises) >= 200
    assert len({row["id"] for row in premises}) == len(premises)
    topics = Counter(row["tags"]["topic"] for row in premises)
    assert len(topics) >= 8
    assert max(topics.values()) - min(topics.values()) <= 4
    for row in premises:
        assert set(row) == {"id", "prompt", "label", "group", "tags"}
        assert set(row["tags"]) == {"class", "topic", "template", "name"}
        assert row["label"] == row["tags"]["class"]
    for real, invented in twins(premises):
        names = f"{real['tags']['name']} {invented['tags']['name']}"
        assert real["group"] == invented["group"] == slug(names)
        assert real["id"].removeprefix("real-") == invented["id"].removeprefix("invented-")
    assert len({row["group"] for row in premises}) == len(premises) / 2


def test_no_subject_is_in_both_classes_or_both_files(people, premises):
    slugs = [slug(row["tags"]["name"]) for row in premises]
    assert len(set(slugs)) == len(slugs)
    real, invented = ({row["group"] for row in of_class(people, c)} for c in CLASSES)
    assert not real & invented
    assert not (real | invented) & set(slugs)


def test_no_invented_surname_in_people_is_a_real_one(people):
    def surnames(row):
        words = re.split(r"[\s-]+", row["tags"]["name"])[1:]
        return {slug(word) for word in words if len(slug(word)) > 1}

    particles_and_titles = {"of", "de", "da", "von", "van", "al", "y", "the", "khan", "ii"}
    first_names = {"christian", "friedrich", "wilhelm", "nath", "jay", "anta", "jefferson"}
    second_halves = {"poe"}  # McLaren-Poe
    shared_on_purpose = particles_and_titles | first_names | second_halves
    real = set().union(*(surnames(row) for row in of_class(people, "real")))
    for row in of_class(people, "invented"):
        assert not surnames(row) & (real - shared_on_purpose), row["id"]


def test_twins_differ_in_the_name_alone(subjects):
    for real, invented in twins(subjects):
        kept = [
            {k: v for k, v in r["tags"].items() if k not in ("class", "name")}
            for r in (real, invented)
        ]
        assert (real["label"], invented["label"]) == CLASSES
        assert kept[0] == kept[1]
        assert real["prompt"].count(real["tags"]["name"]) == 1
        assert wording(real) == wording(invented)
        real_words, invented_words = (len(r["tags"]["name"].split()) for r in (real, invented))
        assert real_words == invented_words, real["id"]


def test_each_template_is_one_wording(subjects):
    wordings = {(row["tags"]["template"], wording(row)) for row in subjects}
    assert len(wordings) == len({t for t, _ in wordings}) == len({w for _, w in wordings})
    assert len(wordings) >= 8


def test_people_templates_are_counted_out(people):
    half = len(people) // 2
    for rows in (people[:half], people[half:]):
        assert len(set(Counter((r["tags"]["template"], r["label"]) for r in rows).values())) == 1


def test_people_wordings_say_nothing_of_the_person(people):
    words = {w for row in people for w in re.findall(r"\w+", wording(row).lower())}
    telling = "researcher scientist writer work wrote discovered invented real famous exist he she"
    assert not words & set(telling.split())


def test_length_does_not_tell_a_real_subject(subjects):
    real, invented = (mean_length(r["prompt"] for r in of_class(subjects, c)) for c in CLASSES)
    assert real == pytest.approx(invented, rel=0.03)
    lengths = [-len(row["prompt"]) for row in subjects]
    assert 0.45 < roc_auc_score([row["label"] == "real" for row in subjects], lengths) < 0.55


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["analyzer"])
def test_surface_does_not_tell_a_real_subject(subjects, vector):
    # Standard error of an AUROC of one half: 0.02 for 1,280 names, 0.04 for 220 things.
    bound = 0.58 if len(subjects) > 1000 else 0.62
    assert 0.4 < cross_validated_auroc(subjects, vector) < bound
