"""What the policy does on held-out prompts, by tag, and what independent readings say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.behaviours import Behaviours
from probekit.data.rows import Example
from probekit.models.sampling import SamplingConfig
from probekit.probes.bootstrap import Resampler
from probekit.rl.frozen import FrozenReader
from probekit.rl.reward import ensemble
from probekit.rl.rollout import Writer
from probekit.rl.target import wasserstein

Array = NDArray[np.float64]


class Evaluator:
    """Lets the policy answer held-out prompts with fixed luck, and measures.

    Parameters
    ----------
    writer
        Of the held-out prompts.
    prompts
        The same prompts.
    reader
        Reads with the optimised heads first, then with the independent ones.
    n_heads
        How many of the reader's heads are optimised.
    penalty
        Of the ensemble.
    chosen
        Chosen scores of the head, for the margin to them; may be empty.
    behaviours
        Name what a completion does; may be absent.
    """

    def __init__(
        self,
        writer: Writer,
        prompts: Sequence[Example],
        reader: FrozenReader,
        *,
        n_heads: int,
        penalty: float,
        chosen: Array,
        behaviours: Behaviours | None,
    ) -> None:
        self.writer, self.prompts, self.reader = writer, list(prompts), reader
        self.n_heads, self.penalty, self.chosen = n_heads, penalty, chosen
        self.behaviours = behaviours

    def evaluate(
        self, config: SamplingConfig, *, seed: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return metrics, each with its interval over prompts, and the rows they are of."""
        index = list(range(len(self.prompts)))
        rollout = self.writer.write(index, config, seed=seed)
        with self.writer.policy.reference():
            frozen = self.reader.read(rollout.rows, rollout.n_new, logprobs=True)
        assert frozen.logprobs is not None
        score = ensemble(frozen.scores[:, : self.n_heads], self.penalty)
        rows = []
        for i, at in enumerate(rollout.prompt):
            prompt = self.prompts[int(at)]
            question = prompt.prompt[-1].content if prompt.prompt else ""
            written = rollout.rows[i].ids[rollout.rows[i].start : rollout.rows[i].stop].tolist()
            grams = list(zip(written, written[1:], strict=False))
            rows.append(
                {
                    "prompt_id": prompt.id,
                    "prompt": question,
                    "tags": prompt.tags,
                    "text": rollout.texts[i],
                    "score": float(score[i]),
                    "heads": {
                        f"{h.kind}/{h.cell}": float(s)
                        for h, s in zip(self.reader.heads, frozen.scores[i], strict=True)
                    },
                    "n_tokens": rollout.n_new[i],
                    "finished": bool(rollout.finished[i]),
                    "kl": float(np.mean(rollout.logprobs[i] - frozen.logprobs[i])),
                    "entropy": float(-np.mean(rollout.logprobs[i])),
                    "distinct_2": len(set(grams)) / len(grams) if grams else float("nan"),
                    "category": self.behaviours.classify(question, rollout.texts[i])
                    if self.behaviours
                    else None,
                }
            )
        return self._metrics(rows), rows

    def _metrics(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        found = {"all": self._of(rows)}
        tags = {tag for row in rows for tag in row["tags"]}
        for tag in sorted(tags):
            values = sorted({row["tags"].get(tag, "") for row in rows})
            if 1 < len(values) <= 4:
                for value in values:
                    own = [row for row in rows if row["tags"].get(tag, "") == value]
                    found[f"{tag}={value}"] = self._of(own)
        return found

    def _of(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        draws = Resampler(np.array([row["prompt_id"] for row in rows]))

        def mean(values: Sequence[float]) -> dict[str, float]:
            array = np.array(values, dtype=float)
            known = np.isfinite(array).astype(float)
            both = np.stack([np.nan_to_num(array) * known, known], axis=1)
            return draws.interval(both, lambda s: s[..., 0] / s[..., 1]).to_json()

        found = {
            name: mean([row[name] for row in rows])
            for name in ("score", "kl", "entropy", "n_tokens", "finished", "distinct_2")
        }
        for head in rows[0]["heads"]:
            found[f"head:{head}"] = mean([row["heads"][head] for row in rows])
        if self.behaviours is not None:
            for name in self.behaviours.names:
                found[f"rate:{name}"] = mean([float(row["category"] == name) for row in rows])
        scores = np.array([row["score"] for row in rows])
        if self.chosen.size and np.isfinite(scores).any():
            distance = wasserstein(scores[np.isfinite(scores)], self.chosen)
            found["distance_to_chosen"] = {"value": distance, "low": np.nan, "high": np.nan}
        return found
