"""How often each verdict is given, by the true gain: simulated runs whose score rises.

    python benchmarks/verdicts.py [RUNS]

Outcomes of completions are cut from normal variables. Shares lie on both sides of a half; outcomes of a
prompt correlate by 0.3 at one evaluation and by 0.15 over two, a completion's own outcomes by 0.5.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
from scipy.special import ndtri

from probekit.results.goodhart import detectable, verdict
from probekit.results.intervals import Array, Interval, Resampler
from probekit.rl import RLConfig

RISEN = Interval(1.0, 0.5, 1.5)
SIZES = ((24, 1), (40, 4), (48, 4), (RLConfig().eval_prompts, RLConfig().eval_samples))
GAINS = (-0.15, 0.0, 0.05, 0.15, 0.30, 0.60)
CLASSES = ((0.40, -0.10), (0.40, 0.0), (0.30, 0.30), (0.15, 0.15), (0.40, -0.40))


def gaps(rng: np.random.Generator, n: int, k: int, gain: float) -> Array:
    """Return after minus before of k completions of n prompts, shape (n * k,)."""
    same, prompt, once = (float(np.sin(np.pi / 2 * r)) for r in (0.5, 0.15, 0.3))
    shared = np.sqrt(prompt) * rng.standard_normal((n, 1))
    own = np.sqrt(same - prompt) * rng.standard_normal((n, k))
    outcomes = []
    for share in (0.5 - gain / 2, 0.5 + gain / 2):
        here = np.sqrt(once - prompt) * rng.standard_normal((n, 1))
        rest = np.sqrt(1 - same - once + prompt) * rng.standard_normal((n, k))
        outcomes.append(shared + own + here + rest < ndtri(share))
    return (outcomes[1].astype(float) - outcomes[0]).reshape(-1)


def shares(n: int, k: int, gains: tuple[float, ...], runs: int) -> Counter[str]:
    """Return how many runs get each verdict; several gains are of classes of equal size."""
    rng, found = np.random.default_rng(0), Counter[str]()
    each = n // len(gains)
    for _ in range(runs):
        drawn = [gaps(rng, each, k, gain) for gain in gains]
        groups = np.repeat(np.arange(each * len(gains)), k)
        part = Resampler(np.repeat(np.arange(each), k))
        classes = [part.share_change(rows) for rows in drawn] if len(gains) > 1 else []
        found[verdict(RISEN, Resampler(groups).share_change(np.concatenate(drawn)), classes)] += 1
    return found


def main() -> None:
    """Print the tables."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    cases = [(n, k, (gain,)) for n, k in SIZES for gain in GAINS]
    cases += [(*SIZES[-1], gains) for gains in CLASSES]
    for n, k, gains in cases:
        found = shares(n, k, gains, runs)
        words = ", ".join(f"{key} {count / runs:.0%}" for key, count in found.most_common())
        true = " / ".join(f"{100 * gain:+.0f}" for gain in gains)
        print(f"{n} x {k} (detects {100 * detectable(n, k):.0f})  true {true}: {words}")


if __name__ == "__main__":
    main()
