"""What a probe must beat: length, words, a random direction, shuffled labels, the embedding."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.probes.heads import HeadFitter
from probekit.probes.metrics import auroc, pearson, wins
from probekit.probes.splits import Index, fold_by_group
from probekit.probes.task import Task
from probekit.results.intervals import Array, Interval, Metrics, Resampler

N_DIRECTIONS = 50
N_SHUFFLES = 19
"""Heads on shuffled targets of the chosen cell; `steer` takes their directions as controls."""
TERMS = 20_000
"""Most terms of a text control, the most frequent ones."""
RANK = 400
"""Most dimensions that the terms of a text control are brought down to."""
CHARACTERS = 400
"""Characters of each text that the control on character n-grams reads, from its start."""
N_KNOTS, KNOT_PENALTY = 40, 0.2
"""Lengths at which a score may step or bend with length, and the ridge penalty on doing so."""
TOLERANCE, FEWEST_RESTS = 0.1, 0.2
"""A rest smaller than this many standard deviations of the score is none; where fewer than a fifth of
the rows have one, the score is length."""


def length_scores(fitter: HeadFitter) -> Array:
    """Return scores from completion length alone (tokens and log tokens), shape (n_examples,)."""
    return fitter.scores(fitter.task.length_features())


def surprisal_scores(fitter: HeadFitter) -> Array | None:
    """Return scores from the surprisal of each row's name and its square, shape (n_examples,).

    None where no row has a name, and for pairs, whose sides share it.
    """
    surprisal = fitter.task.examples.surprisal
    if surprisal is None or fitter.task.kind == "pair" or not np.isfinite(surprisal).any():
        return None
    mean = np.nanmean(surprisal[fitter.task.example_rows(fitter.task.splits.fit)])
    known = np.where(np.isfinite(surprisal), surprisal, mean)
    return fitter.scores(np.column_stack([known, known**2]))


def text_scores(fitter: HeadFitter, only: Sequence[str] = ()) -> dict[str, Array]:
    """Return scores from words and characters alone, shape (n_examples,) each, by control.

    `tfidf` reads words and word pairs of the completion (of the prompt, where rows end with it),
    `tfidf_prompt` those of the prompt, `tfidf_both` those of both, `characters` the runs of two to
    four characters of both. A control that would read the same as another, or on which the sides
    of every pair are alike, is left out; so are others than `only`, where it names some.
    """
    examples, fit_rows = fitter.task.examples, fitter.task.example_rows(fitter.task.splits.fit)
    prompts, completions = [*map(str, examples.prompt)], [*map(str, examples.completion)]
    if not any(prompts) and not any(completions):
        return {}  # arrays of another tool
    prompt, completion = _counts(prompts, completions)
    read = {"tfidf": completion if any(completions) else prompt}
    # Both sides of a pair answer one prompt, so its words cancel.
    if any(completions) and any(prompts) and fitter.task.kind != "pair":
        read |= {"tfidf_prompt": prompt, "tfidf_both": prompt + completion}
    if not only or "characters" in only:
        starts = ([text[:CHARACTERS] for text in texts] for texts in (prompts, completions))
        read["characters"] = sum(_counts(*starts, runs=(2, 4)))
    # Texts are not standardised, as is usual: a rare word would count as much as a common one.
    plain = dataclasses.replace(
        fitter, standardize=False, n_folds=3, l2_factors=(0.01, 0.1, 1.0, 10.0)
    )
    return {
        name: plain.scores(tfidf(counts, fit_rows))
        for name, counts in read.items()
        if not only or name in only
    }


def _counts(*columns: Sequence[str], runs: tuple[int, int] | None = None) -> list[Any]:
    """Return how often each term is in each text of each column, a sparse (n, n_terms) matrix each.

    Terms are words and pairs of words or, with `runs`, runs of so many characters within a word and
    the spaces beside it. A text that stands in many rows is read once, and a word of many texts.
    """
    names, place = np.unique(
        np.concatenate([np.array(c, object) for c in columns]), return_inverse=True
    )
    # Single letters and digits are words too; without them short texts have no features.
    read = [re.findall(r"\S+" if runs else r"\b\w+\b", text.lower()) for text in names]
    rows, terms, words = _numbered(read)
    if not runs:  # in alphabetic order too: a word, then its pairs by their second word
        inside, firsts = rows[1:] == rows[:-1], terms * (len(words) + 1)
        terms = np.r_[firsts, (firsts[:-1] + terms[1:] + 1)[inside]]
        rows = np.r_[rows, rows[1:][inside]]
    counts = _table(rows, terms, len(names))
    if runs and words:
        least, most = runs
        parts = [
            [
                w[k : k + n]
                for n in range(least, min(most, len(w)) + 1)
                for k in range(len(w) - n + 1)
            ]
            for w in (f" {word} " for word in words)
        ]
        counts = counts @ _table(*_numbered(parts)[:2], len(words))
    return [counts[rows] for rows in np.split(place.reshape(-1), len(columns))]


def _numbered(lists: list[list[str]]) -> tuple[Index, Index, list[str]]:
    """Return the list and the number of every term, (n,) each, and the terms in alphabetic order."""
    names = sorted({term for terms in lists for term in terms})
    number = {term: k for k, term in enumerate(names)}
    rows = np.repeat(np.arange(len(lists)), [*map(len, lists)])
    return rows, np.array([number[term] for terms in lists for term in terms], np.int64), names


def _table(rows: Index, terms: Index, n: int) -> Any:  # noqa: ANN401 - sparse
    """Return how often each of the terms (n_all,) is in each of n rows, a sparse (n, n_terms) matrix."""
    from scipy import sparse

    found, column = np.unique(terms, return_inverse=True)
    shape = (n, max(len(found), 1))
    return sparse.csr_matrix((np.ones(len(rows)), (rows, column.reshape(-1))), shape=shape)


def tfidf(counts: Any, fit_rows: Index) -> Array:  # noqa: ANN401 - a sparse matrix
    """Return TF-IDF brought down to few dimensions, shape (n, rank).

    Terms and their weights come from the fit rows. The dimensions are those that up to 400 fit rows,
    drawn at random, span: with fewer rows than that nothing is lost.

    Parameters
    ----------
    counts
        How often each term is in each row, sparse, shape (n, n_terms).
    fit_rows
        Indices of the rows to learn from.
    """
    from scipy import sparse

    seen = np.asarray((counts[fit_rows] > 0).sum(axis=0)).reshape(-1)
    enough = np.flatnonzero(seen >= min(2, seen.max(initial=0)))
    terms = np.sort(enough[np.argsort(-seen[enough], kind="stable")[:TERMS]])
    matrix = sparse.csr_matrix(counts[:, terms])
    matrix.data = 1 + np.log(matrix.data)
    matrix = matrix @ sparse.diags(1 + np.log((1 + len(fit_rows)) / (1 + seen[terms])))
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).reshape(-1))
    matrix = sparse.csr_matrix(sparse.diags(1 / np.where(norm > 0, norm, 1.0)) @ matrix)
    drawn = np.random.default_rng(0).permutation(fit_rows)[:RANK]
    alike = (matrix @ matrix[drawn].T).toarray()
    energy, vectors = np.linalg.eigh(alike[drawn])
    kept = energy > 1e-9 * max(float(energy[-1]), 1e-9)
    if not kept.any():
        return np.zeros((len(norm), 1))
    return np.asarray(alike @ (vectors[:, kept] / np.sqrt(energy[kept])))


def partialled(task: Task, scores: Array, units: Index, sample: Resampler) -> Metrics:
    """Return the primary metric after what length explains is taken out.

    What length explains of a score (linear in tokens and log tokens, a step and a bend at 40
    lengths, and a small tree, so that curves, humps and thresholds go too) is learned on the choose
    split and on the other folds of the judged rows. A rest under a tenth of the score's standard
    deviation counts as none; where fewer than a fifth of rated rows have one, the score is length
    and the value is 0.
    For ratings both the score and the rating lose it (the partial correlation), for labels and pairs
    the score. What is not identified: where the better side is always the longer one, a preference
    for length and one for quality look alike, and taking out the first takes out some of the second.

    Parameters
    ----------
    task
        The rows and their splits.
    scores
        Score of every example row, shape (n_examples,).
    units
        Units that are judged, shape (n,).
    sample
        Resampler of the same n units.
    """
    examples, rows = task.examples, task.rows[units]
    sides = 2 if task.kind == "pair" else 1
    others = np.setdiff1d(task.splits.choose, units)
    folds = np.r_[
        fold_by_group(task.group_codes[units], 5, seed=task.seed), np.full(len(others), -1)
    ]
    every = np.concatenate(
        [np.concatenate([task.rows[units], task.rows[others]]) + k for k in range(sides)]
    )
    about = np.maximum(examples.n_tokens[every].astype(np.float64), 1.0)

    def rest(values: Array) -> Array:
        left = _without_length(values[every], about, np.tile(folds, sides))
        return left.reshape(sides, -1)[:, : len(units)]

    left = rest(scores)
    if task.kind == "pair":
        margin, whole = left[0] - left[1], scores[rows] - scores[rows + 1]
        margin = np.where(np.abs(margin) <= TOLERANCE * whole.std(), 0.0, margin)
        return {task.primary: sample.share(wins(margin))}
    kept = np.where(np.abs(left[0]) <= TOLERANCE * scores[rows].std(), 0.0, left[0])
    if examples.score is not None:
        alike = np.mean(kept != 0) < FEWEST_RESTS
        found = Interval(0.0) if alike else pearson(rest(examples.score)[0], kept, sample)
        return {task.primary: found}
    assert examples.label is not None
    return {task.primary: auroc(examples.label[rows], kept, sample)}


def _without_length(values: Array, length: Array, folds: NDArray[np.int64]) -> Array:
    """Return values (n,) minus what length (n,) predicts of them out of fold; fold -1 only teaches."""
    left = np.full(len(values), np.nan)
    for fold in np.unique(folds[folds >= 0]):
        held, taught = folds == fold, folds != fold
        knots = np.unique(np.quantile(length[taught], np.linspace(0, 1, N_KNOTS + 2)[1:-1]))
        basis = _length_basis(length, length[taught].mean(), knots)
        penalty = np.full(basis.shape[1], KNOT_PENALTY)
        penalty[:3] = 1e-9  # the straight parts are free
        design = basis[taught]
        weights = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ values[taught])
        rest = values - basis @ weights
        # A threshold between two knots is still there; a tree finds where it lies.
        cuts, means = tree(length[taught], rest[taught])
        left[held] = rest[held] - means[np.searchsorted(cuts, length[held])]
    return left


def tree(x: Array, y: Array, *, leaves: int = 16, least: int = 3) -> tuple[Array, Array]:
    """Return the cuts (n_cuts,) and means (n_cuts + 1,) of a regression tree of y (n,) on x (n,).

    The leaf whose best cut takes away most squared error is cut next; each keeps `least` rows.
    """
    order = np.argsort(x, kind="stable")
    x, total = x[order], np.r_[0.0, np.cumsum(y[order] - y.mean())]

    def best(low: int, high: int) -> tuple[float, int, int, int]:
        at = np.arange(low + least, high - least + 1)
        at = at[x[at - 1] < x[at]] if len(at) else at
        if not len(at):
            return 0.0, low, low, high
        left, right = total[at] - total[low], total[high] - total[at]
        whole = (total[high] - total[low]) ** 2 / (high - low)
        gain = left**2 / (at - low) + right**2 / (high - at) - whole
        return -float(gain.max()), low, int(at[gain.argmax()]), high

    heap, ends = [best(0, len(x))], [0, len(x)]
    while heap and len(ends) <= leaves:
        gain, low, at, high = heappop(heap)
        if gain > -1e-12 * len(x):
            continue
        ends.append(at)
        heappush(heap, best(low, at))
        heappush(heap, best(at, high))
    edges = np.sort(ends)
    cuts = (x[edges[1:-1] - 1] + x[edges[1:-1]]) / 2
    return cuts, np.diff(total[edges]) / np.diff(edges) + y.mean()


def _length_basis(length: Array, mean: float, knots: Array) -> Array:
    """Return 1, length, its logarithm, and a step and a bend of the latter at every knot, (n, n_terms)."""
    log, about = np.log(length / mean), np.log(knots / mean)
    over = log[:, None] - about
    return np.column_stack(
        [np.ones(len(length)), length / mean, log, over > 0, np.maximum(over, 0)]
    )


def random_direction(task: Task, acts: NDArray[Any], units: Index, *, seed: int) -> Metrics:
    """Return the primary metric of random directions in standardised space: mean and 95 % range.

    The sign of each direction is taken in its favour, so the mean lies a little above chance.

    Parameters
    ----------
    task
        The rows and their splits.
    acts
        Activations of every example row, shape (n_examples, d_model).
    units
        Units that are judged, shape (n_units,).
    seed
        Seed of the directions.
    """
    rng = np.random.default_rng(seed)
    scale = acts[task.example_rows(task.splits.fit)].std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, np.inf)
    directions = rng.standard_normal((acts.shape[1], N_DIRECTIONS)) / scale[:, None]
    rows = task.example_rows(units)
    scores = np.zeros((len(acts), N_DIRECTIONS))
    scores[rows] = acts[rows] @ directions
    values = task.primary_values(scores, units)
    return {task.primary: spread(in_favour(task, values))}


def in_favour(task: Task, values: Array) -> Array:
    """Return the metric (n_directions,) of each direction or of its opposite, whichever is better."""
    return np.abs(values) if task.kind == "rating" else np.maximum(values, 1 - values)


def spread(values: Array) -> Interval:
    """Return the mean of repeated draws (n_draws,) and the range that holds 95 % of them."""
    if not np.isfinite(values).any():
        return Interval(np.nan, np.nan, np.nan)
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Interval(float(np.nanmean(values)), float(low), float(high))
