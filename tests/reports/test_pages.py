"""What holds for every page: its golden text, texts that stay texts, figures in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probekit.errors import OutputError
from probekit.reports import (
    write_dynamics_report,
    write_evaluate_report,
    write_rl_report,
    write_steer_report,
    write_sweep_report,
)
from probekit.studies import write_study_report
from tests.reports.browser import check_drawn
from tests.reports.dynamics_factory import write_dynamics
from tests.reports.evaluate_factory import write_evaluation
from tests.reports.factory import Made, ugly, write_fit
from tests.reports.golden import check, page_text
from tests.reports.rl_factory import ALARMS, MadeRL, write_rl
from tests.reports.steer_factory import BARE, SMALL, MadeSteer, write_steer
from tests.reports.study_factory import DENIES, RISES, STAGES, MadeStudy, arm, write_study
from tests.reports.words import HOSTILE

TAGS = {"source": ("wiki", "books", "news")}


def fit(folder: Path, *args: object, **made: object) -> Path:
    return write_sweep_report(write_fit(folder / "fit", Made(*args, **made)))


def steer(folder: Path, **made: object) -> Path:
    return write_steer_report(write_steer(folder / "run", MadeSteer(**made)))


def rl(folder: Path, compare: dict[str, dict] | None = None, **made: object) -> Path:
    others = [write_rl(folder / at, MadeRL(**more)) for at, more in (compare or {}).items()]
    return write_rl_report(write_rl(folder / "a" / "run", MadeRL(**made)), compare=others)


def dynamics(folder: Path, *optimizers: str, **keys: object) -> Path:
    return write_dynamics_report(write_dynamics(folder / "run", *optimizers, **keys))


def evaluation(folder: Path, **made: Any) -> Path:
    return write_evaluate_report(write_evaluation(folder / "judged", **made))


def study(folder: Path, **made: object) -> Path:
    return write_study_report(write_study(folder / "study", MadeStudy(**made)))


RL = {"steps": 8, "every": 4, "prompts": 6, "n_chosen": 8}
FIT = {"layers": 3, "positions": ("last", "mean"), "n": 6, "tags": TAGS, "texts": ("A text.", "B.")}
ARM = arm(RISES, prompts=12, steps=20, balance="class", seed=3)
GOLDEN: dict[str, Callable[[Path], Path]] = {
    **{f"sweep-{kind}": lambda at, kind=kind: fit(at, kind, **FIT) for kind in ("label", "rating", "pair")},
    "steer": lambda at: steer(at, **SMALL),
    "steer_ablate": lambda at: steer(at, **{**SMALL, **BARE, "mode": "ablate"}),
    "rl": lambda at: rl(at, {"b/run": {**RL, "follow": 0.0, "seed": 3}, "c": {"done": 0}}, **RL, refits=(4,),
                        alarms={2: "every group's rewards are equal"}),
    "dynamics": lambda at: dynamics(at, "adamw"),
    "evaluate": evaluation,
    "transfer": lambda at: evaluation(at, probes=("a", "b"), data=("x.jsonl", "y.jsonl")),
    "knowledge_awareness": lambda at: study(
        at, stages=tuple(name for name in STAGES if name != "dynamics"),
        arms={"max": ARM, "chosen": ARM}, questions=6, layers=2),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_the_page_is_the_golden_one(tmp_path: Path, name: str) -> None:
    check(GOLDEN[name](tmp_path).read_text(encoding="utf-8"), name)


HOSTILE_PAGES: dict[str, Callable[[Path], Path]] = {
    "fit": lambda at: write_sweep_report(write_fit(at / "fit", ugly())),
    "steer": lambda at: steer(at, text=HOSTILE, behaviours={f"b{i}": 0.1 for i in range(6)}, prompts=6),
    "rl": lambda at: rl(at, {"run-hack": {"follow": 0.0, "seed": 3}}, text=HOSTILE, prompts=8),
    "dynamics": lambda at: dynamics(
        at, "sgd", **dict.fromkeys(("site", "position", "head"), HOSTILE), exact=[]),
    "evaluate": lambda at: evaluation(at, text=HOSTILE, probes=("a", "b")),
    "study": lambda at: study(
        at, text=f"{HOSTILE} {'x' * 120}", layers=12, quick=True,
        arms={**{f"run-{i}": arm(RISES, seed=i) for i in range(3)},
              "a-run-with-a-name-that-is-long": arm(DENIES)}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_texts_of_users_stay_texts(tmp_path: Path, name: str) -> None:
    html = HOSTILE_PAGES[name](tmp_path).read_text(encoding="utf-8")
    body = html.split("<body>")[1]
    for markup in (HOSTILE, "<script>document", "<img", "&amp;lt;script"):
        assert markup not in body
    assert page_text(html).count("document.title='owned'") >= 5


DRAWN: dict[str, tuple[int, Callable[[Path], Path]]] = {
    "fit-pair": (1280, lambda at: fit(
        at, "pair", tags={**TAGS, "field": tuple(f"field {i}" for i in range(9))})),
    "fit-narrow": (900, lambda at: fit(at, "pair", layers=48, embedding=False)),
    "fit-one-layer": (900, lambda at: fit(at, "label", layers=1, embedding=False)),
    "fit-ugly-label": (1280, lambda at: write_sweep_report(write_fit(at / "fit", ugly("label")))),
    "fit-ugly-rating": (900, lambda at: write_sweep_report(write_fit(at / "fit", ugly("rating")))),
    "steer-narrow": (900, lambda at: steer(
        at, coeffs="-1.5,-0.6,-0.3,-0.1,0.1,0.3,0.6,1.5", random=12, layers=30, steered=(18,), prompts=6)),
    "steer-nulls": (1280, lambda at: steer(at, nulls=True, prompts=4, classes=("no", "yes"))),
    "steer-clamp": (1280, lambda at: steer(
        at, mode="clamp", layers=12, steered=tuple(range(4, 12)), prompts=6)),
    "rl-refits": (1280, lambda at: rl(at, refits=(20, 40), alarms=ALARMS)),
    "rl-two-tags": (900, lambda at: rl(
        at, {"run-hack": {"follow": 0.0, "seed": 3}},
        tags={"class": ("real", "invented"), "lang": ("en", "de", "fr")})),
    "dynamics": (1280, lambda at: dynamics(at, "adamw", "sgd")),
    "evaluate": (900, evaluation),
    "transfer": (1280, lambda at: evaluation(at, probes=("a", "b", "c"), data=("x.jsonl", "y.jsonl"))),
    **{f"study-{width}": (width, study) for width in (1280, 500)},
}  # fmt: skip


@pytest.mark.browser
@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_drawn_and_legible(tmp_path: Path, name: str) -> None:
    width, write = DRAWN[name]
    assert check_drawn(write(tmp_path), tmp_path, width=width)["title"] != "owned"


def test_where_a_page_goes(tmp_path: Path) -> None:
    page = dynamics(tmp_path, "sgd")
    run, first = page.parent, page.read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        write_dynamics_report(run)
    deep = write_dynamics_report(run, out=tmp_path / "deep" / "page.html")
    page.write_text("")
    assert write_dynamics_report(run, force=True).read_bytes() == deep.read_bytes() == first
    with pytest.raises(OutputError, match="is a directory"):
        write_dynamics_report(run, out=tmp_path, force=True)
    with pytest.raises(OutputError, match="cannot be written|can not be written"):
        write_dynamics_report(run, out=page / "deep" / "page.html")
