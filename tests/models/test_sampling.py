"""The sampler writes what Hugging Face writes, and draws from the right distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers.cache_utils import LinearAttentionLayer

from probekit.data.rows import Example, Message
from probekit.errors import ModelError
from probekit.models.chat import Rendered, render
from probekit.models.load import load_model
from probekit.models.sampling import SamplingConfig, choose, closing_id, sample, stop_ids, uniforms
from tests.tiny import ARCHITECTURES, UNUSUAL, save_tiny

QUESTIONS = ["hi", "hello there, how are you?", "a b", "what?"]


@pytest.fixture(scope="module", params=[*ARCHITECTURES, *UNUSUAL])
def loaded(request, tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("models") / request.param, request.param)
    return load_model(str(folder), dtype="float32")


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return load_model(str(tiny_llama), dtype="float32")


def prompts_of(loaded):
    return [
        render(Example(f"p{i}", "g", (Message("user", text),)), loaded.tokenizer)
        for i, text in enumerate(QUESTIONS)
    ]


def generate(loaded, row, n):
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    out = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=2
    )
    return out[0, len(row.ids) :].tolist()


def test_greedy_is_huggingface_generate_token_for_token(loaded):
    rows = prompts_of(loaded)
    config = SamplingConfig(max_new_tokens=24, temperature=0.0, samples=2, batch=3)
    found = sample(loaded, rows, config)
    assert [(c.prompt, c.sample) for c in found] == [(i, j) for i in range(4) for j in range(2)]
    for done in found:
        assert done.ids.tolist() == generate(loaded, rows[done.prompt], 24)
        assert done.finished == (int(done.ids[-1]) in stop_ids(loaded))


def test_logprobs_are_those_of_one_pass_over_the_text(loaded):
    rows = prompts_of(loaded)
    for done in sample(loaded, rows, SamplingConfig(max_new_tokens=12, temperature=0.7, samples=2)):
        row = done.rendered(rows[done.prompt], None)
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        with torch.inference_mode():
            logits = loaded.model(input_ids=ids).logits[0].float() / 0.7
        wanted = logits.log_softmax(-1)[torch.arange(len(ids[0]) - 1), ids[0, 1:]]
        np.testing.assert_allclose(done.logprobs, wanted[row.start - 1 :], atol=1e-4)


def test_a_completion_does_not_depend_on_its_batch(llama):
    rows = prompts_of(llama)
    whole = sample(llama, rows, SamplingConfig(max_new_tokens=20, samples=6, batch=64))
    small = sample(llama, rows, SamplingConfig(max_new_tokens=20, samples=6, batch=2))
    assert [c.ids.tolist() for c in whole] == [c.ids.tolist() for c in small]
    other = sample(llama, rows, SamplingConfig(max_new_tokens=20, samples=6, seed=1))
    assert [c.ids.tolist() for c in whole] != [c.ids.tolist() for c in other]


def test_finished_rows_leave_the_batch_and_the_others_do_not_notice(llama):
    """With this temperature most rows end early, so the batch is compacted several times."""
    rows = prompts_of(llama)
    config = SamplingConfig(max_new_tokens=60, samples=16, temperature=3.0)
    found = sample(llama, rows, config)
    assert len({len(c.ids) for c in found}) > 5
    for done in found[:: len(found) // 6]:
        alone = _one(llama, rows[done.prompt], config, done)
        assert alone == done.ids.tolist()
        assert done.finished == (done.ids[-1] == 2)
        assert 2 not in done.ids[:-1]


def _one(loaded, row, config, done):
    """Draw one completion in a plain loop without a cache."""
    ids = row.ids.astype(np.int64).tolist()
    uniform = uniforms(config.seed, done.prompt, done.sample, config.max_new_tokens)
    new = []
    for u in uniform:
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([ids + new])).logits[:, -1]
        token, _ = choose(logits, torch.tensor([u]), config)
        new.append(int(token))
        if new[-1] == 2:
            break
    return new


@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_frequencies_are_those_of_the_distribution(top_p, temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((1, 50), generator=generator)
    probs = (logits / temperature).softmax(-1)[0].double().numpy()
    order = np.argsort(-probs)
    kept = order[: int(np.searchsorted(np.cumsum(probs[order]), top_p)) + 1]
    n = 40_000
    uniform = torch.from_numpy(np.random.default_rng().random(n))
    config = SamplingConfig(temperature=temperature, top_p=top_p)
    token, logprob = choose(logits.expand(n, 50), uniform, config)
    counts = np.bincount(token.numpy(), minlength=50)
    assert set(np.flatnonzero(counts)) <= set(kept)
    wanted = probs[kept] / probs[kept].sum() * n
    often = wanted > 5  # the chi-square approximation needs it; the rest is one bin
    observed = [*counts[kept][often], counts[kept][~often].sum()]
    expected = [*wanted[often], wanted[~often].sum()]
    keep = np.array(expected) > 0
    assert chisquare(np.array(observed)[keep], np.array(expected)[keep]).pvalue > 1e-5
    np.testing.assert_allclose(logprob.numpy(), np.log(probs)[token.numpy()], atol=1e-4)


def test_the_whole_range_of_uniforms_is_safe():
    logits = torch.full((3, 1000), -20.0)
    logits[:, 7] = 20.0
    token, _ = choose(logits, torch.tensor([0.0, 0.5, 1 - 2**-53]), SamplingConfig())
    assert token[1] == 7
    assert ((token >= 0) & (token < 1000)).all()
    certain = torch.full((2, 5), -torch.inf)
    certain[:, 3] = 0.0
    assert choose(certain, torch.tensor([0.0, 0.999999]), SamplingConfig())[0].tolist() == [3, 3]


def test_nucleus_of_a_large_flat_vocabulary_is_sorted_whole():
    """Nine tenths of 5,000 equal tokens are 4,500 of them, not the first 1,024 looked at."""
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    config = SamplingConfig(top_p=0.9)
    token, _ = choose(torch.zeros((1, 5000)).expand(20_000, 5000), uniform, config)
    assert len(token.unique()) == pytest.approx(4500, abs=2)


def test_a_completion_is_closed_as_the_chat_template_closes_one(llama):
    closing = closing_id(llama)
    row = render(Example("x", "x", (Message("user", "q"),), "answer"), llama.tokenizer)
    assert row.ids[row.turn_end] == closing == 2


def test_a_cut_completion_is_closed_as_the_template_would(llama):
    prompt = prompts_of(llama)[0]
    cut, ended = None, None
    for done in sample(
        llama, [prompt], SamplingConfig(max_new_tokens=30, samples=40, temperature=3)
    ):
        cut, ended = (cut, done) if done.finished else (done, ended)
    row = cut.rendered(prompt, 2)
    assert row.ids[-1] == 2
    assert row.turn_end == len(row.ids) - 1 == row.stop == len(prompt.ids) + len(cut.ids)
    assert cut.rendered(prompt, None).turn_end is None
    row = ended.rendered(prompt, 2)
    assert row.turn_end == row.stop == len(prompt.ids) + len(ended.ids) - 1
    assert isinstance(row, Rendered)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: got 0, expected"),
        ({"temperature": -1.0}, "temperature: got -1.0, expected"),
        ({"top_p": 0.0}, "top_p: got 0.0, expected"),
        ({"samples": 0}, "samples: got 0, expected"),
        ({"seed": -1}, "seed: got -1, expected"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        SamplingConfig(**options)


def test_what_does_not_fit_the_context_is_refused(llama):
    with pytest.raises(ModelError, match="the model's context is 512"):
        sample(llama, prompts_of(llama), SamplingConfig(max_new_tokens=510))


@pytest.mark.parametrize("break_it", ["kind", "numbers"])
def test_a_cache_that_cannot_be_used_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, break_it
):
    loaded = load_model(str(save_tiny(tmp_path, "lfm2")), dtype="float32")
    if break_it == "kind":
        no = classmethod(lambda cls: False)
        monkeypatch.setattr(type(loaded.model), "_supports_default_dynamic_cache", no)
        message = "keeps a cache of its own kind"
    else:  # as where a state is lost between two steps
        update = LinearAttentionLayer.update_conv_state

        def lossy(layer, states, *args, **kwargs):
            whole = update(layer, states, *args, **kwargs)
            layer.conv_states[0].zero_()
            return whole

        monkeypatch.setattr(LinearAttentionLayer, "update_conv_state", lossy)
        message = "other logits than a pass over the whole text"
    with pytest.raises(ModelError, match=message):
        sample(loaded, prompts_of(loaded), SamplingConfig(max_new_tokens=3))
