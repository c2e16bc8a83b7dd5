"""What is wrong with the files of a run is told in one line, and nothing is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from probekit.errors import ProbeError
from probekit.reports import (
    write_dynamics_report,
    write_rl_report,
    write_steer_report,
    write_sweep_report,
)
from tests.reports.dynamics_factory import write_dynamics
from tests.reports.factory import Made, write_fit
from tests.reports.rl_factory import MadeRL, write_rl
from tests.reports.steer_factory import BARE, SMALL, MadeSteer, write_steer
from tests.reports.words import edited

ROOMS = {
    "fit": (
        write_sweep_report,
        lambda at: write_fit(at, Made(layers=2, positions=("mean",), n=12)),
    ),
    "rl": (write_rl_report, lambda at: write_rl(at, MadeRL(prompts=4))),
    "steer": (write_steer_report, lambda at: write_steer(at, MadeSteer(**{**SMALL, **BARE}))),
    "dynamics": (write_dynamics_report, lambda at: write_dynamics(at, "adamw", "sgd")),
}
DAMAGE = {
    ("fit", "sweep.json"): {
        ": not JSON": lambda text: text[: len(text) // 2],
        "got a list, expected an object": lambda text: "[]",
        "format is 'other.tool', expected 'probekit.sweep'": {"format": "other.tool"},
        "version is 2, this probekit reads up to 1. Upgrade": {"format_version": 2},
        "format_version is None": {"format_version": None},
        "did not finish": {"complete": False},
        "rows holds a value": {"rows": []},
        "key 'controls' is missing": {"controls": KeyError},
        "wrong type: got 3": {"rows": 3},
        "should be 'label', 'rating' or 'pair'": {"data_kind": "image"},
    },
    ("fit", "predictions.jsonl"): {
        "predictions.jsonl: missing": None,
        "has 21 rows, expected 24": lambda text: text.split("\n", 3)[-1],
        "predictions.jsonl:24: not a prediction row": lambda text: text[:-40],
        "key 'id' is missing": lambda text: text.replace('"id"', '"name"', 1),
        "predictions.jsonl:1: not a prediction row": lambda text: "7\n" + text,
    },
    ("rl", "run.json"): {
        "has no run.json": None,
        "not JSON (Unterminated": lambda text: text[:300],
        "does not fit its checksum": lambda text: text.replace('"rl"', '"fit"', 1),
        "command is 'fit', expected 'rl'": lambda text: '{"command": "fit"}',
    },
    ("rl", "metrics.jsonl"): {
        "metrics.jsonl:1: not a training step row": lambda text: "}" + text,
        "got 'x', input should be a valid number":
            lambda text: text.replace('"entropy": 1', '"entropy": "x", "y": 1', 1),
    },
    ("rl", "samples.jsonl"): {
        "key 'prompt_id' is missing": lambda text: text.replace("prompt_id", "id", 1),
        "no rows of the evaluation after step 0": lambda text: text.splitlines()[-1] + "\n",
    },
    ("steer", "steer.json"): {
        "has no steer.json": None,
        "no condition is unsteered": {"conditions": []},
        "key 'measures' is missing": {"measures": KeyError},
        "conditions holds a value of the wrong type": {"conditions": 3},
        "got 'push', input should be 'add', 'clamp' or 'ablate'": {"mode": "push"},
    },
    ("steer", "completions.jsonl"): {
        "completions.jsonl: missing": None,
        "partial or from another run": lambda text: text.rsplit("\n", 3)[0],
        "not a completion row (not JSON": lambda text: text.rsplit("}", 2)[0],
    },
    ("dynamics", "runs.jsonl"): {
        "runs.jsonl:240: not a run row": lambda text: text[:-40],
        "got 2 runs of rescaled under adamw, expected 24": lambda text: "\n".join(text.splitlines()[:50]),
        "expected 6 values": lambda text: text.replace('"loss": [', '"loss": [1.0, '),
    },
}  # fmt: skip
"""Message to what becomes of a file: of its text, of keys of its object (KeyError: out), or gone."""


@pytest.mark.parametrize(
    ("room", "file", "message"),
    [(*place, message) for place in DAMAGE for message in DAMAGE[place]],
)
def test_a_damaged_run_is_one_line_and_no_page(
    tmp_path: Path, room: str, file: str, message: str
) -> None:
    write, make = ROOMS[room]
    path, change = make(tmp_path / "run") / file, DAMAGE[room, file][message]
    if change is None:
        path.unlink()
    elif callable(change):
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        with edited(path) as value:
            value |= change
            for key in [key for key in change if change[key] is KeyError]:
                del value[key]
    with pytest.raises(ProbeError) as caught:
        write(path.parent)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (path.parent / "report.html").exists()
