"""Time and memory of the checks: the same work with and without them, in turns.

OMP_NUM_THREADS=1 python benchmarks/checks.py [ROUNDS] [ROWS] [ONLY]. Without them every digest and row sum
is a constant, computed of nothing, so that all else stays as it is. Times are seconds: the median of the
rounds and their range; the ratio is the median of the rounds own. The peak is of a forked child that does the
work, over what it had before. The model is SmolLM2-135M (`probekit models pull smollm2-135m`), the store
holds ROWS rows of five random words at 30 layers and one position. ONLY is a part of a row's name.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from probekit import digests
from probekit.activations import checksums, workdir
from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.store import ActivationStore
from probekit.container import atomic_directory, write_json
from probekit.data.open import open_dataset
from probekit.models import load
from probekit.probes import Probe, SweepConfig, fit_sweep
from probekit.probes.scoring import Scorer, reference_rows, score_examples
from probekit.rl import RLConfig, Trainer
from probekit.rl.checkpoint import Checkpoint
from tests.steering.conftest import prompts

MODEL = "smollm2-135m"


class NoDigest:
    """Stands for SHA-256 and reads nothing."""

    def __init__(self, data: bytes = b"") -> None:
        pass

    def update(self, data: object) -> None:
        pass

    def hexdigest(self) -> str:
        return "0" * 64


class NoHash:
    sha256 = NoDigest


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Compute no checksum of anything."""
    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (digests, "hashlib", NoHash),
            (checksums, "hashlib", NoHash),
            (digests, "digest_file", lambda path, size=None: "0" * 64),
            (digests, "_digest_of", lambda value: "0" * 64),
            (checksums.Digest, "update", lambda self, values: None),
            (checksums.Checksums, "check", lambda self, dataset, values=None: None),
            (workdir, "row_sums", lambda values: np.zeros(len(values), np.uint32)),
            (load, "weights_digest", lambda model: None),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        yield


def peak(work: Callable[[], None]) -> float:
    """Return the most megabytes of a child that does the work, over what it had before."""
    read, write = os.pipe()
    if not (child := os.fork()):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 10
        work()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(write, str(max(after, before) - now).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return float(os.read(read, 64)) / 1024


def compare(name: str, make: Callable[[Path], Callable[[], object]], rounds: int) -> None:
    """Print a row; `make` prepares the work in a folder, unchecked or not as it will be done."""
    modes = {"without": unchecked, "with": contextlib.nullcontext}
    with tempfile.TemporaryDirectory() as scratch:
        works, times = {}, {mode: [] for mode in modes}
        for mode, context in modes.items():
            (folder := Path(scratch) / mode).mkdir()
            with context():
                works[mode] = make(folder)
                works[mode]()  # once for what is loaded late
        for _ in range(rounds):
            for mode, context in modes.items():
                with context():
                    begin = time.perf_counter()
                    works[mode]()
                    times[mode].append(time.perf_counter() - begin)
        memory = {}
        for mode, context in modes.items():
            with context():
                memory[mode] = peak(works[mode])
    cells = [f"{statistics.median(t):.3f} ({min(t):.3f} to {max(t):.3f})" for t in times.values()]
    ratio = statistics.median(b / a for a, b in zip(times["without"], times["with"], strict=True))
    memories = " and ".join(f"{memory[mode]:.0f}" for mode in modes)
    print(f"| {name} | {' | '.join(cells)} | {ratio:.2f} | {memories} |", flush=True)


def rows_file(folder: Path, n: int) -> Path:
    """Write labelled rows of random words; a class has some words of its own."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(300)]
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for i in range(n):
            own = ["good", "bad"][i % 2]
            text = " ".join([*rng.choice(words, size=5), *([own] if rng.random() < 0.7 else [])])
            file.write(
                f'{{"prompt": "Say {i}", "completion": "{text}", "label": "{own}", "id": "r{i}"}}\n'
            )
    return path


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    torch.set_num_threads(1)
    loaded = load.load_model(MODEL, dtype="float32")
    print(
        "| work | without, s | with, s | ratio | peak, MB, without and with |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        data, config = open_dataset(rows_file(base, n)), CacheConfig(positions="mean")

        def cache(folder: Path) -> Callable[[], object]:
            few = open_dataset(rows_file(folder, max(24, n // 10)))
            return lambda: cache_activations(
                loaded, few, folder / "a.h5", config=config, force=True
            ).close()

        def stores(folder: Path) -> Path:
            cached = folder / "acts.h5"
            cache_activations(loaded, data, cached, config=config).close()
            return cached

        made = {}
        for mode, context in (("without", unchecked), ("with", contextlib.nullcontext)):
            (base / mode).mkdir()
            with context():
                made[mode] = stores(base / mode)

        def store_of(folder: Path) -> Path:
            return made[folder.name]

        def read_all(path: Path) -> None:
            with ActivationStore.open(path) as store:
                assert len(store.examples) == n and store.tokens is not None
                for cell in store.cells():
                    store.read(cell)

        def fit(folder: Path) -> Path:
            shutil.rmtree(folder / "fit", ignore_errors=True)
            with ActivationStore.open(store_of(folder)) as store:
                result = fit_sweep(store, SweepConfig())
                result = result.with_reference(reference_rows(store, result.probe))
            with atomic_directory(folder / "fit") as directory:
                result.save(directory)
                write_json(directory / "run.json", result.fit)
            return folder / "fit"

        def score(folder: Path) -> Callable[[], object]:
            head = fit(folder)
            few = list(data.examples())[: max(24, n // 10)]
            return lambda: list(
                score_examples(Scorer(Probe.load(head), loaded), few, source="rows")
            )

        def trainer(folder: Path) -> tuple[Trainer, Checkpoint]:
            head = Probe.load(fit(folder))
            settings = RLConfig(
                steps=1, prompts=2, group=2, max_new_tokens=3, eval_prompts=2, eval_samples=1
            )
            own = load.load_model(MODEL, dtype="float32")
            (folder / "run").mkdir()
            training = Trainer(own, [head], prompts()[:4], prompts()[4:], settings, folder / "run")
            training.run()
            return training, Checkpoint(folder / "run")

        def save(folder: Path) -> Callable[[], object]:
            training, checkpoint = trainer(folder)
            return lambda: checkpoint.save(training.policy, training.learner, 1)

        def restore(folder: Path) -> Callable[[], object]:
            training, checkpoint = trainer(folder)
            return lambda: checkpoint.load(training.policy, training.learner)

        works = {
            "load a model": lambda folder: lambda: load.load_model(MODEL, dtype="float32"),
            "load a model, bfloat16": lambda folder: (
                lambda: load.load_model(MODEL, dtype="bfloat16")
            ),
            "cache": cache,
            "open a store and read all": lambda folder: lambda: read_all(store_of(folder)),
            "fit": lambda folder: lambda: fit(folder),
            "score": score,
            "save an RL checkpoint": save,
            "load an RL checkpoint": restore,
        }
        for name, make in works.items():
            if only in name:
                compare(name, make, rounds)


if __name__ == "__main__":
    main()
