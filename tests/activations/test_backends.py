"""The three backends read the same numbers, where they say they do, on every architecture."""

from __future__ import annotations

import copy

import pytest
import torch

from probekit.activations.backends import make_backend, prove
from probekit.errors import ModelError
from probekit.models.blocks import BlockNames
from probekit.models.load import load_model
from tests.tiny import ARCHITECTURES, D_MODEL, N_LAYERS, save_tiny

SITES = ("resid_post", "attn_out", "mlp_out")


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
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


def everywhere():
    return [("resid_pre", 0)] + [(site, layer) for site in SITES for layer in range(N_LAYERS)]


def read(backend, ids, mask, places):
    found = {}
    backend.run(ids, mask, places, lambda place, acts: found.__setitem__(place, acts.clone()))
    return found


def close(a, b, mask):
    a, b = a[mask.bool()], b[mask.bool()]
    return float((a - b).norm() / b.norm()) < 1e-5


def test_hooks_read_what_hugging_face_returns(loaded):
    ids, mask = batch()
    found = read(make_backend("hooks", loaded), ids, mask, everywhere())
    with torch.no_grad():
        hidden = loaded.model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert close(found["resid_pre", 0], hidden[0], mask)
    for layer in range(N_LAYERS - 1):
        assert close(found["resid_post", layer], hidden[layer + 1], mask)
    # Hugging Face returns the last layer after the final norm, the block's own output is before it.
    assert not close(found["resid_post", N_LAYERS - 1], hidden[-1], mask)


def test_the_writes_of_a_block_add_up(loaded):
    """resid_post = resid_pre + attn_out + mlp_out, whatever norms a block has inside."""
    ids, mask = batch()
    found = read(make_backend("hooks", loaded), ids, mask, everywhere())
    before = found["resid_pre", 0]
    for layer in range(N_LAYERS):
        total = before + found["attn_out", layer] + found["mlp_out", layer]
        assert close(total, found["resid_post", layer], mask)
        before = found["resid_post", layer]


@pytest.mark.parametrize("name", ["transformer-lens", "nnsight"])
def test_other_backends_agree_with_hooks(loaded, name):
    ids, mask = batch()
    state = copy.deepcopy(loaded.model.state_dict())
    expected = read(make_backend("hooks", loaded), ids, mask, everywhere())
    backend = make_backend(name, loaded)
    assert (backend.n_layers, backend.d_model) == (N_LAYERS, D_MODEL)
    found = read(backend, ids, mask, everywhere())
    for place, acts in expected.items():
        assert close(found[place], acts, mask), place
    prove(backend, everywhere(), loaded.device)
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
    prove(backend, everywhere(), loaded.device)
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
    named = BlockNames.parse(f"{known.blocks}:{known.attn_out},{known.mlp_out}")
    ids, mask = batch()
    expected = read(make_backend("hooks", loaded), ids, mask, everywhere())
    found = read(make_backend("hooks", unknown, names=named), ids, mask, everywhere())
    assert all(torch.equal(found[place], expected[place]) for place in expected)
    with pytest.raises(ModelError, match="is not a list of blocks"):
        make_backend("hooks", unknown, names=BlockNames.parse("model.nowhere"))
    with pytest.raises(ModelError, match="has no module 'nothing'"):
        make_backend("hooks", unknown, names=BlockNames.parse(f"{known.blocks}:nothing,mlp"))


def test_an_unknown_backend_is_named(loaded):
    with pytest.raises(ModelError, match="'jax': unknown. Expected hooks, transformer-lens"):
        make_backend("jax", loaded)
