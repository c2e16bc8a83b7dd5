"""`train_run`: a whole run on disk, from probe directories and prompts to metrics and adapters."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probekit.behaviours import Behaviours
from probekit.container import disk_errors, refuse_existing, write_json
from probekit.data.rows import Example
from probekit.errors import BehaviourError, DataError, OutputError
from probekit.models.load import LoadedModel
from probekit.probes.probe import Probe
from probekit.probes.scoring import Scorer
from probekit.provenance import run_record
from probekit.rl.checkpoint import LOGS
from probekit.rl.config import RLConfig
from probekit.rl.goodhart import goodhart
from probekit.rl.train import Log, Trainer

HELD_OUT = 0.25
"""Share of the prompts' groups that are kept for evaluation."""


def split_prompts(
    prompts: Sequence[Example], *, seed: int, balance: str | None = None
) -> tuple[list[Example], list[Example]]:
    """Return prompts to train on and prompts to evaluate on; a group is wholly in one of them.

    With `balance` the same share of groups is held out of every value of that tag.

    Raises
    ------
    DataError
        When there are too few groups to hold any out.
    """
    value_of = {p.group: p.tags.get(balance, "") if balance else "" for p in prompts}
    held: set[str] = set()
    for place, value in enumerate(sorted(set(value_of.values()))):
        groups = sorted(group for group, own in value_of.items() if own == value)
        if len(groups) < 2:
            raise DataError(
                f"prompts: {len(groups)} group{f' with {balance} {value!r}' if value else ''}. "
                "Expected two or more, so that some can be held out."
            )
        order = np.random.default_rng([seed, place]).permutation(len(groups))
        n = max(1, round(HELD_OUT * len(groups)))
        held.update(groups[int(i)] for i in order[:n])
    train = [p for p in prompts if p.group not in held]
    # Interleaved by class, so that the first few are of every class.
    rest = [p for p in prompts if p.group in held]
    rank: dict[str, int] = {}
    keyed = []
    for prompt in rest:
        value = value_of[prompt.group]
        rank[value] = rank.get(value, 0) + 1
        keyed.append((rank[value], value, prompt))
    return train, [prompt for *_, prompt in sorted(keyed, key=lambda item: item[:2])]


def train_run(
    loaded: LoadedModel,
    probes: Sequence[str | Path],
    prompts: Sequence[Example],
    out: str | Path,
    config: RLConfig | None = None,
    *,
    behaviours: Behaviours | None = None,
    behaviour: str | None = None,
    resume: bool = False,
    force: bool = False,
    arguments: Mapping[str, Any] | None = None,
    log: Log = lambda row: None,
) -> Trainer:
    """Train a model against heads on its own frozen self, and write what happened to `out`.

    Parameters
    ----------
    loaded
        The model that the probes were fitted on; gets an adapter in place.
    probes
        Directories written by `probekit fit`. The chosen probe of each is optimised, all together
        as an ensemble; the first one's probes at three other layers are read along.
    prompts
        A quarter of their groups is held out for evaluation.
    out
        Directory to write.
    config
        Settings.
    behaviours
        Counted at evaluations.
    behaviour
        The category among them that should become more frequent, for the verdict.
    resume, force
        Continue from the last checkpoint; replace what is at `out`.
    arguments
        For the run record.
    log
        Receives every row of metrics and every evaluation.

    Raises
    ------
    ProbekitError
        When probes, prompts and model do not fit each other, or `out` exists.
    """
    config, out = config or RLConfig(), Path(out)
    heads = [Probe.load(directory) for directory in probes]
    if not heads:
        raise DataError("probes: there are none. Expected one directory at least.")
    if behaviour is not None and (behaviours is None or behaviour not in behaviours.names):
        known = ", ".join(behaviours.names) if behaviours else "none, without a behaviours file"
        raise BehaviourError(f"behaviour {behaviour!r}: is no category. Expected {known}.")
    if not resume:
        refuse_existing(out, force=force, marker="run.json")
    for head in heads:
        Scorer(head, loaded, batch_tokens=config.batch_tokens)  # proves that it is their model
    train, held_out = split_prompts(prompts, seed=config.seed, balance=config.balance)
    settings = dataclasses.asdict(config)
    continued = resume and (out / "run.json").is_file()
    if continued:
        _same_settings(out, settings)
    trainer = Trainer(
        loaded, heads, train, held_out, config, out,
        independent=_others(probes[0], heads[0]), behaviours=behaviours,
    )  # fmt: skip
    record = {
        **run_record("rl", dict(arguments or settings), seed=config.seed),
        **loaded.describe(),
        "settings": settings,
        "probes": [str(directory) for directory in probes],
        "n_train": len(train),
        "n_held_out": len(held_out),
        "n_trainable": trainer.policy.n_trainable,
    }
    if not continued:
        _make(out)
    write_json(out / "run.json", record)
    trainer.run(resume=continued, log=log)
    _judge(out, heads, behaviour)
    return trainer


def _judge(out: Path, heads: Sequence[Probe], behaviour: str | None) -> None:
    """Write goodhart.json from the samples of all evaluations."""
    lines = (out / "samples.jsonl").read_bytes().split(b"\n")
    rows = [json.loads(line) for line in lines if line]
    optimised = [f"{head.kind}/{head.cell}" for head in heads]
    found = goodhart(rows, optimised=optimised, behaviour=behaviour)
    write_json(out / "goodhart.json", found.to_json())


def _same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Check that the run in a directory has the same settings, but for its length."""
    known = json.loads((out / "run.json").read_text(encoding="utf-8")).get("settings", {})
    for key in sorted(settings.keys() - {"steps"}):
        if known.get(key) != settings[key]:
            raise OutputError(
                f"{out}: was started with {key} {known.get(key)!r}, now {settings[key]!r}. "
                "Resume with the same settings, or pass --force."
            )


def _make(out: Path) -> None:
    """Make the directory of a run, without what an earlier one left in it."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (*LOGS, "run.json", "goodhart.json"):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "checkpoint", ignore_errors=True)


def _others(directory: str | Path, chosen: Probe) -> list[Probe]:
    """Return the probes of three layers other than the chosen one, spread over the model."""
    rest = [probe for probe in Probe.load_layers(directory) if probe.layer != chosen.layer]
    at = sorted({round(q * (len(rest) - 1)) for q in (0.25, 0.6, 1.0)}) if rest else []
    return [rest[i] for i in at]
