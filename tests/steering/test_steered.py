"""What a steered model computes and writes, on all backends, and that it is restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probekit.activations.backends import BACKENDS, make_backend
from probekit.activations.backends.hooks import HooksBackend
from probekit.errors import ModelError, SteeringError
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.models.sampling import SamplingConfig, sample
from probekit.steering import SteeringVector, residual_norms, steered
from tests.steering.conftest import prompts
from tests.tiny import D_MODEL

GREEDY = SamplingConfig(max_new_tokens=10, temperature=0.0)
TEXT = torch.arange(3, 23)[None]


def write(loaded, rows, config=GREEDY, **options):
    return [c.ids.tolist() for c in sample(loaded, rows, config, **options)]


def residuals(loaded, ids=TEXT):
    """Return the residual after every block, (n_layers, n_tokens, d_model), read by own hooks."""
    found = {}
    backend = HooksBackend(loaded)
    places = [("resid_post", layer) for layer in range(backend.n_layers)]
    backend.run(
        ids, torch.ones_like(ids), places, lambda p, a: found.__setitem__(p[1], a[0].clone())
    )
    return torch.stack([found[layer] for layer in range(backend.n_layers)])


@pytest.mark.parametrize("config", [GREEDY, SamplingConfig(max_new_tokens=10, samples=3)])
def test_coeff_0_writes_the_same_tokens(loaded, rendered, vector, config):
    plain = write(loaded, rendered, config)
    with steered(loaded, vector, 0.0):
        assert write(loaded, rendered, config) == plain
    with steered(loaded, vector, 1.0):
        assert write(loaded, rendered, config) != plain


def test_blocks_before_the_layer_are_bit_equal_and_its_own_gets_exactly_the_vector(loaded, vector):
    plain = residuals(loaded)
    with steered(loaded, vector, 0.5):
        moved = residuals(loaded)
    assert torch.equal(moved[0], plain[0])
    added = torch.from_numpy(0.5 * vector.vectors[1]).float()
    torch.testing.assert_close(moved[1] - plain[1], added.expand_as(plain[1]), atol=1e-5, rtol=1e-4)
    assert not torch.equal(moved[2], plain[2])


def test_ablate_leaves_no_component_at_every_layer_of_the_vector(loaded):
    rng = np.random.default_rng(0)
    vector = SteeringVector({layer: rng.standard_normal(D_MODEL) for layer in range(3)})
    with steered(loaded, vector, mode="ablate"):
        once = residuals(loaded)
        with steered(loaded, vector, mode="ablate"):
            twice = residuals(loaded)
    for layer, values in vector.unit().vectors.items():
        component = once[layer] @ torch.from_numpy(values).float()
        torch.testing.assert_close(component, torch.zeros_like(component), atol=1e-4, rtol=0)
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=1e-4)


def test_clamp_sets_the_component(loaded, vector):
    with steered(loaded, vector, 0.25, mode="clamp"):
        moved = residuals(loaded)[1]
    component = moved @ torch.from_numpy(vector.unit().vectors[1]).float()
    wanted = torch.full_like(component, 0.25 * vector.norm())
    torch.testing.assert_close(component, wanted, atol=1e-4, rtol=0)


def test_blocks_nest_and_add_up(loaded, rendered, vector):
    with steered(loaded, vector, 0.3), steered(loaded, vector, 0.9):
        nested, written = residuals(loaded), write(loaded, rendered)
    with steered(loaded, vector, 1.2):
        torch.testing.assert_close(residuals(loaded), nested, atol=1e-4, rtol=1e-4)
        assert write(loaded, rendered) == written


@pytest.mark.parametrize("name", BACKENDS)
def test_blocks_nest_on_every_backend_and_close_one_by_one(loaded, vector, name):
    backend = make_backend(name, loaded)
    options = {"input_ids": TEXT, "attention_mask": torch.ones_like(TEXT), "use_cache": False}

    def logits(forward):
        with torch.inference_mode():
            return forward(**options).logits.clone()

    with steered(loaded, vector, 0.7, backend=backend) as single:
        alone = logits(single.forward)
    with steered(loaded, vector, 2.0, backend=backend) as double:
        whole = logits(double.forward)
    with steered(loaded, vector, 0.7, backend=backend) as outer:
        with steered(loaded, vector, 1.3, backend=backend) as inner:
            torch.testing.assert_close(logits(inner.forward), whole, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(logits(outer.forward), alone)


def test_the_inner_block_edits_what_the_outer_left(loaded, vector):
    with steered(loaded, vector, 5.0), steered(loaded, vector, mode="ablate"):
        inner_last = residuals(loaded)[1]
    with steered(loaded, vector, mode="ablate"), steered(loaded, vector, 5.0):
        outer_last = residuals(loaded)[1]
    direction = torch.from_numpy(vector.unit().vectors[1]).float()
    torch.testing.assert_close(inner_last @ direction, torch.zeros(20), atol=1e-4, rtol=0)
    wanted = torch.full((20,), 5.0 * vector.norm())
    torch.testing.assert_close(outer_last @ direction, wanted, atol=1e-3, rtol=0)


def test_the_model_is_restored_after_an_exception(loaded, vector):
    before, plain = hooks(loaded.model), residuals(loaded)
    with pytest.raises(RuntimeError, match="inside"), steered(loaded, vector, 3.0):
        assert hooks(loaded.model) > before
        raise RuntimeError("inside")
    assert hooks(loaded.model) == before
    assert torch.equal(residuals(loaded), plain)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(
    "where", ["both", "prompt", "generated", "prompt_end", "first:2", "token:1"]
)
@pytest.mark.parametrize("mode", ["add", "ablate", "clamp"])
def test_a_batch_of_unequal_prompts_is_one_by_one(loaded, rendered, vector, where, mode):
    with steered(loaded, vector, 1.0, mode=mode, where=where):
        together = write(loaded, rendered)
        alone = [write(loaded, [row])[0] for row in rendered]
    assert together == alone


@pytest.mark.parametrize("where", ["both", "prompt", "generated", "first:2"])
def test_it_steers_huggingface_generate_too(loaded, rendered, vector, where):
    width = max(len(row.ids) for row in rendered)
    ids = torch.full((len(rendered), width), 2)  # padding is the end-of-turn token
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rendered):
        ids[i, width - len(row.ids) :] = torch.from_numpy(row.ids.astype(np.int64))
        mask[i, width - len(row.ids) :] = 1
    with steered(loaded.model, vector, 1.0, where=where):
        out = loaded.model.generate(
            ids, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=2
        )[:, width:].tolist()
        ours = write(loaded, rendered)
    assert [row[: len(own)] for row, own in zip(out, ours, strict=True)] == ours


def test_generated_leaves_the_prompt_and_its_first_token_alone(loaded, rendered, vector):
    plain = write(loaded, rendered)
    with steered(loaded, vector, 3.0, where="generated"):
        moved = write(loaded, rendered)
    assert [row[0] for row in moved] == [row[0] for row in plain]
    assert moved != plain


@pytest.mark.parametrize(
    "where", ["both", "prompt", "generated", "prompt_end", "first:3", "token:2"]
)
def test_one_pass_over_the_whole_text_is_what_was_written_token_by_token(
    loaded, rendered, vector, where
):
    """Teacher forcing under `reading` gives the log-probabilities of the cached decode."""
    config = SamplingConfig(max_new_tokens=9, samples=2, seed=3)
    with steered(loaded, vector, 1.5, where=where) as steering:
        for done in sample(loaded, rendered, config):
            row = done.rendered(rendered[done.prompt], None)
            ids = torch.from_numpy(row.ids.astype(np.int64))[None]
            with steering.reading([row]), torch.inference_mode():
                logits = loaded.model(input_ids=ids, use_cache=False).logits[0].float()
            logprobs = logits.log_softmax(-1)[torch.arange(len(ids[0]) - 1), ids[0, 1:]]
            found = logprobs[row.start - 1 :].numpy()
            np.testing.assert_allclose(found, done.logprobs, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["both", "generated", "first:2"])
def test_every_backend_writes_the_same_tokens(loaded, rendered, vector, backend, where):
    with steered(loaded, vector, 1.0, where=where):
        ours = write(loaded, rendered)
    other = make_backend(backend, loaded)
    with steered(loaded, vector, 1.0, where=where, backend=other) as steering:
        assert write(loaded, rendered, forward=steering.forward) == ours
    with steered(loaded, vector, 0.0, backend=other) as steering:  # and is as before afterwards
        assert write(loaded, rendered, forward=steering.forward) == write(loaded, rendered)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_on_other_architectures(other_loaded, backend):
    rows = [render(prompt, other_loaded.tokenizer) for prompt in prompts()]
    vector = SteeringVector({1: 3.0 * np.random.default_rng(1).standard_normal(D_MODEL)})
    with steered(other_loaded, vector, 1.0, mode="clamp"):
        ours = write(other_loaded, rows)
    other = make_backend(backend, other_loaded)
    with steered(other_loaded, vector, 1.0, mode="clamp", backend=other) as steering:
        assert write(other_loaded, rows, forward=steering.forward) == ours


def test_norms_leave_out_the_attention_sink(loaded, rendered):
    found = residual_norms(loaded, rendered, [0, 2], batch_tokens=30)
    for layer in (0, 2):
        norms = []
        for row in rendered:
            ids = torch.from_numpy(row.ids.astype(np.int64))[None]
            norms.append(residuals(loaded, ids)[layer][1:].norm(dim=-1))
        assert found[layer] == pytest.approx(float(torch.cat(norms).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("vector", "options", "message"),
    [
        ({1: np.ones(7)}, {}, "7 wide, the model's residual stream 16"),
        ({9: np.ones(16)}, {}, "layer 9: out of range. The model has layers 0 to 2"),
        ({1: np.ones(16)}, {"mode": "push"}, "mode 'push': unknown"),
        ({1: np.ones(16)}, {"where": "nowhere"}, "where 'nowhere': unknown"),
        ({1: np.ones(16)}, {"coeff": float("nan")}, "expected a finite number"),
        ({1: np.zeros(16)}, {"mode": "ablate"}, "zero at layer 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_hooked(loaded, vector, options, message):
    before = hooks(loaded.model)
    with (
        pytest.raises(SteeringError, match=message),
        steered(loaded, SteeringVector(vector), **options),
    ):
        pass
    assert hooks(loaded.model) == before


def test_without_a_cache_prompt_and_completion_cannot_be_told_apart(loaded, vector):
    with (
        steered(loaded, vector, 1.0, where="generated"),
        pytest.raises(SteeringError, match="without a key-value cache"),
    ):
        loaded.model(input_ids=TEXT, use_cache=False)
    with (
        steered(loaded, vector, 1.0, where="generated"),
        pytest.raises(SteeringError, match="without a key-value cache"),
    ):
        loaded.model(input_ids=TEXT)  # makes a cache of its own, which nobody continues
    with (
        steered(loaded, vector, 1.0, where="last"),
        pytest.raises(SteeringError, match="not known before"),
    ):
        loaded.model(input_ids=TEXT, use_cache=True)


def test_texts_that_are_not_the_batch_are_refused(loaded, rendered, vector):
    with (
        steered(loaded, vector, 1.0, where="prompt") as steering,
        steering.reading(rendered[:2]),
        pytest.raises(SteeringError, match="2 texts were named, the pass runs 1"),
    ):
        loaded.model(input_ids=TEXT)


def test_a_cache_from_outside_the_block_is_refused_where_it_matters(loaded, vector):
    from transformers import DynamicCache

    cache = DynamicCache(config=loaded.model.config)
    with torch.inference_mode():
        loaded.model(input_ids=TEXT, past_key_values=cache, use_cache=True)
        with steered(loaded, vector, 1.0):
            loaded.model(input_ids=TEXT[:, :1], past_key_values=cache, use_cache=True)
        with (
            steered(loaded, vector, 1.0, where="generated"),
            pytest.raises(SteeringError, match="21 tokens that were not written inside the block"),
        ):
            loaded.model(input_ids=TEXT[:, :1], past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("where", ["prompt", "generated", "prompt_end"])
def test_a_prompt_in_chunks_is_one_prompt(loaded, rendered, vector, where):
    row = max(rendered, key=lambda r: len(r.ids))
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    ids = ids[:, : len(row.ids) // 4 * 4]  # a last chunk of one token would look like a new one
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    mask = torch.ones_like(ids)
    with steered(loaded, vector, 2.0, where=where):
        whole = loaded.model.generate(ids, attention_mask=mask, **options)
        pieces = loaded.model.generate(ids, attention_mask=mask, prefill_chunk_size=4, **options)
    if where != "prompt_end":  # which chunk is the last is not known while it runs
        assert pieces.tolist() == whole.tolist()


def steered_columns(model, run, vector):
    """Return the columns whose residual before the last block is as large as the vector makes it."""
    columns = set()

    def watch(module, args, kwargs, output):
        residual = output[0] if isinstance(output, tuple) else output
        large = (residual[0].norm(dim=-1) > 0.1 * vector.norm()).tolist()
        columns.update(c for c, is_large in zip(seen(kwargs), large, strict=True) if is_large)

    def seen(kwargs):
        return kwargs["position_ids"][0].tolist()

    handle = model.model.layers[2].register_forward_hook(watch, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return columns


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"num_beams": 2},
        {"assistant": True},
        {"assistant_early_exit": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_way_to_generate_steers_the_columns_behind_the_prompt(tiny_llama, options):
    """Candidates that are checked together with the prompt are generated, not prompt."""
    loaded = load_model(str(tiny_llama), dtype="float32")
    if "assistant" in options:
        options = {"assistant_model": load_model(str(tiny_llama), dtype="float32").model}
    ids = torch.tensor([[5, 6, 7, 7, 7, 7, 7, 7]])  # which prompt lookup goes on at once
    vector = SteeringVector({1: np.full(D_MODEL, 1000.0)})
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 10, **options}

    def run():
        found = loaded.model.generate(
            ids, do_sample=False, pad_token_id=0, eos_token_id=None, **options
        )
        assert found.shape == (1, 18)
        return found

    for where, expected in (("generated", set(range(8, 17))), ("prompt", set(range(8)))):
        with steered(loaded, vector, 1.0, where=where):
            columns = steered_columns(loaded.model, run, vector)
        # The last token written need not be read; candidates beyond it may be.
        assert expected <= columns | {16}
        assert columns - expected <= ({*range(17, 30)} if where == "generated" else set())
    assert "generate" not in loaded.model.__dict__
    assert steered_columns(loaded.model, run, vector) == set()


def test_assisted_generation_writes_what_plain_generation_does(tiny_llama):
    loaded = load_model(str(tiny_llama), dtype="float32")
    ids = torch.tensor([[5, 6, 9, 5, 6, 9, 5, 6, 9, 5, 6]])
    vector = SteeringVector({1: np.random.default_rng(0).standard_normal(D_MODEL)})
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    options |= {"pad_token_id": 0, "eos_token_id": None}
    for where in ("generated", "prompt", "first:3"):
        inner = steered(loaded, vector, -1.5, where="first:5")
        with steered(loaded, vector, 2.0, where=where), inner:
            plain = loaded.model.generate(ids, **options)
            for way in ({"prompt_lookup_num_tokens": 3}, {"cache_implementation": "static"}):
                assert torch.equal(loaded.model.generate(ids, **options, **way), plain)


def test_a_compiled_function_around_the_model_runs_the_edits(tiny_llama, vector):
    """It was compiled before the block, without them, and runs as before after it."""
    model = load_model(str(tiny_llama), dtype="float32").model
    ids = torch.arange(5, 12)[None]
    logits = torch.compile(lambda ids: model(ids, use_cache=False).logits, backend="eager")
    with torch.no_grad():
        plain = logits(ids)
        with steered(model, vector, 2.0):
            assert torch.equal(logits(ids), model(ids, use_cache=False).logits)
            assert not torch.equal(logits(ids), plain)
        assert torch.equal(logits(ids), plain)


@pytest.mark.parametrize("how", ["wrapped", "in place", "forward", "a block"])
def test_a_compiled_model_is_refused(tiny_llama, vector, how):
    model = load_model(str(tiny_llama), dtype="float32").model
    if how == "wrapped":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    elif how == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    else:
        model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    with pytest.raises(ModelError, match=r"is compiled.*before torch\.compile"):
        HooksBackend(model)
    with pytest.raises(ModelError, match="is compiled"), steered(model, vector, 1.0):
        pass
