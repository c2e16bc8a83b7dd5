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
from sklearn.model_selection import StratifiedGroupKFold

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
