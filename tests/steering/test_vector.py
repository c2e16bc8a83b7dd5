"""A steering vector is a value: its algebra, its files, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.activations.store import ActivationStore
from probekit.errors import SteeringError
from probekit.probes import Probe
from probekit.steering import SteeringVector

numbers = st.floats(-10, 10)


def drawn(seed, layers=(1, 3), width=6):
    rng = np.random.default_rng(seed)
    return SteeringVector({layer: rng.standard_normal(width) for layer in layers})


def same(a, b):
    assert a.layers == b.layers
    for layer in a.layers:
        np.testing.assert_allclose(a.vectors[layer], b.vectors[layer], atol=1e-12)


@given(numbers, numbers)
def test_it_is_a_vector_space(a, b):
    u, v = drawn(0), drawn(1, layers=(3, 4))
    same(u + v, v + u)
    same((a + b) * u, a * u + b * u)
    same(a * (u + v), a * u + a * v)
    same(u - v, u + -v)
    same((u + v) - v, u + 0 * v)
    if abs(a) > 1e-3:
        same((u * a) / a, u)


def test_layers_of_one_side_count_as_zero_in_the_other():
    u, v = drawn(0, layers=(1,)), drawn(1, layers=(2,))
    both = u + v
    np.testing.assert_array_equal(both.vectors[1], u.vectors[1])
    np.testing.assert_array_equal(both.vectors[2], v.vectors[2])
    assert u.cosine(v) == 0.0


def test_it_is_a_value_and_not_a_view():
    raw = np.ones(3)
    vector = SteeringVector({1: raw})
    raw[:] = 7.0
    assert vector.norm() == pytest.approx(np.sqrt(3))


def test_norm_and_cosine_are_those_of_all_layers_end_to_end():
    u, v = drawn(0), drawn(1)
    a, b = (np.concatenate(list(x.vectors.values())) for x in (u, v))
    assert u.norm() == pytest.approx(np.linalg.norm(a))
    assert u.cosine(v) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert u.cosine(-2 * u) == pytest.approx(-1.0)
    assert u.norms()[3] == pytest.approx(np.linalg.norm(u.vectors[3]))


def test_units_of_the_residual_norm():
    scaled = (5 * drawn(0)).in_norms({1: 10.0, 3: 40.0})
    assert scaled.norms() == pytest.approx({1: 10.0, 3: 40.0})
    assert scaled.only([3]).cosine(drawn(0).only([3])) == pytest.approx(1.0)


def test_random_controls_have_the_norms_and_no_preferred_direction():
    u = drawn(0, width=64) * 7
    controls = [u.random_like(np.random.default_rng(i)) for i in range(400)]
    for control in controls[:5]:
        assert control.norms() == pytest.approx(u.norms())
    # Cosines with a fixed direction: mean 0, standard deviation 1 / sqrt(d), here per layer.
    cosines = np.array([c.only([1]).cosine(u.only([1])) for c in controls])
    assert abs(cosines.mean()) < 4 / np.sqrt(64 * 400)
    assert cosines.std() == pytest.approx(1 / 8, rel=0.15)


def test_difference_of_means_in_closed_form_and_from_a_store(fitted):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((9, 4)) + 1, rng.standard_normal((5, 4))
    found = SteeringVector.from_means({2: a}, {2: b})
    np.testing.assert_allclose(found.vectors[2], a.sum(0) / 9 - b.sum(0) / 5)
    with ActivationStore.open(fitted / "acts.h5") as store:
        stored = SteeringVector.from_store(store, layers=[0, 2])
        label = store.examples.label
        from probekit.activations.table import Cell

        acts = store.read(Cell("resid_post", 2, "mean")).astype(float)
        wanted = acts[label == 1].mean(0) - acts[label == 0].mean(0)
    np.testing.assert_allclose(stored.vectors[2], wanted, rtol=1e-6)
    assert stored.model["weights_fingerprint"]


def test_from_probes_takes_unit_directions(fitted):
    probes = Probe.load_layers(fitted)
    vector = SteeringVector.from_probes(probes)
    assert vector.layers == [0, 1, 2]
    for probe in probes:
        np.testing.assert_allclose(vector.vectors[probe.layer], probe.direction)
    with pytest.raises(SteeringError, match="same layer"):
        SteeringVector.from_probes([probes[0], probes[0]])


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_a_file_gives_the_vector_back(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    vector = SteeringVector(drawn(0).vectors, source="test", model={"model_type": "llama"})
    vector.save(path)
    again = SteeringVector.load(path)
    assert again.layers == vector.layers
    for layer in vector.layers:
        exact = vector.vectors[layer]
        exact = exact.astype(np.float32) if suffix == ".gguf" else exact
        np.testing.assert_array_equal(again.vectors[layer], exact)
    assert again.model["model_type"] == "llama"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_gguf_file_is_what_llama_cpp_and_repeng_read(tmp_path):
    """Their readers want architecture controlvector and 1-D float32 direction.N with N >= 1."""
    from gguf import GGMLQuantizationType, GGUFReader

    SteeringVector({4: np.arange(6.0)}, model={"model_type": "llama"}).save(tmp_path / "v.gguf")
    reader = GGUFReader(tmp_path / "v.gguf")
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 1
    (tensor,) = reader.tensors
    assert tensor.name == "direction.4"
    assert tensor.tensor_type == GGMLQuantizationType.F32
    assert list(tensor.shape) == [6]
    np.testing.assert_array_equal(tensor.data, np.arange(6, dtype=np.float32))


def test_a_foreign_control_vector_is_read(tmp_path):
    """As repeng's export_gguf writes it."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "r.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in (1, 2):
        writer.add_tensor(f"direction.{layer}", np.full(4, layer, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = SteeringVector.load(tmp_path / "r.gguf")
    assert found.layers == [1, 2]
    assert found.model == {"model_type": "mistral"}
    np.testing.assert_array_equal(found.vectors[2], [2, 2, 2, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SteeringVector({}), "has no layer"),
        (lambda: SteeringVector({1: [1.0, float("nan")]}), "layer 1 holds NaN"),
        (lambda: SteeringVector({1: [1.0, 2.0], 2: [1.0]}), "shapes are"),
        (lambda: SteeringVector({1: [0.0, 0.0]}).unit(), "zero at layer 1"),
        (lambda: drawn(0) / 0, "divided by zero"),
        (lambda: drawn(0) + drawn(1, width=7), "widths are 6 and 7"),
        (lambda: drawn(0).only([2]), "no vector for layer 2"),
        (lambda: SteeringVector.from_means({1: np.ones((2, 3))}, {2: np.ones((2, 3))}), "layers"),
        (lambda: SteeringVector.from_means({1: np.ones((2, 3))}, {1: np.ones((2, 4))}), "shape"),
        (lambda: SteeringVector.from_means({1: np.ones((0, 3))}, {1: np.ones((2, 3))}), "shape"),
        (lambda: SteeringVector.from_means({1: np.ones(3)}, {1: np.ones(3)}), "shape"),
        (lambda: drawn(0).save("v.npy"), "unknown file type"),
        (lambda: SteeringVector.load("nowhere.safetensors"), "no such file"),
        (lambda: SteeringVector.load("nowhere.gguf"), "no such file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(SteeringError, match=message):
        make()


def test_files_that_are_no_vectors_are_refused(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(SteeringError, match="refuses direction.0"):
        drawn(0, layers=(0, 1)).save(tmp_path / "zero.gguf")
    with pytest.raises(SteeringError, match="on the output of blocks"):
        SteeringVector({1: [1.0]}, site="mlp_out").save(tmp_path / "mlp.gguf")
    save_file({"x": np.ones(3)}, tmp_path / "foreign.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    newer = '{"format": "probekit.steering_vector", "format_version": 99}'
    save_file({"layer.1": np.ones(3)}, tmp_path / "new.safetensors", metadata={"probekit": newer})
    own = '{"format": "probekit.steering_vector", "format_version": 1}'
    save_file({"x": np.ones(3)}, tmp_path / "odd.safetensors", metadata={"probekit": own})
    for name, message in (
        ("odd.safetensors", "is damaged"),
        ("foreign.safetensors", "is not a steering vector"),
        ("junk.safetensors", "cannot be read as safetensors"),
        ("junk.gguf", "cannot be read as GGUF"),
        ("new.safetensors", "format version 99"),
    ):
        with pytest.raises(SteeringError, match=message):
            SteeringVector.load(tmp_path / name)
    assert not (tmp_path / "zero.gguf").exists()
