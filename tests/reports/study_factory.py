"""Made-up directories of the study knowledge-awareness, with planted rates, written without a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from probekit.container import write_json
from probekit.results.elicit import DOCUMENT, LEAKS, PAIRS
from probekit.results.study import StudyRun
from tests.reports.dynamics_factory import write_dynamics
from tests.reports.factory import Made, write_fit
from tests.reports.rl_factory import MadeRL, write_rl
from tests.reports.steer_factory import MadeSteer, write_steer
from tests.reports.words import ends, write_lines

STAGES = ("elicit", "fit", "projection", "dynamics", "steer", "rl", "ood")
RISES = {"invented": (0.1, 0.9), "real": (0.1, 0.12)}
DENIES = {"invented": (0.1, 0.95), "real": (0.1, 0.9)}
STAYS = {"invented": (0.1, 0.1), "real": (0.1, 0.1)}
WORDS = "She was a painter of small towns and I do not know when she was born or what came of it".split()


@dataclass
class MadeStudy:
    """What to make; the defaults are a study in which behaviour followed and transferred."""

    stages: tuple[str, ...] = STAGES
    arms: dict[str, MadeRL] = field(
        default_factory=lambda: {
            "max-unbalanced": arm(DENIES, entropy=-1.2, seed=1),
            "max": arm(RISES, entropy=-1.0, balance="class", seed=2),
            "chosen": arm(RISES, entropy=0.1, balance="class", seed=3),
            "refits": arm(RISES, entropy=0.05, balance="class", refits=(20, 40), seed=4),
        }
    )
    outside: tuple[float, float] = (0.7, 0.1)
    """Rates of hedging outside after training, about invented and about real things."""
    questions: int = 40
    text: str = ""
    """Every text and name that a user may choose, instead of plain ones."""
    quick: bool = False
    signal: float = 1.6
    """Of the projection head."""
    layers: int = 8
    recipe: dict = field(default_factory=dict)
    """Keys of the elicitation's recipe in place of the plain ones."""
    familiarity: dict | None = None
    known: dict = field(default_factory=dict)
    told_by_words: int = 0
    jobs: int = 1
    seed: int = 5


def arm(hedging: dict[str, tuple[float, float]], **made: object) -> MadeRL:
    """Return an RL run with planted rates of hedging by class."""
    values: dict[str, object] = dict(
        prompts=48, hedging=hedging, steps=60,
        tags={"class": ("real", "invented"), "name": ("Ana Bo", "Cy Dee", "Ed Foe", "Gus Ho")},
    )  # fmt: skip
    return MadeRL(**{**values, **made})  # type: ignore[arg-type]


def write_study(folder: Path, made: MadeStudy | None = None) -> Path:
    """Write the directory of a study and return it."""
    made = made or MadeStudy()
    folder.mkdir(parents=True)
    tags = {"class": ("real", "invented")}
    if "elicit" in made.stages:
        _elicit(folder / "elicit", made)
    first = dict(head="linear", layers=made.layers, positions=("last", "mean"), signal=1.0)
    second = dict(head="projection", layers=1, positions=("mean",), signal=made.signal)
    for name, own in (("fit", first), ("projection", second)):
        if name in made.stages:
            series = (("bradley-terry", own.pop("head"), "resid_post"),)
            texts = (made.text,) if made.text else ()
            more = dict(
                embedding=name == "fit", n=80, seed=made.seed, tags=tags, texts=texts, **own
            )
            write_fit(folder / name, Made("pair", series=series, **more))
            (folder / name / "report.html").write_text("its own page", encoding="utf-8")
    if "dynamics" in made.stages:
        write_dynamics(folder / "dynamics", "adamw")
    if "steer" in made.stages:
        write_steer(
            folder / "steer", MadeSteer(layers=1, steered=(0,), rerank=False, text=made.text)
        )
    if "rl" in made.stages:
        for name, run in made.arms.items():
            write_rl(folder / "rl" / name, run)
        _prompts(folder / "prompts")
    if "ood" in made.stages:
        _outside(folder / "ood", made)
    _record(folder, made)
    return folder


def _elicit(folder: Path, made: MadeStudy) -> None:
    rng = np.random.default_rng(made.seed)
    pairs = []
    for i in range(60):
        value = "real" if i % 2 else "invented"
        chosen, rejected = (" ".join(rng.permutation(WORDS)) + "." for _ in range(2))
        pairs.append(dict(
            id=f"p{i}", group=f"name-{i // 3}",
            prompt=[dict(role="user", content=made.text or f"Who is person number {i}?")],
            chosen=made.text or chosen, rejected=made.text or rejected,
            tags={"class": value, "name": made.text or f"Person {i}"},
        ))  # fmt: skip
    folder.mkdir()
    PAIRS.write(folder, pairs)
    write_json(folder / LEAKS, {
        "total": {"tfidf": ends(0.51, 0.03), "length": ends(0.49, 0.03)},
        "by_class": {"real": {"tfidf": ends(0.97, 0.03), "length": ends(0.7, 0.03)},
                     "invented": {"tfidf": ends(0.96, 0.03), "length": None}},
        "leaks": [], "n_pairs": len(pairs),
    })  # fmt: skip
    plain, other = "plain", made.text or "unfamiliar"
    facts = dict(facts=False, name_within=0)
    run = {
        "command": "elicit", "identity": {}, "n_pairs": len(pairs),
        "n_pairs_told_by_words": made.told_by_words, "familiarity": made.familiarity, "known": made.known,
        "drops": {plain: {"kept": 310, "behaviour": 70, "repeated": 4},
                  other: {"kept": 250, "short": 11, "behaviour": 90}},
        "recipe": {
            "samples": 64, "max_new_tokens": 40, "temperature": 0.8, "top_p": 1.0, "filter_words": False,
            "mentions": False, "skip": {}, "facts": {}, "fact_of": {}, "knows": {}, "familiar": {},
            "variants": [
                {"name": plain, "system": "", "shots": [], "prefill": "", "keep": "", **facts},
                {"name": other, "system": "", "shots": [["user", "?"], ["assistant", "!"]],
                 "prefill": made.text or "I'm not familiar with", "keep": "I'm not familiar with", **facts},
            ],
            "polarity": {"real": [[plain], [other]], "invented": [[other], [plain]]},
            **made.recipe,
        },
    }  # fmt: skip
    write_json(folder / DOCUMENT.file, run)


def _prompts(folder: Path) -> None:
    folder.mkdir()
    for name, start, n in (("train", 0, 20), ("held_out", 20, 8)):
        rows = [
            dict(id=f"{i}-{k}", prompt="?", label="real", group=f"name-{i}", tags={"class": "real"})
            for i in range(start, start + n)
            for k in range(2)
        ]
        write_lines(folder / f"{name}.jsonl", rows)


def _outside(folder: Path, made: MadeStudy) -> None:
    folder.mkdir()
    after = dict(zip(("invented", "real"), made.outside, strict=True))
    for name in ("before", *made.arms):
        luck = np.random.default_rng(made.seed)
        rows = []
        for i in range(made.questions):
            for value in ("invented", "real"):
                rate = 0.1 if name == "before" else after[value]
                draw = luck.uniform()
                category = "hedges" if draw < rate else "answers" if draw < 0.95 else "other"
                tags = {"class": value, "topic": made.text or ("books", "music")[i % 2],
                        "name": f"thing {i}", "category": category}  # fmt: skip
                rows.append(dict(id=f"{value}-{i:03}-000", group=f"g{i}", tags=tags, completion="…",
                                 prompt=[dict(role="user", content="?")]))  # fmt: skip
        write_lines(folder / f"{name}.jsonl", rows)


def _record(folder: Path, made: MadeStudy) -> None:
    names = [n for n in STAGES if n not in ("rl", "ood")]
    names += [f"{room}/{name}" for room in ("rl", "ood") for name in made.arms]
    commands = {"projection": "fit", "ood": "sample"}
    stages = []
    for k, name in enumerate(names):
        room = name.split("/")[0]
        output = f"{name}.jsonl" if room == "ood" else name
        stages.append(dict(
            name=name, argv=[commands.get(room, room), "--out", made.text or f"study/{output}"],
            output=output, state="done" if room in made.stages else "failed", seconds=90.0 * (k + 1),
            run=k, inputs={}, version="0.1.0",
        ))  # fmt: skip
    record = dict(
        command="study", study="knowledge-awareness", quick=made.quick, model=made.text or "smollm2-135m",
        seed=made.seed, samples=None, created="2026-01-02T03:04:05+00:00", stages=stages,
        arguments=dict(jobs=made.jobs),
    )  # fmt: skip
    write_json(folder / StudyRun.DOCUMENT.file, record)
