"""The three backends read the same numbers, where they say they do, on every architecture."""

from __future__ import annotations

import copy

import pytest
import torch

from probekit.activations.backends import make_backend, prove
from probekit.activations.backends.hooks import HooksBackend
from probekit.errors import ModelError
from probekit.models.blocks import BlockNames
from probekit.models.load import load_model
from tests.tiny import ARCHITECTURES, D_MODEL, N_LAYERS, UNUSUAL, save_tiny, tiny_model


@pytest.fixture(scope="module", params=sorted({**ARCHITECTURES, **UNUSUAL}))
def loaded(request, tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("arch") / request.param, request.param)
    return load_model(str(folder), dtype="float32")


def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 250, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    mask[2, 4:] = 0
    return ids, mask


def everywhere(backend):
    sites = ("resid_post", *backend.writes)
    return [("resid_pre", 0)] + [(site, layer) for site in sites for layer in range(N_LAYERS)]


def read(backend, ids, mask, places):
    found = {}
    backend.run(ids, mask, places, lambda place, acts: found.__setitem__(place, acts.clone()))
    return found


def close(a, b, mask):
    a, b = a[mask.bool()], b[mask.bool()]
    return float((a - b).norm() / b.norm()) < 1e-5


def test_hooks_read_what_hugging_face_returns(loaded):
    ids, mask = batch()
    backend = make_backend("hooks", loaded)
    found = read(backend, ids, mask, everywhere(backend))
    with torch.no_grad():
        hidden = loaded.model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    if loaded.model.config.model_type == "mamba":  # whose list begins behind the first block
        hidden = (loaded.model.get_input_embeddings()(ids), *hidden)
    assert close(found["resid_pre", 0], hidden[0], mask)
    for layer in range(N_LAYERS - 1):
        assert close(found["resid_post", layer], hidden[layer + 1], mask)
    # Hugging Face returns the last layer after the final norm, the block's own output is before it.
    assert not close(found["resid_post", N_LAYERS - 1], hidden[-1], mask)


def test_the_writes_of_a_block_add_up(loaded):
    """resid_post = resid_pre + attn_out + mlp_out, whatever norms a block has inside."""
    ids, mask = batch()
    backend = make_backend("hooks", loaded)
    found = read(backend, ids, mask, everywhere(backend))
    before = found["resid_pre", 0]
    if not backend.writes:  # and then they are refused
        with pytest.raises(ModelError, match=r"no module of a \w+ gives what it adds"):
            read(backend, ids, mask, [("mlp_out", 1)])
        return
    for layer in range(N_LAYERS):
        total = before + sum(found[site, layer] for site in backend.writes)
        assert close(total, found["resid_post", layer], mask)
        before = found["resid_post", layer]


@pytest.mark.parametrize("name", ["transformer-lens", "nnsight"])
def test_other_backends_agree_with_hooks(loaded, name):
    kind = loaded.model.config.model_type
    if name == "transformer-lens" and kind not in ARCHITECTURES:
        pytest.skip("not all of them are known to it")
    if (kind, name) == ("granite", "nnsight"):
        with pytest.raises(ModelError, match="multiplies what blocks write"):
            make_backend(name, loaded)
        return
    ids, mask = batch()
    state = copy.deepcopy(loaded.model.state_dict())
    hooks = make_backend("hooks", loaded)
    expected = read(hooks, ids, mask, everywhere(hooks))
    backend = make_backend(name, loaded)
    assert (backend.n_layers, backend.d_model) == (N_LAYERS, D_MODEL)
    found = read(backend, ids, mask, everywhere(hooks))
    for place, acts in expected.items():
        assert close(found[place], acts, mask), place
    prove(backend, everywhere(hooks), loaded.device)
    assert loaded.tokenizer.padding_side == "right"
    assert state.keys() == loaded.model.state_dict().keys()


def test_the_pass_stops_at_the_deepest_place_and_leaves_no_hook(loaded):
    ids, mask = batch()
    backend = make_backend("hooks", loaded)
    names = ("_forward_hooks", "_forward_pre_hooks")
    before = [len(getattr(m, n)) for m in loaded.model.modules() for n in names]
    deeper = []
    block = loaded.model.get_submodule(backend._names.blocks)[1]
    handle = block.register_forward_hook(lambda *_: deeper.append(1))
    read(backend, ids, mask, [("resid_post", 0)])
    handle.remove()
    assert deeper == []
    with pytest.raises(ZeroDivisionError):
        backend.run(ids, mask, [("resid_post", 0)], lambda place, acts: 1 / 0)
    assert before == [len(getattr(m, n)) for m in loaded.model.modules() for n in names]


def test_prove_finds_a_site_that_is_not_on_the_path(loaded):
    backend = make_backend("hooks", loaded)
    prove(backend, everywhere(backend), loaded.device)
    backend._blocks = torch.nn.ModuleList(
        copy.deepcopy(block) for block in backend._blocks
    )  # hooks on copies that the model never runs
    backend.run = lambda ids, mask, places, read: read(places[0], torch.ones(1, 4, D_MODEL))
    with pytest.raises(ModelError, match="does not change the logits"):
        prove(backend, [("resid_post", 1)], loaded.device)


def test_an_unknown_architecture_says_how_to_name_its_blocks(loaded):
    unknown = copy.copy(loaded)
    model = copy.deepcopy(loaded.model)
    model.config.model_type = "novel"
    object.__setattr__(unknown, "model", model)
    with pytest.raises(ModelError, match=r"--blocks PATH:ATTN,MLP"):
        make_backend("hooks", unknown)
    known = make_backend("hooks", loaded)._names
    named = BlockNames.parse(f"{known.blocks}:{known.attn_out or '-'},{known.mlp_out or '-'}")
    ids, mask = batch()
    backend = make_backend("hooks", loaded)
    expected = read(backend, ids, mask, everywhere(backend))
    found = read(make_backend("hooks", unknown, names=named), ids, mask, everywhere(backend))
    assert all(torch.equal(found[place], expected[place]) for place in expected)
    with pytest.raises(ModelError, match="is not a list of blocks"):
        make_backend("hooks", unknown, names=BlockNames.parse("model.nowhere"))
    with pytest.raises(ModelError, match="has no module 'nothing'"):
        make_backend("hooks", unknown, names=BlockNames.parse(f"{known.blocks}:nothing,mlp"))


def test_an_unknown_backend_is_named(loaded):
    with pytest.raises(ModelError, match="'jax': unknown. Expected hooks, transformer-lens"):
        make_backend("jax", loaded)


@pytest.mark.parametrize(
    ("kind", "names", "right"),
    [
        (
            "olmo2",
            "model.layers:self_attn,mlp",
            "post_attention_layernorm,post_feedforward_layernorm",
        ),
        (
            "gemma2",
            "model.layers:self_attn,mlp",
            "post_attention_layernorm,post_feedforward_layernorm",
        ),
        ("bloom", "transformer.h:self_attention,mlp", "self_attention.dense,mlp.dense_4h_to_h"),
        ("mamba", "backbone.layers:norm,mixer", "mixer,-"),
        ("falcon_h1", "model.layers:self_attn,feed_forward", None),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_names_whose_writes_do_not_add_up_are_refused_with_the_right_ones(
    kind, names, right, dtype
):
    model = tiny_model(kind).to(getattr(torch, dtype))
    backend = HooksBackend(model, names=BlockNames.parse(names))
    message = "Read resid_post alone" if right is None else f":{right}'"
    places = [("attn_out", 1), ("resid_post", 1)]
    ids, mask = batch()
    with pytest.raises(ModelError, match=message):
        read(backend, ids, mask, places)
    assert read(backend, ids, mask, [("resid_post", 1)])
    if right:
        path = names.partition(":")[0]
        better = HooksBackend(model, names=BlockNames.parse(f"{path}:{right}"))
        prove(better, places, model.device)


def test_the_proof_finds_a_write_that_is_off_by_a_factor():
    backend = make_backend("hooks", tiny_model("granite"))
    prove(backend, [("mlp_out", 1)], torch.device("cpu"))
    backend._factor = 1.0
    with pytest.raises(ModelError, match="do not add up to resid_post"):
        prove(backend, [("mlp_out", 1)], torch.device("cpu"))


def test_an_edit_of_a_write_moves_the_residual_by_that_much():
    """Where blocks multiply what they add, the edit counts in the residual, not in the module."""
    backend = make_backend("hooks", tiny_model("granite"))
    ids, mask = batch()
    plain = read(backend, ids, mask, [("resid_post", 1)])["resid_post", 1]
    with backend.editing({("mlp_out", 1): lambda acts: acts + 2.0}):
        moved = read(backend, ids, mask, [("resid_post", 1)])["resid_post", 1]
    torch.testing.assert_close(moved, plain + 2.0, atol=1e-4, rtol=0)


def test_a_residual_stream_of_another_shape_is_refused():
    model = tiny_model()

    class Flat(torch.nn.Module):
        def forward(self, hidden):
            return torch.nn.functional.relu(hidden.flatten(0, 1))

    class Wide(torch.nn.Module):
        self_attn = mlp = torch.nn.Identity()

        def forward(self, hidden_states, **kwargs):
            return hidden_states[None]

    model.model.layers[1].mlp = Flat()
    ids, mask = batch()
    with pytest.raises(ModelError, match=r"mlp_out of layer 1: has shape \(33, 16\)"):
        read(make_backend("hooks", model), ids, mask, [("mlp_out", 1)])
    model = tiny_model()
    model.model.layers[2] = Wide()
    with pytest.raises(ModelError, match=r"resid_post of layer 2: has shape \(1, 3, 11, 16\)"):
        read(make_backend("hooks", model), ids, mask, [("resid_post", 2)])


def test_a_block_without_the_module_is_named():
    model = tiny_model("lfm2")
    with pytest.raises(ModelError, match="block 0 has no module 'self_attn'.*with |"):
        HooksBackend(model, names=BlockNames.parse("model.layers:self_attn,feed_forward"))
