"""What `tokens`, `stack` and `compare` leave, and how ratings vary within and between prompts."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from typing_extensions import TypedDict

from probekit.results.intervals import NO_VALUE, Interval, Resampler
from probekit.results.runs import Run
from probekit.results.table import Document, numbers

if TYPE_CHECKING:
    import pandas as pd

Ends = dict[str, float | None]


class PointRow(TypedDict):
    """How well ratings are read at one place of completions; see `probekit.analyses.tokens.TokenPoint`."""

    reader: str
    measured: str
    binned: bool
    at: float
    n: int
    pearson: Ends
    mae: Ends


class TokensRecord(TypedDict):
    """What tokens.json holds; see docs/formats.md."""

    site: str
    layer: int
    position: str
    probe_layer: int
    l2: float
    l2_at_edge: bool
    choose_error: dict[str, float]
    known: float
    known_from: dict[str, Ends]
    n: dict[str, int]
    points: list[PointRow]


class StackRecord(TypedDict):
    """What stack.json holds; see docs/formats.md."""

    primary: str
    single: dict[str, Ends]
    candidates: Annotated[dict[str, dict[str, Any]], numbers()]
    best: str
    n_cells: int
    cells: Annotated[list[dict[str, Any]], numbers("site", "position")]
    n: dict[str, int]


class CompareRecord(TypedDict):
    """What compare.json holds; see docs/formats.md."""

    primary: str
    site: str
    layer: int
    position: str
    layers: Annotated[list[dict[str, Any]], numbers()]
    transfer: dict[str, dict[str, Ends]]
    change: Ends
    n: dict[str, int]


class TokensRun(Run):
    """A rating read at every token."""

    DOCUMENT: ClassVar[Document] = Document(
        "tokens", "a curve over tokens", "tokens.json", "probekit.tokens", 1, TokensRecord
    )

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a place and measure; its place is `reader`, `measured`, `binned`, `at`, `n`."""
        import pandas as pd

        of = ["reader", "measured", "binned", "at", "n"]
        rows = [
            (*(point[key] for key in of), name, *Interval.from_json(point[name]))
            for point in self.record["points"]
            for name in ("pearson", "mae")
        ]
        return pd.DataFrame(rows, columns=[*of, "measure", "value", "low", "high"])

    def known_from(self, reader: str) -> Interval:
        """Return the part of a completion from which the rating is known to a reader."""
        return Interval.from_json(self.record["known_from"].get(reader))


class StackRun(Run):
    """Several cells against the best single one."""

    DOCUMENT: ClassVar[Document] = Document(
        "stack", "stacked cells", "stack.json", "probekit.stack", 1, StackRecord
    )

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a measure of the report split: `of` is `single` or a candidate's name."""
        import pandas as pd

        parts = {"single": self.record["single"]}
        parts |= {name: item["report"] for name, item in self.record["candidates"].items()}
        rows = [
            (of, name, *Interval.from_json(value))
            for of, found in parts.items()
            for name, value in found.items()
        ]
        return pd.DataFrame(rows, columns=["of", "measure", "value", "low", "high"])

    @property
    def difference(self) -> Interval:
        """How far the best candidate is above the single cell, paired."""
        return Interval.from_json(self.record["candidates"][self.record["best"]]["difference"])


class CompareRun(Run):
    """The same rows in two models."""

    DOCUMENT: ClassVar[Document] = Document(
        "compare", "a comparison of fits", "compare.json", "probekit.compare", 1, CompareRecord
    )

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a layer, head and model whose activations it reads, with the primary measure's ends."""
        import pandas as pd

        rows = [
            (
                row["layer"],
                head,
                acts,
                self.record["primary"],
                *Interval.from_json(row[f"{head} on {acts}"]),
            )
            for row in self.record["layers"]
            for head in self.record["transfer"]
            for acts in self.record["transfer"]
        ]
        columns = ["layer", "head", "activations", "measure", "value", "low", "high"]
        return pd.DataFrame(rows, columns=columns)


class Variance(TypedDict):
    """Where ratings vary, and where predictions follow them."""

    n_prompts: int
    """Prompts with two or more rows."""
    between: float
    """Share of the ratings' variance between prompts (ICC(1), one-way)."""
    within_r: Interval
    """Correlation after the mean of every prompt is taken from both."""
    between_r: Interval
    """Correlation of the prompts' means."""


def variance_split(rows: pd.DataFrame) -> Variance:
    """Return how ratings and predictions vary within and between prompts.

    Parameters
    ----------
    rows
        Columns `group`, `target`, `prediction`; a prompt with one row tells nothing within.

    Examples
    --------
    >>> import pandas as pd
    >>> from probekit.results.ratings import variance_split
    >>> rows = pd.DataFrame({"group": list("aabbcc"), "target": [1, 2, 5, 6, 9, 10],
    ...                      "prediction": [2.0, 1, 6, 5, 10, 9]})
    >>> found = variance_split(rows)
    >>> found["within_r"].value.round(3), found["between_r"].value.round(3)
    (np.float64(-1.0), np.float64(1.0))
    """
    sizes = rows.groupby("group")["target"].transform("size")
    several = rows[sizes > 1]
    n = int(several["group"].nunique())
    if n < 2:
        return {"n_prompts": n, "between": np.nan, "within_r": NO_VALUE, "between_r": NO_VALUE}
    both = several[["target", "prediction"]].astype(float)
    by = several["group"]
    means = both.groupby(by).transform("mean")
    inside = (both - means).to_numpy()
    counts = by.groupby(by).size().to_numpy()
    centred = means["target"] - both["target"].mean()
    mean_between = float((centred**2).sum()) / (n - 1)
    mean_within = float((inside[:, 0] ** 2).sum()) / (len(several) - n)
    per = (len(several) - float((counts**2).sum()) / len(several)) / (n - 1)
    total = mean_between + (per - 1) * mean_within
    sums = np.stack([inside[:, 0] * inside[:, 1], inside[:, 0] ** 2, inside[:, 1] ** 2], axis=1)
    within = Resampler(by.to_numpy()).interval(
        sums, lambda s: s[..., 0] / np.sqrt(s[..., 1] * s[..., 2])
    )
    prompts = both.groupby(by).mean().to_numpy()
    x, y = prompts.T
    moments = np.stack([x, y, x * y, x * x, y * y, np.ones(n)], axis=1)
    between = Resampler(np.arange(n)).interval(moments, _correlation)
    share = float(np.clip((mean_between - mean_within) / total, 0.0, 1.0)) if total > 0 else np.nan
    return {"n_prompts": n, "between": share, "within_r": within, "between_r": between}


def _correlation(s: Any) -> Any:  # noqa: ANN401 - sums, shape (..., 6)
    x, y, xy, xx, yy, n = np.moveaxis(s, -1, 0)
    return (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
