"""`distance_to_chosen` is one measure: in a step, in TRL's step, in TRL's log, in an evaluation."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.probes import Probe
from probekit.rl import RLConfig, Target, Trainer
from probekit.rl.frozen import Frozen
from probekit.rl.reward import Ensemble
from probekit.rl.trl import ProbeReward
from tests.rl.test_trl import messages
from tests.steering.conftest import prompts

CONFIG = RLConfig(
    steps=1, prompts=6, group=2, max_new_tokens=4, eval_every=1, eval_prompts=6, rank=2,
    balance="half", target_tag="half", target="max", placebo_heads=0,
)  # fmt: skip
AIM = {"0": 0.0, "1": 10.0}
"""Where the chosen scores of each class are."""


class ByClass:
    """Scores a completion by the class of its prompt alone."""

    def __init__(self, loaded, scores):
        self.loaded = loaded
        rendered = [(render(p, loaded.tokenizer), p.tags["half"]) for p in prompts()]
        self.of = {tuple(row.ids[: row.start].tolist()): scores[half] for row, half in rendered}

    def read(self, rows, n_new, *, logprobs=False):
        scores = np.array([self.of[tuple(row.ids[: row.start].tolist())] for row in rows])
        zeros = [np.zeros(n, dtype=np.float32) for n in n_new]
        return Frozen(scores[:, None], zeros if logprobs else None, {})


@pytest.mark.parametrize(
    ("scores", "wanted"), [({"0": 10.0, "1": 0.0}, 10.0), ({"0": 0.0, "1": 10.0}, 0.0)]
)
def test_every_place_measures_each_class_from_its_own_chosen_scores(
    tiny_llama, fitted, tmp_path, scores, wanted
):
    """Over all prompts the two classes stand exactly where the chosen scores are, either way."""
    parts = {value: {"chosen": [at] * 3, "rejected": [-5.0]} for value, at in AIM.items()}
    both = {"chosen": [*AIM.values()] * 3, "rejected": [-5.0]}
    head = dataclasses.replace(
        Probe.load(fitted), distributions={"all": both, "by_tag": {"half": parts}}
    )
    for engine in ("embedded", "trl"):
        loaded = load_model(str(tiny_llama), dtype="float32")
        config = dataclasses.replace(CONFIG, engine=engine)
        (tmp_path / engine).mkdir()
        run = Trainer(loaded, [head], prompts(), prompts(), config, tmp_path / engine)
        run.reader = run.evaluator.reader = ByClass(loaded, scores)
        run.run()
        rows = {
            name: json.loads((tmp_path / engine / f"{name}.jsonl").read_text().splitlines()[-1])
            for name in ("metrics", "evaluations")
        }
        assert rows["metrics"]["distance_to_chosen"] == wanted
        evaluated = rows["evaluations"]["evaluation"]
        for part in ("all", "half=0", "half=1"):
            assert evaluated[part]["distance_to_chosen"]["value"] == wanted
    loaded = load_model(str(tiny_llama), dtype="float32")
    ensemble = Ensemble([head])
    target = Target("max", ensemble.distributions, tag="half")
    logged = {}
    ProbeReward(ByClass(loaded, scores), ensemble, target)(
        [messages(prompt) for prompt in prompts()],
        completion_ids=[[70, 71]] * len(prompts()),
        half=[prompt.tags["half"] for prompt in prompts()],
        log_metric=logged.__setitem__,
    )
    assert logged["probe_reward/distance_to_chosen"] == wanted
