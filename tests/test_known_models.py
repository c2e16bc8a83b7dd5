"""What docs/activations.md says of each architecture is what it does, cell by cell, on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from probekit.activations.backends import make_backend, prove
from probekit.activations.gather import pad
from probekit.errors import ModelError
from probekit.models.blocks import ARCHITECTURES as KNOWN
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.models.new_tokens import NewTokens
from probekit.models.prefix import SharedPrefix
from probekit.models.sampling import SamplingConfig, sample
from probekit.rl import Policy
from probekit.rl.rollout import Writer
from probekit.steering import SteeringVector, steered
from tests.steering.conftest import prompts
from tests.tiny import ARCHITECTURES, D_MODEL, N_LAYERS, UNUSUAL, save_tiny

DOC = Path(__file__).parents[1] / "docs" / "activations.md"
ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.MULTILINE)
TABLE = {name: cells.split(" | ") for name, cells in ROW.findall(DOC.read_text(encoding="utf-8"))}
TESTED = {**ARCHITECTURES, **UNUSUAL}
GREEDY = SamplingConfig(max_new_tokens=4, temperature=0.0)


def test_the_table_has_every_architecture_that_is_tested():
    assert TABLE.keys() == TESTED.keys()
    assert TESTED.keys() <= KNOWN.keys()


@pytest.mark.parametrize("kind", TESTED)
def test_a_row_of_the_table_is_what_the_architecture_does(kind, tmp_path):
    loaded = load_model(str(save_tiny(tmp_path / kind, kind)), dtype="float32")
    rows = [render(prompt, loaded.tokenizer) for prompt in prompts()]
    found = [cache(loaded), sites(loaded), samples(loaded, rows), steers(loaded, rows)]
    assert [*found, learns(loaded)] == TABLE[kind]


def cache(loaded):
    """Capture runs the proof on the last block and reads what the next norm is given."""
    backend, seen = make_backend("hooks", loaded), {}
    prove(backend, [("resid_post", layer) for layer in range(N_LAYERS)], loaded.device)
    ids = torch.arange(5, 16)[None]
    places = [("resid_post", 0), ("resid_pre", 1)]
    backend.run(ids, torch.ones_like(ids), places, lambda p, a: seen.update({p: a.clone()}))
    return "yes" if torch.equal(seen[places[0]], seen[places[1]]) else "no"


def sites(loaded):
    backend = make_backend("hooks", loaded)
    every = [(site, layer) for site in backend.writes for layer in range(N_LAYERS)]
    prove(backend, every or [("resid_post", 0)], loaded.device)
    for site in {"attn_out", "mlp_out"} - set(backend.writes):
        with pytest.raises(ModelError, match="no module of a"):
            prove(backend, [("resid_post", 0), (site, 0)], loaded.device)
    return ", ".join(f"`{site}`" for site in backend.writes) or "none"


def samples(loaded, rows):
    """Greedy tokens under a cache, in one batch, are those of passes over the whole text."""
    for row, done in zip(rows, sample(loaded, rows, GREEDY), strict=True):
        ids = row.ids.astype(np.int64).tolist()
        for token in done.ids.tolist():
            with torch.inference_mode():
                logits = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits
            if int(logits[0, -1].argmax()) != token:
                return "no"
            ids.append(token)
    return "yes"


def steers(loaded, rows):
    """Completions change, and only behind the prompt; afterwards the model is as it was."""
    vector = SteeringVector({1: 30.0 * np.random.default_rng(0).standard_normal(D_MODEL)})
    plain = [done.ids.tolist() for done in sample(loaded, rows, GREEDY)]
    with steered(loaded, vector, 1.0, where="generated"):
        moved = [done.ids.tolist() for done in sample(loaded, rows, GREEDY)]
    with steered(loaded, vector, 1.0, where="both"):
        both = [done.ids.tolist() for done in sample(loaded, rows, GREEDY)]
    same = [done.ids.tolist() for done in sample(loaded, rows, GREEDY)] == plain
    first = [ids[0] for ids in moved] == [ids[0] for ids in plain]
    return "yes" if same and first and plain != moved and both != plain else "no"


def learns(loaded):
    """Every number of the adapter gets a gradient; the cell names what the adapter leaves out."""
    policy = Policy(loaded, rank=2)
    generator = torch.Generator().manual_seed(0)
    policy.masters.set(
        [0.1 * torch.randn(p.shape, generator=generator) for p in policy.masters.all]
    )
    rollout = Writer(policy, prompts()).write([0, 1], GREEDY, seed=1)
    shared = SharedPrefix(rollout.rows, loaded.model)
    ids, mask = pad(shared.rows, loaded.device)
    tokens = NewTokens(shared.rows, rollout.n_new, ids)
    logprobs = tokens.logprobs(loaded.model, loaded.model, ids, mask, **shared.inputs(mask))
    drawn = torch.from_numpy(np.concatenate(rollout.logprobs))
    torch.testing.assert_close(logprobs.detach(), drawn, atol=1e-3, rtol=0)
    logprobs.sum().backward()
    if not all(p.grad is not None and bool(p.grad.any()) for p in policy.masters.all):
        return "no"
    return f"without {', '.join(policy.left_out)}" if policy.left_out else "yes"
