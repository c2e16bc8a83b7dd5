# ruff: noqa: E501
"""An evaluation whose numbers follow a formula, in place of models that read texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probekit.container import write_json
from probekit.results.evaluate import DOCUMENT, SCORES
from tests.reports.words import ends

ROWS = 4


def write_evaluation(
    folder: Path,
    *,
    probes: Sequence[str] = ("a",),
    data: Sequence[str] = ("x.jsonl",),
    text: str = "",
) -> Path:
    """Write what `probekit evaluate` leaves; `text` stands wherever a name of users does."""
    results: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for k, probe in enumerate(probes):
        for j, name in enumerate(data):
            own = 0.9 - 0.1 * k - 0.05 * j
            names = {"probe": f"{probe}{text}", "data": f"{name}{text}"}
            controls = {"length": ends(0.55), "tfidf": ends(0.7)}
            gaps = {"length": ends(own - 0.55), "tfidf": ends(own - 0.7)}
            monitor = {
                "source": "control", "n": 300, "threshold": 2.5, "recall": ends(0.4, 0.1),
                "false_alarms": ends(0.01, 0.01),
            }  # fmt: skip
            few = {"recall": {"value": None}, "false_alarms": {"value": None}, "threshold": None}
            bins = [
                {"low": at / 4, "high": at / 4 + 0.25, "n": 10, "predicted": at / 4 + 0.1,
                 "observed": at / 4 + 0.15, "observed_low": at / 4, "observed_high": at / 4 + 0.25}
                for at in range(4)
            ]  # fmt: skip
            results.append({
                **names, "kind": "label", "primary": "auroc", "fitted_data": j > 0, "positive_class": f"good{text}",
                "metrics": {"auroc": ends(own), "accuracy": ends(own - 0.05), "ece": ends(0.08), "brier": ends(0.2)},
                "by_tag": {f"half{text}": {f"{half}{text}": {"auroc": ends(own)} for half in "ab"}},
                "reliability": bins, "n": {"rows": ROWS, "groups": ROWS},
                "monitors": [{"fpr": 0.01, "needed": 299, "estimable": True, **monitor},
                             {**monitor, "fpr": 0.001, "needed": 2995, "estimable": False, **few}],
                "controls": {"own": ends(own), "values": controls, "differences": gaps} if k == 0 else None,
            })  # fmt: skip
            rows += [
                {**names, "id": f"r{i}", "group": f"g{i}", "score": float(i), "target": float(i % 2),
                 "tags": {f"half{text}": "ab"[i % 2]}}
                for i in range(ROWS)
            ]  # fmt: skip
    record = {
        "probes": [{"name": f"{p}{text}"} for p in probes], "data": [{"name": f"{d}{text}"} for d in data],
        "aggregate": None, "control": f"c.txt{text}", "seed": 0, "results": results,
    }  # fmt: skip
    folder.mkdir(parents=True)
    write_json(folder / DOCUMENT.file, {**DOCUMENT.header, **record})
    SCORES.write(folder, rows)
    return folder
