"""Peak memory of a head fitted to all completion tokens, against the number of tokens.

    python benchmarks/tokens_memory.py

A tiny model with random weights reads texts of 32, 128 and 512 tokens, each in a process of its own.
What holding the tokens would take stands beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, LAYERS, WIDTH = 400, 4, 256
LENGTHS = (32, 128, 512)


def _store(folder: Path, length: int) -> None:
    """Make a model and a fit whose texts have `length` tokens."""
    import numpy as np
    from transformers import LlamaConfig, LlamaForCausalLM

    from probekit.activations.cache import cache_activations
    from probekit.models.load import load_model
    from probekit.probes import fit_sweep
    from tests.tiny import tiny_tokenizer

    config = LlamaConfig(
        vocab_size=264, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS):
        letters = rng.choice(list("abcdefgh"), size=length - 8)
        rows.append(
            {"prompt": f"{i}", "completion": "".join(letters), "score": float(rng.normal())}
        )
    loaded = load_model(str(folder / "model"), dtype="float32")
    store = cache_activations(loaded, rows, folder / "acts.h5", positions="last", layers="3")
    fit_sweep(store).save(folder / "fit")
    store.close()


def _peak(folder: Path) -> float:
    """Return the peak of a process that makes the curve, in MB."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from probekit.analyses.tokens import token_curve\n"
        "from probekit.models.load import load_model\n"
        "folder = Path(sys.argv[1])\n"
        "loaded = load_model(str(folder / 'model'), dtype='float32')\n"
        "token_curve(folder / 'fit', loaded, layers=[1, 2, 3], batch_tokens=1024)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print and write the table."""
    rows = []
    for length in LENGTHS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            _store(folder, length)
            peak = _peak(folder)
        held = ROWS * length * WIDTH * 4 * 3 / 1e6
        rows.append({"tokens": ROWS * length, "peak_mb": round(peak), "held_mb": round(held)})
        print(
            f"{ROWS * length:>8,} tokens: peak {peak:,.0f} MB; the tokens alone {held:,.0f} MB",
            flush=True,
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
