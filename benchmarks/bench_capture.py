"""Capture speed beside its peers, in one run: python benchmarks/bench_capture.py [--data FILE].

Every method runs the same rows on the same loaded weights, all layers at `turn_end`, in turn, for several
rounds; the figure is unpadded tokens a second, and the ratios are taken round by round.

    stack      the bare block stack on length-sorted batches, nothing captured: the ceiling
    probekit   cache_activations from rows to a finished store (tokenising and HDF5 included)
    hidden     CausalLM(output_hidden_states=True), batches of 8 in file order
    nnsight    a trace of 8 rows in file order, every block's output saved
    lens       TransformerBridge.run_with_cache, batches of 8 in file order
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.gather import pad, plan_batches
from probekit.data import open_dataset
from probekit.models.chat import render
from probekit.models.load import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="demo:researchers_pairs")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model, dtype=options.dtype)
    dataset = open_dataset(options.data, limit=options.rows)
    rows = [render(example, loaded.tokenizer) for example in dataset.examples()]
    tokens = sum(len(row.ids) for row in rows)
    print(f"{len(rows)} rows, {tokens} tokens, {loaded.dtype}, {options.threads} threads")
    methods = {
        "stack": lambda: stack(loaded, rows, options.batch_tokens),
        "probekit": lambda: ours(loaded, dataset, options.batch_tokens),
        "hidden": lambda: hidden(loaded, rows),
        "nnsight": nnsight_method(loaded, rows),
        "lens": lens_method(loaded, rows),
    }
    speeds = {name: [] for name in methods}
    for name, method in methods.items():  # warm up on everything once, uncounted for the first two
        if name in ("stack", "probekit"):
            method()
    for round_ in range(options.rounds):
        for name, method in methods.items():
            begun = time.perf_counter()
            method()
            speeds[name].append(tokens / (time.perf_counter() - begun))
        line = "  ".join(f"{name} {speed[-1]:,.0f}" for name, speed in speeds.items())
        print(f"round {round_ + 1}: {line} tokens/s", flush=True)
    for name in methods:
        median, low, high = spread(speeds[name])
        ratios = [a / b for a, b in zip(speeds["probekit"], speeds[name], strict=True)]
        ratio, least, most = spread(ratios)
        print(
            f"{name:>9}: {median:7,.0f} tokens/s [{low:,.0f}, {high:,.0f}]   "
            f"probekit / {name}: {ratio:.2f} [{least:.2f}, {most:.2f}]"
        )


def spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def stack(loaded, rows, batch_tokens) -> None:
    lengths = np.array([len(row.ids) for row in rows])
    with torch.inference_mode():
        for batch in plan_batches(lengths, batch_tokens):
            ids, mask = pad([rows[i] for i in batch], loaded.device)
            loaded.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)


def ours(loaded, dataset, batch_tokens) -> None:
    config = CacheConfig(positions="turn_end", batch_tokens=batch_tokens)
    with tempfile.TemporaryDirectory() as folder:
        cache_activations(loaded, dataset, Path(folder) / "s.h5", config=config).close()


def by_eight(loaded, rows):
    for start in range(0, len(rows), 8):
        batch = rows[start : start + 8]
        ids, mask = pad(batch, loaded.device)
        yield ids, mask, torch.arange(len(batch)), torch.tensor([row.turn_end for row in batch])


def hidden(loaded, rows) -> None:
    # A copy, because transformers leaves its recording hooks on a model for good.
    model = hidden.model = getattr(hidden, "model", None) or copy.deepcopy(loaded.model)
    kept = []
    with torch.inference_mode():
        for ids, mask, which, end in by_eight(loaded, rows):
            states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
            kept.append([state[which, end].clone() for state in states])


def nnsight_method(loaded, rows):
    from nnsight import TransformersModel

    traced = TransformersModel(
        copy.deepcopy(loaded.model), tokenizer=copy.deepcopy(loaded.tokenizer)
    )

    def method() -> None:
        kept = []
        with torch.inference_mode():
            for ids, mask, which, end in by_eight(loaded, rows):
                inputs = {"input_ids": ids, "attention_mask": mask}
                with traced.trace(inputs, use_cache=False) as tracer:
                    for block in traced.model.layers:
                        kept.append(block.output[which, end].clone())
                    tracer.stop()

    return method


def lens_method(loaded, rows):
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        "model",
        hf_model=copy.deepcopy(loaded.model),
        tokenizer=copy.deepcopy(loaded.tokenizer),
        device=str(loaded.device),
        dtype=loaded.model.dtype,
    )
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(bridge.cfg.n_layers)]

    def method() -> None:
        kept = []
        with torch.inference_mode():
            for ids, mask, which, end in by_eight(loaded, rows):
                _, cache = bridge.run_with_cache(
                    ids, attention_mask=mask, names_filter=names, return_cache_object=False
                )
                kept.append([cache[name][which, end].clone() for name in names])

    return method


if __name__ == "__main__":
    main()
