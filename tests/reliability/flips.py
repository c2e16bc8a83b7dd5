"""Flip bytes of every kind of artefact, cut it short, read it, and count what comes of it.

python -m tests.reliability.flips --trials 1000 --cuts 300

Prints a table: survived (the same numbers), detected (one line of a ProbekitError), wrong (other numbers),
traceback (anything else). Nothing may be wrong, and nothing may end in a traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import json
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.store import ActivationStore
from probekit.container import atomic_directory, write_json, write_jsonl
from probekit.digests import write_digests
from probekit.errors import ProbekitError
from probekit.models.load import load_model
from probekit.parsing import read_json, read_jsonl
from probekit.probes import Probe, SweepConfig, fit_sweep
from probekit.probes.scoring import Scorer, reference_rows, score_examples
from probekit.results.elicit import COMPLETIONS, DOCUMENT, LEAKS, PAIRS
from probekit.results.runs import open_run
from probekit.rl import RLConfig, Trainer
from probekit.rl.checkpoint import Checkpoint
from probekit.steering import SteerConfig, SteeringVector, steer_sweep
from tests.activations.memory import MemoryRows
from tests.activations.memory import pairs as pair_rows
from tests.reports.rl_factory import MadeRL, write_rl
from tests.steering.conftest import labelled, prompts
from tests.tiny import D_MODEL, save_tiny

OUTCOMES = ("survived", "detected", "wrong", "traceback")
UNREAD = {".html", ".lock"}


def numbers(*values: object) -> str:
    """Return a digest of arrays and of anything that JSON can hold."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype != object:
            found.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
        else:
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            found.update(json.dumps(plain, sort_keys=True, default=str).encode())
    return found.hexdigest()


def of_store(path: Path) -> str:
    with ActivationStore.open(path) as store:
        rows = dataclasses.asdict(store.examples)
        tags = rows.pop("tags")
        tokens = [dataclasses.astuple(store.tokens.row(i)) for i in range(len(store.examples))]
        flat = [part for row in tokens for part in row]
        acts = [store.read(cell) for cell in store.cells()]
        acts += [part for cell in store.ragged_cells() for part in store.read_ragged(cell)]
        head = [store.n_layers, store.d_model, [str(cell) for cell in store.cells()]]
        return numbers(head, *rows.values(), *tags, *tags.values(), *flat, *acts)


def of_fit(folder: Path) -> str:
    probes = Probe.load_all(folder)
    parts = [part for p in probes for part in (p.coef, p.bias, str(p.cell), p.metrics, p.reference)]
    run = open_run(folder)
    frames = [frame.to_json() for frame in (run.metrics, run.rows)]
    return numbers(*parts, Probe.load_shuffled(folder), run.record, *frames)


def of_vector(path: Path) -> str:
    vector = SteeringVector.load(path)
    return numbers(*vector.vectors, *map(np.asarray, vector.vectors.values()), vector.site)


def of_steer(folder: Path) -> str:
    run = open_run(folder)
    frames = [frame.to_json() for frame in (run.metrics, run.rows)]
    return numbers(run.record, run.provenance, *frames, of_vector(folder / "vector.safetensors"))


def of_run(folder: Path) -> str:
    run = open_run(folder)
    curve = read_json(folder / "goodhart.json", ProbekitError, "")
    return numbers(run.record, curve, *(frame.to_json() for frame in (run.metrics, run.rows)))


def of_elicit(folder: Path) -> str:
    run = open_run(folder)
    return numbers(run.record, *(frame.to_json() for frame in (run.metrics, run.rows)))


def of_parts(folder: Path) -> str:
    rows = [read_jsonl(path) for path in sorted(folder.glob("*.jsonl"))]
    return numbers(read_json(folder / "settings.json", ProbekitError, ""), rows)


@dataclasses.dataclass
class Kind:
    """An artefact, and how its numbers are read back."""

    name: str
    path: Path
    read: Callable[[Path], str]
    files: str = "*"
    """Which files of a directory are damaged."""


class Artefacts:
    """One artefact of each kind, of a tiny model.

    Parameters
    ----------
    folder
        Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded = load_model(str(save_tiny(folder / "model")), dtype="float32")
        self.config = CacheConfig(positions="last,mean,all", batch_tokens=60)
        self.rows = pair_rows(8)
        cache_activations(self.loaded, self.rows, folder / "acts.h5", config=self.config).close()

    def kinds(self) -> dict[str, Kind]:
        """Return the kinds by name, each made."""
        made = [
            Kind("store", self.folder / "acts.h5", of_store),
            Kind("interrupted capture", self._interrupted(), self._resumed),
            Kind("fit", self._fit(), of_fit),
            *self._vectors(),
            Kind("steering run", self._steer(), of_steer),
            Kind("RL run", self._run(), of_run),
            Kind("RL checkpoint", self._checkpoint(), self._restored),
            *self._elicited(),
            Kind("model weights", self.folder / "model", self._scored, "*.safetensors"),
            Kind("model, other files", self.folder / "model", self._scored, "*[!s]"),
        ]
        return {kind.name: kind for kind in made}

    def _interrupted(self) -> Path:
        def stop(what: str, done: int, total: int) -> None:
            if what == "capturing" and done > total // 2:
                raise KeyboardInterrupt

        (self.folder / "half").mkdir()
        out = self.folder / "half" / "acts.h5"
        try:
            cache_activations(self.loaded, self.rows, out, config=self.config, progress=stop)
        except KeyboardInterrupt:
            pass
        assert (out.parent / "acts.h5.partial" / "progress.json").is_file()
        return out.parent

    def _resumed(self, folder: Path) -> str:
        out = folder / "acts.h5"
        cache_activations(self.loaded, self.rows, out, config=self.config, resume=True).close()
        return of_store(out)

    def _fit(self) -> Path:
        cache_activations(
            self.loaded,
            MemoryRows(labelled(), kind="label", classes=("ab", "xy")),
            self.folder / "labels.h5",
            config=CacheConfig(positions="mean"),
        ).close()
        with ActivationStore.open(self.folder / "labels.h5") as store:
            result = fit_sweep(store, SweepConfig())
            result = result.with_reference(reference_rows(store, result.probe))
        with atomic_directory(self.folder / "fit") as folder:
            result.save(folder)
            arguments = {"store": str(self.folder / "labels.h5")}
            write_json(folder / "run.json", {**result.fit, "arguments": arguments})
        return self.folder / "fit"

    def _scored(self, folder: Path) -> str:
        """Score rows with a probe of the whole model, in a folder that names no digests."""
        loaded = load_model(str(folder), dtype="float32")
        scorer = Scorer(Probe.load(self.folder / "fit"), loaded)
        rows = [row["score"] for row in score_examples(scorer, labelled()[:8], source="rows")]
        return numbers(np.asarray(rows))

    def _vectors(self) -> list[Kind]:
        rng = np.random.default_rng(0)
        vector = SteeringVector({k: rng.standard_normal(D_MODEL) for k in (1, 2)})
        paths = [self.folder / f"vector.{suffix}" for suffix in ("safetensors", "gguf")]
        for path in paths:
            vector.save(path)
        return [Kind(f"vector, {path.suffix[1:]}", path, of_vector) for path in paths]

    def _steer(self) -> Path:
        config = SteerConfig(
            shuffled_controls=0, placebo_controls=0, random_controls=1, max_new_tokens=4,
            coeffs="-1:1:1", samples=1,
        )  # fmt: skip
        steer_sweep(self.loaded, self.folder / "fit", prompts(), self.folder / "steer", config)
        return self.folder / "steer"

    def _run(self) -> Path:
        folder = write_rl(self.folder / "run", MadeRL(steps=4, every=2, prompts=4))
        logs = ["metrics.jsonl", "evaluations.jsonl", "samples.jsonl"]
        write_digests(folder, logs, growing=logs)
        return folder

    def _checkpoint(self) -> Path:
        folder = self.folder / "training"
        folder.mkdir()
        config = RLConfig(
            steps=2, prompts=2, group=2, max_new_tokens=3, eval_prompts=2, eval_samples=1, rank=2,
            eval_every=2,
        )  # fmt: skip
        head = Probe.load(self.folder / "fit")
        # The model stays that of the other kinds: the adapter goes into one of its own.
        own = load_model(str(self.folder / "model"), dtype="float32")
        self.trainer = Trainer(own, [head], prompts()[:4], prompts()[4:], config, folder)
        self.trainer.run()
        return folder

    def _restored(self, folder: Path) -> str:
        trainer = self.trainer
        step = Checkpoint(folder).load(trainer.policy, trainer.learner)
        state = trainer.learner.optimizer.state_dict()
        moments = [np.asarray(v) for each in state["state"].values() for v in each.values()]
        weights = [each.detach().numpy() for each in trainer.policy.masters.all]
        logs = [path.read_text() for path in sorted(folder.glob("*.jsonl"))]
        return numbers(step, *weights, *moments, state["param_groups"], logs)

    def _elicited(self) -> list[Kind]:
        rng = np.random.default_rng(1)
        (self.folder / "parts").mkdir()
        (folder := self.folder / "elicit").mkdir()
        rows = [
            {
                "id": f"r{i}", "prompt": [{"role": "user", "content": "Who?"}], "completion": f"I am {i}.",
                "label": "plain", "group": f"g{i}", "tags": {"class": "a"}, "prompt_id": f"p{i}",
                "variant": "plain", "sample": i, "finished": True, "chosen": "yes", "rejected": "no",
                "kept": "kept",
            }
            for i in range(6)
        ]  # fmt: skip
        COMPLETIONS.write(folder, rows)
        PAIRS.write(folder, rows)
        part = {"tfidf": {"value": rng.random(), "low": 0.1, "high": 0.9}}
        write_json(folder / LEAKS, {"total": part, "by_class": {"a": part}})
        write_json(folder / DOCUMENT.file, elicit_record())
        write_digests(folder, [COMPLETIONS.file, PAIRS.file])
        write_json(self.folder / "parts" / "settings.json", {"model": "a", "seed": 0})
        for number in range(2):
            write_jsonl(self.folder / "parts" / f"{number:05d}.jsonl", rows, seal=True)
        return [
            Kind("elicited pairs", folder, of_elicit),
            Kind("interrupted elicit", self.folder / "parts", of_parts),
        ]


def elicit_record() -> dict[str, object]:
    """Return a run record as `probekit elicit` leaves it, as far as readers need it."""
    return {
        "command": "elicit", "arguments": {}, "seed": 0, "recipe": {"name": "r"}, "identity": {},
        "familiarity": None, "known": {}, "drops": {}, "n_pairs": 6, "n_pairs_told_by_words": 0,
    }  # fmt: skip


def damage(path: Path, rng: np.random.Generator, *, cut: bool, files: str = "*") -> str:
    """Change one byte of a file, or of one of a directory's, or cut it short; return what was done."""
    found = [path] if path.is_file() else sorted(f for f in path.rglob(files) if f.is_file())
    found = [f for f in found if f.suffix not in UNREAD and f.name != "lock" and f.stat().st_size]
    file = found[int(rng.integers(len(found)))]
    data = bytearray(file.read_bytes())
    at = int(rng.integers(len(data)))
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
    file.write_bytes(data)
    return f"{file.name} {'cut at' if cut else 'byte'} {at}"


def trial(kind: Kind, expected: str, rng: np.random.Generator, *, cut: bool) -> tuple[str, str]:
    """Damage a copy of an artefact and read it; return the outcome and what was seen."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        copy = Path(scratch) / kind.path.name
        (shutil.copytree if kind.path.is_dir() else shutil.copy)(kind.path, copy)
        done = damage(copy, rng, cut=cut, files=kind.files)
        try:
            found = kind.read(copy)
        except ProbekitError as error:
            return ("detected" if "\n" not in str(error) else "traceback"), f"{done}: {error}"
        except Exception as error:  # noqa: BLE001 - what is counted
            return "traceback", f"{done}: {type(error).__name__}: {error}"
    return ("survived" if found == expected else "wrong"), done


def run(
    folder: Path, *, trials: int, cuts: int, seed: int, only: str = "", seconds: float = 1e9,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Counter[str]]:  # fmt: skip
    """Return kind to outcomes; `tell` is given a line for each that must not be."""
    found: dict[str, Counter[str]] = {}
    warnings.simplefilter("ignore")
    for name, kind in Artefacts(folder).kinds().items():
        if only and only not in name:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / kind.path.name
            (shutil.copytree if kind.path.is_dir() else shutil.copy)(kind.path, whole)
            expected = kind.read(whole)
        rng, counts, until = np.random.default_rng(seed), Counter[str](), time.monotonic() + seconds
        for number in range(trials + cuts):
            # Cuts lie evenly among the flips, so that a run cut off by the clock has both.
            cut = (number * cuts) % (trials + cuts) < cuts
            outcome, seen = trial(kind, expected, rng, cut=cut)
            counts[outcome] += 1
            counts["cuts" if cut else "flips"] += 1
            if outcome in OUTCOMES[2:]:
                tell(f"{name}: {outcome}: {seen}")
            if time.monotonic() > until:
                break
            if number % 50 == 0:
                gc.collect()
        found[name] = counts
        row = " | ".join(str(counts[key]) for key in ("flips", "cuts", *OUTCOMES))
        tell(f"| {name} | {row} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="Flips a kind.")
    parser.add_argument("--cuts", type=int, default=300, help="Truncations a kind.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Kinds with this in their name.")
    parser.add_argument("--seconds", type=float, default=1e9, help="Most seconds a kind.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(
            Path(folder), trials=args.trials, cuts=args.cuts, seed=args.seed, only=args.only,
            seconds=args.seconds, tell=lambda line: click.echo(line),
        )  # fmt: skip


if __name__ == "__main__":
    main()
