"""`train_run`: a whole run on disk, from probe directories and prompts to metrics and adapters."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probekit.behaviours import Behaviours, Wanted
from probekit.container import as_json, discard, disk_errors, write_json
from probekit.data.prompts import open_prompts
from probekit.data.rows import Example
from probekit.digests import DIGESTS
from probekit.errors import DataError, OutputError, ProbeError, StoreError
from probekit.foreign import recorded
from probekit.models.kv_cache import check_decoding
from probekit.models.load import LoadedModel, load_model
from probekit.outputs import claim
from probekit.parsing import read_json
from probekit.probes.probe import Probe
from probekit.probes.scoring import Scorer
from probekit.provenance import agrees, run_record
from probekit.results.goodhart import CURVE, detectable
from probekit.results.rl import RLRun
from probekit.results.rl_files import BEST_OF, DOCUMENT
from probekit.rl.checkpoint import LOGS, Logs
from probekit.rl.config import RLConfig
from probekit.rl.head_data import HeadData
from probekit.rl.policy import AGAIN
from probekit.rl.prompts import Balance
from probekit.rl.target import bad_scores, good_scores
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
    held_out: set[str] = set()
    for place, value in enumerate(sorted(set(value_of.values()))):
        groups = sorted(group for group, tagged in value_of.items() if tagged == value)
        if len(groups) < 2:
            raise DataError(
                f"prompts: {len(groups)} group{f' with {balance} {value!r}' if value else ''}. "
                "Expected two or more, so that some can be held out."
            )
        order = np.random.default_rng([seed, place]).permutation(len(groups))
        n = max(1, round(HELD_OUT * len(groups)))
        held_out.update(groups[int(i)] for i in order[:n])
    train = [p for p in prompts if p.group not in held_out]
    # Interleaved by class, so that the first few are of every class.
    rest = [p for p in prompts if p.group in held_out]
    rank: dict[str, int] = {}
    keyed = []
    for prompt in rest:
        value = value_of[prompt.group]
        rank[value] = rank.get(value, 0) + 1
        keyed.append((rank[value], value, prompt))
    return train, [prompt for *_, prompt in sorted(keyed, key=lambda item: item[:2])]


def train_run(
    loaded: LoadedModel | Any,  # noqa: ANN401 - or any model in memory
    probes: Sequence[str | Path],
    prompts: Sequence[Example] | Any,  # noqa: ANN401 - or any source of prompts
    out: str | Path,
    config: RLConfig | None = None,
    *,
    behaviours: Behaviours | None = None,
    behaviour: str | Sequence[str] = (),
    held_out: Sequence[Example] | None = None,
    toward: str | None = None,
    ensemble_layers: Sequence[int] = (),
    store: str | Path | None = None,
    allow_code: bool = False,
    resume: bool = False,
    force: bool = False,
    arguments: Mapping[str, Any] | None = None,
    log: Log = lambda row: None,
    finish: Callable[[Path], object] = lambda folder: None,
) -> Trainer:
    """Train a model against heads on its own frozen self, and write what happened to `out`.

    Parameters
    ----------
    loaded
        The model of the probes; gets an adapter in place.
    probes
        Directories written by `probekit fit`. The chosen probe of each is optimised, all together
        as an ensemble; probes of other layers and positions of the first are read along.
    prompts
        To train on; without `held_out` a quarter of their groups is kept for evaluation.
    out, config
        Directory to write, and settings.
    behaviours, behaviour
        Counted at evaluations; the category of them that should become more frequent,
        `NAME[,NAME...]`, or several of `TAG=VALUE:NAME[,NAME...]`.
    held_out
        Prompts to evaluate on, of groups that are not trained on.
    toward
        Class whose log-odds are the score, of heads that were fitted to labels.
    ensemble_layers, store
        Layers of the first fit whose heads join the ensemble; what the first probe was fitted on,
        where it is not at the path that its fit recorded.
    allow_code, resume, force
        Import the functions that `config.rewards` names; continue from the last checkpoint; replace
        what is at `out`.
    arguments, log
        For the run record; receives every row of metrics and every evaluation.
    finish
        Called with the directory when all else is written, for example to write a report.

    Raises
    ------
    ProbekitError
        When probes, prompts and model do not fit each other, or `out` exists.
    """
    config, loaded = config or RLConfig(), load_model(loaded)
    wanted = Wanted.parse([behaviour] if isinstance(behaviour, str) else behaviour, behaviours)
    with claim(
        out, DOCUMENT.command, force=force, resume=resume, marker=DOCUMENT.file, keeps=True,
        inputs=[*probes, store],
    ) as path:  # fmt: skip
        _check_resumed(path, resume=resume)
        check_decoding(loaded.model)
        heads, data = open_heads(
            loaded, probes, ensemble_layers, store, toward=toward, needed=config.needs_rows, log=log
        )
        trainer = Trainer(
            loaded, heads, *_prompts(prompts, held_out, config), config, path,
            independent=_others(probes[0], heads),
            behaviours=behaviours, wanted=wanted, data=data, allow_code=allow_code,
        )  # fmt: skip
        record = _record(trainer, probes, arguments)
        _write_run(trainer, record, resume=resume, log=log)
        finish(path)
    return trainer


def _write_run(trainer: Trainer, record: dict[str, Any], *, resume: bool, log: Log) -> None:
    """Train in the run's folder, which this process holds, and write all but the report."""
    out = trainer.folder
    with disk_errors(out):
        out.mkdir(exist_ok=True)
    if not (continued := resume and _same_run(out, record)):
        _clear(out)
    write_json(out / DOCUMENT.file, record)
    if trainer.wanted:
        log({"note": _can_show(trainer)})
        if left := ", ".join(getattr(trainer.policy, "left_out", [])):
            log({"note": f"note: the adapter leaves out {left}, which it cannot be merged into."})
    trainer.run(resume=continued, log=log)
    Logs(out).seal()
    write_json(out / CURVE, _came_to(trainer))


def _came_to(trainer: Trainer) -> dict[str, Any]:
    """Return what goodhart.json holds: the curve with its verdict, and best-of-n beside it."""
    found = RLRun.open(trainer.folder).picks
    return {**trainer.goodhart().to_json(), "best_of": as_json(found)}


def _can_show(trainer: Trainer) -> str:
    """Return a line on the smallest change of the wanted rate that the run's evaluations can show."""
    config, wanted = trainer.config, trainer.wanted
    held_out = trainer.evaluator.prompts
    n = sum(wanted is not None and wanted.holds("", p.tags) is not None for p in held_out)
    found, smallest = detectable(n, config.eval_samples), 100 * config.smallest_effect
    of = f"{n} prompts x {config.eval_samples} at an evaluation"
    if math.isnan(found):
        return f"{of}: too few to show any change of the wanted behaviour."
    line = f"{of} show a change of {100 * found:.0f} points in the wanted behaviour (power 80 %)."
    if found <= config.smallest_effect:
        return line
    return (
        f"{line} The smallest effect is {smallest:g} points: the verdict may stay undecided. "
        "Raise --eval-prompts or --eval-samples."
    )


def _prompts(
    prompts: Any,  # noqa: ANN401 - any source of prompts
    held_out: Any,  # noqa: ANN401
    config: RLConfig,
) -> tuple[list[Example], list[Example]]:
    """Return prompts to train on and to evaluate on; no group is in both."""
    prompts = open_prompts(prompts)
    if held_out is None:
        balance = Balance.parse(config.balance)
        return split_prompts(prompts, seed=config.seed, balance=balance and balance.tag)
    held_out = open_prompts(held_out)
    groups = {prompt.group for prompt in held_out}
    if shared := sorted(groups & {prompt.group for prompt in prompts}):
        raise DataError(
            f"held-out prompts: group {shared[0]!r} is among the prompts to train on "
            f"({len(shared)} such groups). Expected none."
        )
    if not held_out:
        raise DataError("held-out prompts: there are none. Expected at least one.")
    return list(prompts), list(held_out)


def open_heads(
    loaded: LoadedModel,
    probes: Sequence[str | Path],
    layers: Sequence[int] = (),
    store: str | Path | None = None,
    *,
    toward: str | None = None,
    needed: bool = False,
    log: Log = lambda row: None,
) -> tuple[list[Probe], list[HeadData]]:
    """Return the heads of an ensemble and, where their stores are there, what they were fitted on.

    `log` is told what a run goes without where they are not.

    Raises
    ------
    ProbekitError
        When a probe cannot be read, or a store is `needed` and is not there.
    """
    if not probes:
        raise DataError("probes: there are none. Expected one directory at least.")
    named = [(directory, Probe.load(directory)) for directory in probes]
    named += [(probes[0], Probe.load(probes[0], layer=layer)) for layer in layers]
    if toward is not None:
        named = [(directory, head.toward(toward)) for directory, head in named]
    data: list[HeadData] = []
    try:
        for directory, head in named:
            named_store = store if directory == probes[0] else None
            data.append(HeadData.open(directory, head, named_store))
    except (ProbeError, StoreError) as error:
        # The run can do without, unless somebody asked for what needs it.
        if needed or store or layers:
            raise
        data = []
        log({"note": f"note: {error} Until then no distance and no head of disjoint rows is read."})
    heads = [head for _, head in named]
    for head in heads:
        Scorer(head, loaded)  # proves that it is their model
    for k, item in enumerate(data):
        if not heads[k].distributions:
            heads[k] = item.with_distributions(heads[k])
            data[k] = dataclasses.replace(item, head=heads[k])
    return heads, data


def _record(
    trainer: Trainer, probes: Sequence[str | Path], arguments: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return run.json: settings, model, heads, their target and the prompts."""
    settings = json.loads(json.dumps(dataclasses.asdict(trainer.config)))
    settings["estimator"] = trainer.config.advantage
    return {
        **run_record(DOCUMENT.command, dict(arguments or settings), seed=trainer.config.seed),
        "settings": settings,
        "probes": recorded([str(directory) for directory in probes]),
        "behaviour": str(trainer.wanted) if trainer.wanted else None,
        **trainer.loaded.describe(),
        "labels": trainer.config.labels(),
        "optimised": [f"{head.kind}/{head.cell}" for head in trainer.heads],
        "target": _target(trainer),
        "n_train": len(trainer.prompts),
        "n_held_out": len(trainer.held_out),
        "n_evaluated": len(trainer.evaluator.prompts),
        "identity": _identity(trainer),
        "n_trainable": trainer.policy.n_trainable,
    }


def _target(trainer: Trainer) -> dict[str, Any]:
    """Return what the run aims at: scores of the chosen and the rejected rows, by class."""
    tag, distributions = trainer.config.target_tag, trainer.ensemble.distributions
    parts = {"": distributions.get("all", {})}
    parts |= distributions.get("by_tag", {}).get(tag or trainer.tag, {})
    return {
        "name": trainer.config.target,
        "tag": tag,
        "positive_class": trainer.heads[0].positive_class,
        "chosen": {value: good_scores(part).tolist() for value, part in parts.items()},
        "rejected": {value: bad_scores(part).tolist() for value, part in parts.items()},
    }


def _check_resumed(out: Path, *, resume: bool) -> None:
    if resume and out.exists() and any(out.iterdir()) and not (out / DOCUMENT.file).is_file():
        raise OutputError(f"{out}: holds no run to resume. Choose another --out.")


def _same_run(out: Path, record: dict[str, Any]) -> bool:
    """Return whether there is a run in a directory; it must be this one, but for its length."""
    if not (out / DOCUMENT.file).is_file():
        return False
    before = read_json(out / DOCUMENT.file, OutputError, AGAIN)
    # A setting that is younger than the run had its default.
    before["settings"] = {**dataclasses.asdict(RLConfig()), **before.get("settings", {})}
    for key in ("settings", "identity"):
        then, now = (dict(part.get(key, {})) for part in (before, record))
        for name in sorted(now.keys() - {"steps"}):
            if not agrees(then, {**then, name: now[name]}):
                raise OutputError(
                    f"{out}: was started with {name} {then.get(name)!r}, now {now[name]!r}. "
                    "Resume with the same settings, or pass --force."
                )
    return True


def _identity(trainer: Trainer) -> dict[str, Any]:
    """Return short hashes of what a run is of, beside its settings: heads, prompts, behaviour, model."""

    def digest(*parts: bytes) -> str:
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

    behaviours = trainer.behaviours.describe() if trainer.behaviours else None
    model = trainer.loaded.describe()
    return {
        "heads": digest(*(np.append(h.coef, h.bias).tobytes() for h in trainer.heads)),
        "prompts": digest(*(p.id.encode() for p in trainer.prompts)),
        "held_out": digest(*(p.id.encode() for p in trainer.evaluator.prompts)),
        "behaviours": digest(json.dumps(behaviours, default=str).encode()),
        "behaviour": str(trainer.wanted) if trainer.wanted else None,
        "model": model.get("weights_fingerprint"),
        "weights_digest": model.get("weights_digest"),
        "config_hash": model.get("config_hash"),
        "dtype": str(trainer.loaded.dtype),
    }


def _clear(out: Path) -> None:
    """Take away what an earlier run left in its directory, but its record: by it the directory is known."""
    with disk_errors(out):
        for name in (DIGESTS, *LOGS, BEST_OF.file, CURVE, "report.html"):
            (out / name).unlink(missing_ok=True)
        for name in ("checkpoint", "best", "tensorboard"):
            discard(out / name)


def _others(directory: str | Path, heads: Sequence[Probe]) -> list[Probe]:
    """Return probes that nothing optimises: three other layers, two other positions."""
    chosen, taken = heads[0], {head.cell for head in heads}
    every = [p for p in Probe.load_all(directory) if p.kind == chosen.kind and p.cell not in taken]
    same = [p for p in every if (p.site, p.position) == (chosen.site, chosen.position)]
    at = sorted({round(q * (len(same) - 1)) for q in (0.25, 0.6, 1.0)}) if same else []
    places = [p for p in every if (p.site, p.layer) == (chosen.site, chosen.layer)]
    others = [same[i] for i in at] + places[:2]
    return [p.toward(chosen.classes[1]) for p in others] if chosen.classes else others
