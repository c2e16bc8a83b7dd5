"""`train_dpo`: a model trained on preferences, and what that did to pairs it has not seen."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.container import atomic_directory, write_json, write_jsonl
from probekit.data.memory import Rows
from probekit.data.open import Dataset, open_dataset
from probekit.errors import OutputError
from probekit.models.load import LoadedModel, at_date_of
from probekit.outputs import claim
from probekit.parsing import read_jsonl
from probekit.partial import PartialFolder
from probekit.provenance import run_record
from probekit.results.dpo import ADAPTER, DOCUMENT, HELD_OUT, HISTORY, DPORun
from probekit.rl.dpo_config import DPOConfig
from probekit.rl.dpo_engine import Log, learn
from probekit.rl.dpo_rows import Pair, check_pairs, read_pairs, sequence_logprobs, split_pairs
from probekit.rl.policy import Policy, model_to_train
from probekit.rl.trl_guard import require_trl

Sums = NDArray[np.float64]


class DPOWork(PartialFolder):
    """The folder `OUT.partial`: TRL's checkpoints, and what was measured before training."""

    def before(self) -> list[list[float]] | None:
        """Return the log-probabilities of both sides before training; None where they are to be taken."""
        if not (file := self.path / "before.jsonl").is_file():
            return None
        rows = read_jsonl(file, OutputError, "Remove it to measure again, or pass --force.")
        return [[row[side] for row in rows] for side in ("chosen", "rejected")]

    def keep_before(self, sides: Sequence[Sums]) -> None:
        """Keep what was measured before training."""
        rows = [{"chosen": a, "rejected": b} for a, b in zip(*sides, strict=True)]
        write_jsonl(self.path / "before.jsonl", rows, seal=True)


def train_dpo(
    model: Any,  # noqa: ANN401 - any model
    data: Rows | Dataset | str | Path,
    out: str | Path,
    config: DPOConfig | None = None,
    *,
    tokenizer: Any = None,  # noqa: ANN401 - a transformers tokenizer
    resume: bool = False,
    force: bool = False,
    log: Log = lambda row: None,
    **settings: Any,  # noqa: ANN401 - keys of DPOConfig
) -> DPORun:
    """Train a copy of a model on pairs with TRL's DPOTrainer, and measure held-out pairs before and after.

    Does what `probekit dpo` does. The reward of a completion is beta * log(p(completion) / p0(completion)),
    with p0 the model before (2305.18290). A model in memory stays as it is.

    Parameters
    ----------
    model, tokenizer
        What `load_model` takes.
    data
        Pairs, as `read_rows` takes them.
    out
        Directory of the run; its adapter lies in `out/adapter`.
    config
        Settings; its keys are taken by name too, as in `epochs=2`.
    resume, force
        Continue from the last checkpoint; replace what is at `out`.
    log
        Receives a row a training step.

    Raises
    ------
    ProbekitError
        When model and rows do not fit, rows are no pairs, or `out` exists.

    Examples
    --------
    >>> from probekit.rl import train_dpo
    >>> pairs = [{"prompt": f"{k} + {k}?", "chosen": f"{2 * k}", "rejected": "who knows"} for k in range(8)]
    >>> run = train_dpo("smollm2-135m", pairs, "tuned", steps=1, batch=2)
    >>> sorted(run.metrics["when"].unique()), len(run.history)
    (['after', 'before', 'change'], 1)
    """
    config = DPOConfig.of_keys(config, settings)
    require_trl("train_dpo")
    dataset = open_dataset(data)
    check_pairs(dataset)
    loaded = model_to_train(model, tokenizer)
    return run_dpo(loaded, dataset, out, config, resume=resume, force=force, log=log)


def run_dpo(
    loaded: LoadedModel,
    dataset: Dataset,
    out: str | Path,
    config: DPOConfig,
    *,
    resume: bool = False,
    force: bool = False,
    arguments: Mapping[str, Any] | None = None,
    log: Log = lambda row: None,
) -> DPORun:
    """Do what `train_dpo` does, on a loaded model itself, which gets an adapter in place.

    Parameters
    ----------
    loaded, dataset
        The model, and pairs that `check_pairs` has seen.
    out, config, resume, force, log
        See `train_dpo`; `log` receives notes too.
    arguments
        For the run record.
    """
    version = require_trl(DOCUMENT.command)
    inputs = [dataset.source, loaded.spec]
    with claim(
        out, DOCUMENT.command, force=force, resume=resume, marker=DOCUMENT.file, inputs=inputs
    ) as path:
        work = DPOWork.beside(path)
        if resume:
            work.refuse_whole(path)
            loaded = at_date_of(loaded, work.settings() or {})
        pairs, left = read_pairs(dataset, loaded, config.max_tokens)
        train, held_out = split_pairs(pairs, config.held_out, seed=config.seed)
        settings = json.loads(json.dumps(dataclasses.asdict(config)))
        begun = {**loaded.describe(), **settings, "data": dataset.fingerprint, "trl": version}
        work.open(begun, resume=resume, force=force, replaces=path.exists())
        log({"note": _counts(train, held_out, left)})
        policy = Policy(
            loaded, rank=config.rank, alpha=config.alpha, targets=config.lora_targets, seed=config.seed
        )  # fmt: skip
        before = work.before()
        if before is None:
            with policy.reference():
                measured = _sides(loaded, held_out)
            work.keep_before(measured)
            before = [side.tolist() for side in measured]
        history = learn(policy, train, config, work.path, log)
        after = _sides(loaded, held_out)
        record = {
            **run_record(DOCUMENT.command, dict(arguments or settings), seed=config.seed),
            "settings": settings,
            "labels": config.labels(),
            **loaded.describe(),
            "trl": version,
            "data": {
                "source": Path(dataset.source).name, "fingerprint": dataset.fingerprint,
                "understood": dataset.understood,
            },
            "n_train": len(train),
            "n_held_out": len(held_out),
            "n_cut": sum(pair.cut for pair in pairs),
            "left_out": left,
            "n_trainable": policy.n_trainable,
            "steps": int(history[-1]["step"]),
        }  # fmt: skip
        with atomic_directory(path, force=force or work.replaces) as target:
            policy.save(target / ADAPTER)
            HELD_OUT.write(target, _rows(held_out, before, after))
            HISTORY.write(target, history)
            write_json(target / DOCUMENT.file, record)
        work.remove()
    return DPORun.open(path)


def _sides(loaded: LoadedModel, pairs: Sequence[Pair]) -> list[Sums]:
    """Return the log-probabilities of the chosen and of the rejected completions, (n_pairs,) each."""
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    found = sequence_logprobs(loaded, rows)
    return [found[0::2], found[1::2]]


def _rows(
    pairs: Sequence[Pair], before: Sequence[Sequence[float]], after: Sequence[Sums]
) -> list[dict[str, Any]]:
    return [
        {
            "id": pair.example.id,
            "group": pair.example.group,
            "tags": dict(pair.example.tags),
            "n_chosen": len(pair.chosen.ids) - max(pair.chosen.new, 1),
            "n_rejected": len(pair.rejected.ids) - max(pair.rejected.new, 1),
            "chosen_before": before[0][i],
            "rejected_before": before[1][i],
            "chosen_after": after[0][i],
            "rejected_after": after[1][i],
        }
        for i, pair in enumerate(pairs)
    ]


def _counts(train: Sequence[Pair], held_out: Sequence[Pair], left: Mapping[str, int]) -> str:
    n_groups = len({pair.example.group for pair in held_out})
    n_cut = sum(pair.cut for pair in (*train, *held_out))
    parts = [
        f"pairs    {len(train)} to train on, {len(held_out)} of {n_groups} groups held out",
        *([f"{n_cut} cut at --max-tokens"] if n_cut else []),
        *(f"{n} left out ({reason})" for reason, n in left.items()),
    ]
    return "; ".join(parts)
