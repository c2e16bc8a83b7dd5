"""A rating read at every token: one ridge head for all of them, and how early the rating is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.activations.backends import make_backend
from probekit.activations.gather import plan_batches, read_batch
from probekit.activations.positions import PositionRule
from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.analyses.early import KNOWN, TENTHS, known_from
from probekit.errors import ProbeError
from probekit.models.blocks import BlockNames
from probekit.models.chat import Rendered
from probekit.models.load import LoadedModel, load_model
from probekit.probes.folder import Fit, fit_folder, store_given
from probekit.probes.metrics import pearson
from probekit.probes.moments import Moments
from probekit.probes.probe import Probe
from probekit.probes.scoring import WINDOW
from probekit.probes.task import Task
from probekit.probes.units import from_unit
from probekit.results.intervals import Array, Interval, Resampler
from probekit.rl.head_data import HeadData, store_of

Progress = Callable[[str, int, int], None]
STARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Tokens from either end at which the curve is read; 0 from the start is the token before the completion."""
FEWEST = 20
"""Fewer rows that reach a token give no point."""
L2_FACTORS = tuple(10.0 ** (k / 2) for k in range(-8, 5))
READERS = ("all tokens", "probe")


class TokenPoint(NamedTuple):
    """How well ratings are read at one place of the completions that reach it."""

    reader: str
    """`all tokens`, the head of every token, or `probe`, the head of the fit, read there."""
    measured: str
    """`start`, tokens from the start; `end`, tokens from the end; `part`, tenths of the completion."""
    binned: bool
    """Whether the prediction is the mean over the tokens since the place before, or that token's own."""
    at: float
    n: int
    pearson: Interval
    mae: Interval


@dataclass(frozen=True)
class TokenCurve:
    """What `token_curve` found."""

    layer: int
    l2: float
    l2_at_edge: bool
    choose_error: dict[int, float]
    """Layer to the mean squared error on the choose split, in parts of the ratings' variance there."""
    points: list[TokenPoint]
    known_from: dict[str, Interval]
    """Reader to the tenth of a completion from which r stays within `KNOWN` of r at its end."""
    n: dict[str, int]
    probe: Probe

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokens.json` without its header."""
        points = [
            {
                **point._asdict(),
                "pearson": point.pearson.to_json(),
                "mae": point.mae.to_json(),
            }
            for point in self.points
        ]
        return {
            "site": self.probe.site,
            "layer": self.layer,
            "position": self.probe.position,
            "probe_layer": self.probe.layer,
            "l2": self.l2,
            "l2_at_edge": self.l2_at_edge,
            "choose_error": {str(layer): value for layer, value in self.choose_error.items()},
            "known": KNOWN,
            "known_from": {name: found.to_json() for name, found in self.known_from.items()},
            "n": self.n,
            "points": points,
        }


def token_curve(
    fit: Fit,
    model: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    *,
    store: str | Path | None = None,
    layers: list[int] | None = None,
    batch_tokens: int = 4096,
    progress: Progress = lambda *_: None,
) -> TokenCurve:
    """Fit a ridge head to every completion token of a fit's rows, and read ratings at every token.

    A completion counts once, however long: its tokens share its weight. Moments are added up in one pass
    over the fit and choose splits (d_model^2 numbers a layer, never the tokens); penalty and layer are
    chosen on the choose split; a second pass reads the report split.

    Parameters
    ----------
    fit
        Directory of a fit of rating rows, or its result; its chosen probe is read at every token too.
    model
        The model that the fit's store was made with, or what `load_model` takes.
    store
        The store that it was fitted on, for the token ids and splits, where its record's place is not right.
    layers
        Layers to choose from; the probe's own by default.
    batch_tokens
        Padded tokens of a forward pass.
    progress
        Called with `reading`, tokens done and tokens in all.

    Raises
    ------
    ProbeError
        When the fit is not one of ratings, the model is another, or a layer is not there.

    Examples
    --------
    >>> import probekit as pk
    >>> texts = [("ab " * (i % 4 + 1), i % 4) for i in range(120)]
    >>> rows = [{"prompt": f"say {i}", "completion": t, "score": s} for i, (t, s) in enumerate(texts)]
    >>> model = pk.load_model("smollm2-135m")
    >>> store = pk.cache_activations(model, rows, layers=[1], positions="last")
    >>> found = pk.token_curve(pk.fit_sweep(store, n_boot=20), model)
    >>> found.layer, {point.measured for point in found.points} == {"start", "end", "part"}
    (1, True)
    """
    with fit_folder(fit) as directory:
        store = store_given(fit, store)
        return _token_curve(directory, model, store, layers, batch_tokens, progress)


def _token_curve(
    directory: Path,
    model: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    store: str | Path | None,
    layers: list[int] | None,
    batch_tokens: int,
    progress: Progress,
) -> TokenCurve:
    probe = Probe.load(directory)
    if probe.data_kind != "rating":
        raise ProbeError(
            f"{directory}: is a fit of {probe.data_kind} rows, expected ratings. A label or preference has "
            "no degree that could be known early: use probekit score --per-token."
        )
    loaded = load_model(model)
    if different := loaded.difference(probe.provenance):
        key, expected, here = different
        raise ProbeError(
            f"model {loaded.spec!r}: {key} is {here}, the fit has {expected}. Give the model that the store "
            "was made with, its --adapter included."
        )
    task = HeadData.open(directory, probe, store).task
    with ActivationStore.open(store_of(directory, store)) as source:
        rows = {i: source.tokens.row(int(i)) for i in task.used}
        blocks = probe.provenance.get("settings", {}).get("blocks")
    reader = _Reader(loaded, probe.site, blocks, rows, batch_tokens, progress)
    wanted = sorted(set(layers or [probe.layer]))
    if bad := [layer for layer in wanted if not 0 <= layer < reader.n_layers]:
        raise ProbeError(f"layer {bad[0]}: the model has layers 0 to {reader.n_layers - 1}.")

    best = _fitted(reader, task, wanted)
    heads = {
        READERS[0]: (best.layer, best.coef, best.bias),
        READERS[1]: (probe.layer, probe.coef, probe.bias),
    }
    read = _read(reader, task, heads)
    assert task.examples.score is not None
    ratings, sample = task.examples.score[task.splits.report], task.sampler(task.splits.report)
    points = [p for name, at in read.items() for p in _points(name, at, ratings, sample)]
    known = {name: known_from(at.part, ratings, sample) for name, at in read.items()}
    n = {f"{name}_rows": len(units) for name, units in task.splits._asdict().items()}
    n |= {"groups": sample.n_groups, "tokens": reader.n_tokens}
    return TokenCurve(best.layer, best.l2, best.at_edge, best.errors, points, known, n, probe)


def _fitted(reader: _Reader, task: Task, layers: list[int]) -> _Best:
    """Return the head of all completion tokens, chosen on the choose split."""
    fit, choose = ({layer: Moments(reader.width) for layer in layers} for _ in range(2))
    for moments, units in ((fit, task.splits.fit), (choose, task.splits.choose)):
        for i, acts in reader.tokens(units, layers):
            for layer, tokens in acts.items():
                n = len(tokens) - 1  # the first is the one before the completion
                moments[layer].add(tokens[1:], np.full(n, task.target[i]), np.full(n, 1 / n))
    return _chosen(fit, choose)


class _Reader:
    """Reads every completion token of rows, and the token before the completion, batch by batch."""

    def __init__(
        self,
        loaded: LoadedModel,
        site: str,
        blocks: str | None,
        rows: dict[int, Rendered],
        batch_tokens: int,
        progress: Progress,
    ) -> None:
        names = BlockNames.parse(blocks) if blocks else None
        self._backend = make_backend("hooks", loaded, names=names)
        self._loaded, self._site, self._rows, self._size = loaded, site, rows, batch_tokens
        self.n_layers, self.width = self._backend.n_layers, self._backend.d_model
        self.n_tokens, self._done = sum(len(row.ids) for row in rows.values()), 0
        self._progress = progress

    def tokens(
        self, units: NDArray[np.int64], layers: list[int]
    ) -> Iterator[tuple[int, dict[int, NDArray[np.float32]]]]:
        """Yield a row's index and, by layer, its tokens (1 + n_tokens, d_model)."""
        lengths = np.array([len(self._rows[i].ids) for i in units])
        rule = PositionRule("all")
        places = [(self._site, layer) for layer in layers]
        for start in range(0, len(units), WINDOW):
            window = units[start : start + WINDOW]
            for batch in plan_batches(lengths[start : start + WINDOW], self._size):
                read = [_with_one_before(self._rows[i]) for i in window[batch]]
                acts = read_batch(self._backend, read, places, [rule], self._loaded.device)
                ends = np.cumsum([row.stop - row.start for row in read])[:-1]
                parts = {
                    layer: np.split(acts[Cell(self._site, layer, "all")], ends) for layer in layers
                }
                for place, i in enumerate(window[batch]):
                    own = {layer: found[place] for layer, found in parts.items()}
                    # A text of one token is its own beginning.
                    alone = len(next(iter(own.values()))) == 1
                    yield (
                        int(i),
                        {k: np.repeat(v, 2, axis=0) if alone else v for k, v in own.items()},
                    )
                self._done += sum(len(row.ids) for row in read)
                self._progress("reading", self._done, self.n_tokens)


def _with_one_before(row: Rendered) -> Rendered:
    """Return a row whose span begins with the token before its completion.

    Token 0 of raw text, whose residual is like no other's, stands for what is before the text.
    """
    return dataclasses.replace(row, start=max(row.start - 1, 0))


class _Best(NamedTuple):
    layer: int
    l2: float
    at_edge: bool
    coef: Array
    bias: float
    errors: dict[int, float]


def _chosen(fit: dict[int, Moments], choose: dict[int, Moments]) -> _Best:
    """Return the head of the layer and penalty with the least error on the choose split."""
    found: dict[int, tuple[float, int, Array, Array, Array]] = {}
    for layer, moments in fit.items():
        l2 = np.array(L2_FACTORS) * moments.weight
        coef, bias = moments.ridge(l2)
        held = choose[layer]
        variance = held.square / held.weight - (held.target / held.weight) ** 2
        error = held.error(coef, bias) / max(variance, 1e-30)
        best = int(np.argmin(error))
        found[layer] = (float(error[best]), best, coef[best], bias[best], l2[best])
    layer = min(found, key=lambda name: found[name][0])
    _, at, coef, bias, l2 = found[layer]
    errors = {name: item[0] for name, item in found.items()}
    return _Best(layer, float(l2), at in (0, len(L2_FACTORS) - 1), coef, float(bias), errors)


class _Scores(NamedTuple):
    """Predictions in the units of ratings, NaN where a completion is shorter; shapes (n_rows, n_places)."""

    start: Array
    """At token 0 (the one before the completion) and at `STARTS`."""
    start_binned: Array
    """Means over the tokens since the place before."""
    end: Array
    """At `STARTS` tokens from the end; 1 is the last."""
    part: Array
    """At tenths of the completion, 0 to 10; 0 is the token before it."""
    part_binned: Array


def _read(
    reader: _Reader,
    task: Task,
    heads: dict[str, tuple[int, Array, float]],
) -> dict[str, _Scores]:
    """Return every reader's predictions on the report split; memory is that of the places."""
    units = task.splits.report
    place = {int(i): at for at, i in enumerate(units)}
    found = {
        name: _Scores(*(np.full((len(units), k), np.nan) for k in
                        (1 + len(STARTS), 1 + len(STARTS), len(STARTS), TENTHS + 1, TENTHS + 1)))
        for name in heads
    }  # fmt: skip
    layers = sorted({layer for layer, _, _ in heads.values()})
    for i, acts in reader.tokens(units, layers):
        for name, (layer, coef, bias) in heads.items():
            scores = from_unit(acts[layer] @ coef + bias, task.score_range)
            _place(found[name], place[i], scores)
    return found


def _place(found: _Scores, row: int, scores: Array) -> None:
    """Put a completion's scores, (1 + n_tokens,), where the places of the curve are."""
    n, sums = len(scores) - 1, np.concatenate([[0.0], np.cumsum(scores)])
    found.start[row, 0] = found.start_binned[row, 0] = scores[0]
    before = 0
    for k, at in enumerate(STARTS, start=1):
        if at > n:
            break
        found.start[row, k] = scores[at]
        found.start_binned[row, k] = (sums[at + 1] - sums[before + 1]) / (at - before)
        found.end[row, k - 1] = scores[n + 1 - at]
        before = at
    found.part[row, 0] = found.part_binned[row, 0] = scores[0]
    for k in range(1, TENTHS + 1):
        # The token at which a tenth is complete; the bin holds it and those since the tenth before.
        at, since = -(-k * n // TENTHS), -(-(k - 1) * n // TENTHS)
        found.part[row, k] = scores[at]
        found.part_binned[row, k] = (
            (sums[at + 1] - sums[since + 1]) / (at - since) if at > since else scores[at]
        )


def _points(
    reader: str, scores: _Scores, ratings: Array, sample: Resampler
) -> Iterator[TokenPoint]:
    places: list[tuple[str, bool, Array, tuple[float, ...]]] = [
        ("start", False, scores.start, (0, *STARTS)),
        ("start", True, scores.start_binned, (0, *STARTS)),
        ("end", False, scores.end, STARTS),
        ("part", False, scores.part, tuple(k / TENTHS for k in range(TENTHS + 1))),
        ("part", True, scores.part_binned, tuple(k / TENTHS for k in range(TENTHS + 1))),
    ]
    for measured, binned, values, at in places:
        for k, where in enumerate(at):
            known = np.isfinite(values[:, k])
            n = int(known.sum())
            if n < FEWEST or np.ptp(ratings[known]) == 0:
                continue
            own = (
                sample
                if known.all()
                else Resampler(sample.groups[known], sample.n_boot, sample.seed)
            )
            x, y = values[known, k], ratings[known]
            yield TokenPoint(
                reader,
                measured,
                binned,
                float(where),
                n,
                pearson(y, x, own),
                own.mean(np.abs(x - y)),
            )
