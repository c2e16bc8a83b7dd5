"""The embedded SmolLM2-135M-Instruct: the numbers agree with Hugging Face's, and the job runs."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from probekit.activations.backends import make_backend
from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.positions import PositionRule
from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.behaviours import Behaviours
from probekit.behaviours.sampled import sampled_rows
from probekit.container import write_jsonl
from probekit.data import Example, Message, open_dataset
from probekit.data.prompts import open_prompts
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.models.sampling import SamplingConfig, sample
from probekit.steering import SteeringVector, residual_norms, steered
from tests.activations.memory import MemoryRows

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def loaded(real_model):
    return load_model(real_model, dtype="float32")


def chats():
    texts = ["Paris.", "I think it is Paris, the city on the Seine, but do check.", "Lyon"]
    rows = [
        Example(
            f"r{i}", f"g{i}", (Message("user", "What is the capital of France?"),), text, score=i
        )
        for i, text in enumerate(texts)
    ]
    return MemoryRows(
        [*rows, Example("raw", "g3", None, "Marie Curie was born in Warsaw", score=1.0)]
    )


RULES = ("last", "turn_end", "prompt_end", "mean", "first:4", "token:0", "token:-1", "all")


def test_rows_of_data_have_the_tokens_that_the_sampler_wrote(loaded, tmp_path):
    """200 completions, as rows of a file, read at every position rule at the tokens that were written."""
    prompts = open_prompts("demo:sentiment_prompts", limit=50)
    config = SamplingConfig(max_new_tokens=16, samples=4, temperature=1.0, seed=3)
    asked = [render(prompt, loaded.tokenizer) for prompt in prompts]
    names = [f"{prompts[c.prompt].id}-{c.sample:03d}" for c in sample(loaded, asked, config)]
    written = [c.rendered(asked[c.prompt], loaded.turn) for c in sample(loaded, asked, config)]
    rows = [{**row, "score": 1.0} for row in sampled_rows(loaded, prompts, config)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    examples = {e.id: e for e in open_dataset(tmp_path / "rows.jsonl").examples()}
    assert len(examples) > 190  # empty and repeated ones are left out
    for name, own in zip(names, written, strict=True):
        if name not in examples:
            continue
        row = render(examples[name], loaded.tokenizer)
        for rule in RULES:
            at, there = (PositionRule.parse(rule).resolve(one) for one in (row, own))
            assert at.tolist() == there.tolist()
            assert row.ids[at].tolist() == own.ids[there].tolist()
        assert row.ids.tolist() == own.ids.tolist()


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def batch(loaded):
    rows = [render(example, loaded.tokenizer) for example in chats().rows]
    width = max(len(row.ids) for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.from_numpy(row.ids.astype(np.int64))
        mask[i, : len(row.ids)] = 1
    return ids, mask.long()


def test_three_backends_and_hugging_face_agree_at_every_layer(loaded, batch):
    ids, mask = batch
    inside = mask.bool()
    expected, last = {}, []
    with torch.no_grad():
        reference = copy.deepcopy(loaded.model)
        handle = reference.model.layers[-1].register_forward_hook(
            lambda m, a, out: last.append(out)
        )
        hidden = reference(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        handle.remove()
    for layer in range(29):
        expected[layer] = hidden[layer + 1][inside].numpy()
    # Hugging Face's last hidden state is after the final norm: compare with the block's own output.
    expected[29] = (last[0] if torch.is_tensor(last[0]) else last[0][0])[inside].numpy()
    for name in ("hooks", "transformer-lens", "nnsight"):
        found = {}
        places = [("resid_post", layer) for layer in range(30)]
        make_backend(name, loaded).run(
            ids,
            mask,
            places,
            lambda place, acts, found=found: found.__setitem__(place[1], acts.clone()),
        )
        worst = max(relative(found[k][inside].numpy(), expected[k]) for k in range(30))
        assert worst <= 1e-4, (name, worst)


def test_batches_neighbours_and_order_change_nothing(loaded, tmp_path):
    config = CacheConfig(positions="last,turn_end,mean", store_dtype="float32")
    alone = CacheConfig(positions="last,turn_end,mean", store_dtype="float32", batch_tokens=1)
    back = chats()
    back.rows.reverse()
    one = cache_activations(loaded, chats(), tmp_path / "a.h5", config=config)
    two = cache_activations(loaded, chats(), tmp_path / "b.h5", config=alone)
    three = cache_activations(loaded, back, tmp_path / "c.h5", config=config)
    for cell in one.cells():
        assert relative(two.read(cell), one.read(cell)) < 1e-5, cell
        assert relative(three.read(cell)[::-1], one.read(cell)) < 1e-5, cell


def test_a_left_padded_chat_with_pad_equal_to_eos(loaded, tmp_path):
    """The rows read from our right-padded batch are those of Hugging Face's left-padded one."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = chats().rows[:3]
    turns = [
        [
            {"role": "user", "content": row.prompt[0].content},
            {"role": "assistant", "content": row.completion},
        ]
        for row in rows
    ]
    texts = tokenizer.apply_chat_template(turns, tokenize=False)
    tokenizer.padding_side = "left"
    padded = tokenizer(
        [text.rstrip("\n") for text in texts],
        padding=True,
        return_tensors="pt",
        add_special_tokens=False,
    )
    with torch.no_grad():
        hidden = copy.deepcopy(loaded.model)(**padded, output_hidden_states=True).hidden_states
    config = CacheConfig(positions="turn_end", layers="4,20", store_dtype="float32")
    memory = MemoryRows(rows)
    with cache_activations(loaded, memory, tmp_path / "s.h5", config=config) as store:
        for layer in (4, 20):
            ours = store.read(Cell("resid_post", layer, "turn_end"))
            assert relative(ours, hidden[layer + 1][:, -1].numpy()) < 1e-4
        for i, text in enumerate(texts):
            ids = list(store.tokens.row(i).ids)
            assert ids == tokenizer(text.rstrip("\n"), add_special_tokens=False).input_ids
            assert ids[:2] != [tokenizer.bos_token_id] * 2  # no double BOS


def questions(loaded):
    texts = ["Hi!", "What is the capital of France, and why is it famous?", "Name a colour."]
    rows = [Example(f"p{i}", f"p{i}", (Message("user", text),)) for i, text in enumerate(texts)]
    return [render(row, loaded.tokenizer) for row in rows]


def direction(loaded, rows, layers=(12,)):
    rng = np.random.default_rng(0)
    raw = SteeringVector({layer: rng.standard_normal(576) for layer in layers})
    return raw.in_norms(residual_norms(loaded, rows, layers))


GREEDY = SamplingConfig(max_new_tokens=24, temperature=0.0)


def test_the_sampler_writes_what_generate_writes(loaded):
    rows = questions(loaded)
    for row, done in zip(rows, sample(loaded, rows, GREEDY), strict=True):
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        out = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
        assert done.ids.tolist() == out[0, ids.shape[1] :].tolist()


def test_steered_backends_write_the_same_tokens(loaded):
    rows = questions(loaded)
    vector = direction(loaded, rows, (8, 20))
    plain = [c.ids.tolist() for c in sample(loaded, rows, GREEDY)]
    with steered(loaded, vector, 0.0):
        assert [c.ids.tolist() for c in sample(loaded, rows, GREEDY)] == plain
    found = {}
    for name in ("hooks", "transformer-lens", "nnsight"):
        backend = make_backend(name, loaded)
        with steered(loaded, vector, 0.2, backend=backend) as steering:
            done = sample(loaded, rows, GREEDY, forward=steering.forward)
        found[name] = [c.ids.tolist() for c in done]
    assert found["hooks"] != plain
    assert found["transformer-lens"] == found["hooks"]
    assert found["nnsight"] == found["hooks"]
    with steered(loaded, vector, 0.2):
        alone = [sample(loaded, [row], GREEDY)[0].ids.tolist() for row in rows]
    assert alone == found["hooks"]


def test_ablate_everywhere_leaves_no_component_anywhere(loaded):
    rows = questions(loaded)
    vector = direction(loaded, rows, range(30))
    ids = torch.from_numpy(rows[1].ids.astype(np.int64))[None]
    with steered(loaded, vector, mode="ablate"):
        seen = {}
        make_backend("hooks", loaded).run(
            ids,
            torch.ones_like(ids),
            [("resid_post", layer) for layer in range(30)],
            lambda place, acts: seen.__setitem__(place[1], acts[0].clone()),
        )
    for layer, unit in vector.unit().vectors.items():
        component = (seen[layer].double().numpy() @ unit) / np.linalg.norm(seen[layer], axis=-1)
        assert np.abs(component).max() < 1e-5


def test_a_direction_of_praise_is_causal(real_model, tmp_path):
    """Difference of means on the demo replies, added while the model writes: the short version."""
    loaded = load_model(real_model)
    data = open_dataset("demo:sentiment")
    config = CacheConfig(positions="mean", layers="17")
    cache_activations(loaded, data, tmp_path / "s.h5", config=config).close()
    with ActivationStore.open(tmp_path / "s.h5") as store:
        vector = SteeringVector.from_store(store, layers=[17])
    rows = [render(p, loaded.tokenizer) for p in open_prompts("demo:sentiment_prompts", limit=12)]
    vector = vector.in_norms(residual_norms(loaded, rows, [17]))
    tone = Behaviours.load("sentiment")
    rates = {}
    for coeff in (-0.15, 0.15):
        with steered(loaded, vector, coeff):
            done = sample(loaded, rows, SamplingConfig(max_new_tokens=28, samples=2))
        texts = [loaded.tokenizer.decode(c.ids) for c in done]
        rates[coeff] = np.mean([tone.classify("", text) == "positive" for text in texts])
    # Measured 0.54 against 0.12 of 24 texts; a standard error of a difference is at most 0.15.
    assert rates[0.15] - rates[-0.15] > 0.1


def test_the_model_answers_like_a_language_model(loaded):
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    out = loaded.model.generate(**ids, max_new_tokens=8, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(out[0, ids.input_ids.shape[1] :])


def test_cache_fit_and_score_on_the_shipped_data(real_model, tmp_path):
    """The main job, small: a held-out direction that words and length do not have."""
    probekit = [sys.executable, "-c", "from probekit.cli.main import main; main()"]

    def run(*argv):
        done = subprocess.run([*probekit, *map(str, argv)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    store, sweep = tmp_path / "acts.h5", tmp_path / "sweep"
    data = ["--data", "demo:researchers_pairs"]
    run("cache", *data, "--layers", "14:21:3", "--positions", "mean", "--out", store, "--json")
    found = run("fit", store, "--out", sweep, "--json")
    best = found["report"]["pair_accuracy"]
    assert best["value"] > 0.75 and best["low"] > 0.6
    for name in ("length", "tfidf", "layer_0", "shuffled_labels"):
        assert found["controls"][name]["pair_accuracy"]["value"] < 0.65, name
    scores = run("score", "--probe", sweep, *data, "--limit", "20", "--json")["scores"]
    with ActivationStore.open(store) as opened:
        from probekit.probes import Probe

        probe = Probe.load(sweep)
        expected = probe.score(opened.read(probe.cell))
    # Another batch composition in bfloat16 moves a score by about a twentieth of their spread.
    gap = np.array([row["score"] for row in scores]) - expected[:40]
    assert np.abs(gap).max() < 0.5 * expected.std()
    assert np.sqrt(np.mean(gap**2)) < 0.1 * expected.std()


PEAK = """
import resource, sys, tempfile
from pathlib import Path
from probekit.activations.cache import CacheConfig, cache_activations
from probekit.data import open_dataset
from probekit.models.load import load_model
loaded = load_model("smollm2-135m", dtype="bfloat16")
config = CacheConfig(layers="0:4", positions="turn_end,mean", batch_tokens=1024)
with tempfile.TemporaryDirectory() as folder:
    cache_activations(loaded, open_dataset(sys.argv[1]), Path(folder) / "s.h5", config=config).close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_twenty_times_the_rows_take_no_more_memory(real_model, tmp_path):
    rows = list(open_dataset("demo:researchers_pairs", limit=60).examples())

    def peak(times):
        path = tmp_path / f"{times}.jsonl"
        with path.open("w") as handle:
            for k in range(times):
                for row in rows:
                    line = {
                        "prompt": row.prompt[0].content,
                        "completion": row.completion,
                        "score": k,
                    }
                    handle.write(json.dumps(line) + "\n")
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    small, large = peak(1), peak(20)
    assert large <= 1.10 * small, (small, large)
