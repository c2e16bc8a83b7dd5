"""Files from elsewhere: no code of theirs is run, no search is endless, no other file is read or cut."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from probekit import open_run
from probekit.activations.store import ActivationStore
from probekit.activations.writer import write_examples
from probekit.behaviours import Behaviours
from probekit.cli.main import cli
from probekit.data.rows import Example, Message
from probekit.errors import (
    BehaviourError,
    DataError,
    ModelError,
    PatternError,
    ProbeError,
    ProbekitError,
    StoreError,
)
from probekit.models.chat import Rendered
from probekit.rl.extra import ExtraReward, Written
from probekit.studies import Recipe

EVIL = "import pathlib\npathlib.Path({mark!r}).write_text('run')\ndef f(*a, **k): return [1.0]\n"
RECIPE = """
name = "r"
class_tag = "class"
prompts = "p.jsonl"
{more}
[variants.plain]
[variants.asked]
system = "s"
[classes.real]
chosen = "plain"
rejected = "asked"
"""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """An importable module that leaves a mark when it is imported; returns the mark."""
    folder, mark = tmp_path / "modules", tmp_path / "mark"
    folder.mkdir()
    (folder / "evil_code.py").write_text(EVIL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(folder))
    yield mark
    sys.modules.pop("evil_code", None)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


FUNCTION = "[categories.a]\nfunction = 'evil_code:f'\n"


def test_a_function_of_a_file_is_code_that_has_to_be_allowed(evil, tmp_path):
    path = write(tmp_path / "b.toml", FUNCTION)
    above = write(tmp_path / "c.toml", "extends = 'b.toml'\n[categories.z]\npatterns = ['z']\n")
    recipe = write(tmp_path / "r.toml", RECIPE.format(more="behaviours = 'b.toml'"))
    spec = "evil_code:f=1"
    closed = (
        (BehaviourError, lambda **k: Behaviours.load(path, **k)),
        (BehaviourError, lambda **k: Behaviours.load(above, **k)),
        (BehaviourError, lambda **k: Recipe.load(recipe, **k)),
        (ModelError, lambda **k: ExtraReward.parse(spec, **k)),
    )
    for error, load in closed:
        with pytest.raises(error, match=r"evil_code:f.*--allow-code.*allow_code=True"):
            load()
        assert not evil.exists()
    for _, load in closed:
        sys.modules.pop("evil_code", None)
        evil.unlink(missing_ok=True)
        load(allow_code=True)
        assert evil.read_text() == "run"


def test_settings_of_a_run_import_nothing(evil):
    from probekit.rl import RLConfig

    assert RLConfig(rewards=("evil_code:f=1",)).rewards == ("evil_code:f=1",)
    assert not evil.exists()


COMMANDS = {
    "behaviours": "behaviours {0}/b.toml",
    "steer": "steer --probe {0} --prompts demo:sentiment --out {0}/o --behaviours {0}/b.toml",
    "sample": "sample --model {0} --prompts demo:sentiment --out {0}/o.jsonl --behaviours {0}/b.toml",
    "rl": "rl --probe {0} --prompts demo:sentiment --out {0}/o --behaviours {0}/b.toml",
    "reward": "rl --probe {0} --prompts demo:sentiment --out {0}/o --reward evil_code:f=1",
    "reward in a file": "rl --probe {0} --prompts demo:sentiment --out {0}/o --config {0}/config.toml",
    "elicit": "elicit --recipe {0}/r.toml --out {0}/o",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_run_code_of_files_only_when_told(evil, tmp_path, name):
    write(tmp_path / "b.toml", FUNCTION)
    write(tmp_path / "r.toml", RECIPE.format(more="behaviours = 'b.toml'"))
    write(tmp_path / "config.toml", "rewards = ['evil_code:f=1']\n")
    words = COMMANDS[name].format(tmp_path).split()
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, ProbekitError)
    assert "--allow-code" in str(done.exception)
    assert not evil.exists()
    done = CliRunner().invoke(cli, [*words, "--allow-code"])
    assert evil.exists()  # what fails then is the made-up probe, model or prompts
    assert "--allow-code" in CliRunner().invoke(cli, [words[0], "--help"]).output


def test_functions_of_the_shipped_files_need_no_leave():
    for name in ("sentiment", "knowledge-awareness", "knowledge-awareness-strict"):
        assert Behaviours.load(name).classify("q", "I love it, it is wonderful.")


SLOW = {"(a|aa)+$": "a" * 60 + " ", "(?:a{1,1000}){1,1000}b": "a" * 3000}


@pytest.mark.parametrize("pattern", SLOW)
def test_a_search_that_backtracks_without_end_is_given_up_in_one_line(tmp_path, pattern):
    path = write(tmp_path / "b.toml", f"[categories.a]\npatterns = ['{pattern}']\n")
    leaks = f"[variants.x]\nsystem = 's'\nleaks = ['{pattern}']\n"
    recipe = Recipe.load(write(tmp_path / "r.toml", RECIPE.format(more="") + leaks))
    text, reward = SLOW[pattern], ExtraReward.parse(f"pattern:{pattern}=1")
    for search in (
        lambda text: Behaviours.load(path).classify("q", text),
        lambda text: reward(Written([], [text], [[1]])),
        recipe.variants["x"].leaks[0].search,
    ):
        began = time.process_time()
        with pytest.raises(PatternError, match=r"^pattern .*: gave no answer in 2 s") as found:
            search(text)
        assert repr(pattern) in str(found.value)
        assert (
            time.process_time() - began < 10
        )  # without a limit it takes longer than anybody waits
        search("no such letter")


@pytest.mark.parametrize("place", ["../out.toml", "/etc/passwd", "link.toml", "a/../../out.toml"])
def test_what_a_file_extends_lies_beside_it(tmp_path, place):
    folder = tmp_path / "files"
    folder.mkdir()
    write(tmp_path / "out.toml", "[categories.z]\npatterns = ['z']\n")
    (folder / "link.toml").symlink_to(tmp_path / "out.toml")
    path = write(folder / "b.toml", f"extends = '{place}'\n[categories.a]\npatterns = ['a']\n")
    with pytest.raises(BehaviourError, match="leads out of the folder"):
        Behaviours.load(path)
    recipe = write(folder / "r.toml", RECIPE.format(more=f"behaviours = '{place}'"))
    with pytest.raises(DataError, match="leads out of the folder"):
        Recipe.load(recipe)


# ---- stores ----


@pytest.fixture
def store(tmp_path):
    """A function that writes a whole store, lets the test change it, and opens it."""
    path, secret = tmp_path / "acts.h5", tmp_path / "secret.txt"
    secret.write_text("root:x:0:0" * 20)

    def rows():
        for i in range(4):
            prompt = (Message("user", f"question {i}"),)
            example = Example(
                id=f"r{i}",
                group=f"g{i}",
                label=str(i % 2),
                prompt=prompt,
                completion="yes",
            )
            yield example, Rendered(np.arange(6), 2, 5, None, True)

    def make(change=lambda file, secret: None):
        write_examples(path, rows(), kind="label", classes=("0", "1"))
        with h5py.File(path, "r+") as file:
            file["activations/resid_post/000/last"] = np.ones((4, 3), np.float32)
            file.attrs.update(
                format="probekit.activations", format_version=1, n_layers=1, d_model=3,
                provenance="{}", complete=True,
            )  # fmt: skip
            change(file, secret)
        return path

    return make


def external_storage(file, secret):
    del file["examples/completion"]
    file.create_dataset("examples/completion", (4,), "S10", external=[(str(secret), 0, 40)])


def external_acts(file, secret):
    del file["activations/resid_post/000/last"]
    file.create_dataset(
        "activations/resid_post/000/last", (4, 3), "f4", external=[(str(secret), 0, 48)]
    )


def external_link(file, secret):
    del file["examples/prompt"]
    file["examples/prompt"] = h5py.ExternalLink(str(secret.with_name("other.h5")), "/text")


def linked_group(file, secret):
    del file["activations"]
    file["activations"] = h5py.ExternalLink(str(secret.with_name("other.h5")), "/")


def soft_link(file, secret):
    del file["examples/prompt"]
    file["examples/prompt"] = h5py.SoftLink("/examples/completion")


def virtual(file, secret):
    layout = h5py.VirtualLayout((4,), "S10")
    layout[:] = h5py.VirtualSource(str(secret.with_name("other.h5")), "text", (4,), "S10")
    del file["examples/completion"]
    file.create_virtual_dataset("examples/completion", layout)


def tag_elsewhere(file, secret):
    file.create_dataset("examples/tags/t", (4,), "S10", external=[(str(secret), 0, 40)])


@pytest.mark.parametrize(
    "change",
    [
        external_storage,
        external_acts,
        external_link,
        linked_group,
        soft_link,
        virtual,
        tag_elsewhere,
    ],
)
def test_a_store_holds_all_of_its_data(store, change):
    path = store(change)
    with pytest.raises(StoreError, match=r"acts\.h5:/\S+: (is a link|keeps its data).*Expected"):
        ActivationStore.open(path)


def test_a_store_that_holds_its_data_is_read(store):
    def circle(file, secret):
        file["examples/again"] = file["examples"]  # a hard link: a group that holds itself

    for change in (lambda file, secret: None, circle):
        with ActivationStore.open(store(change)) as opened:
            assert list(opened.examples.completion) == ["yes"] * 4
            assert opened.read(opened.cells()[0]).sum() == 12


# ---- other files that name files ----


@pytest.mark.parametrize("output", ["../../stranger", "/etc", "a/../../stranger"])
def test_a_study_reads_outputs_of_its_own_folder(tmp_path, output):
    study, row = tmp_path / "s", {"name": "fit", "argv": ["fit"], "output": output, "state": "done"}
    study.mkdir()
    row |= {"seconds": 1.0, "run": 1, "inputs": {}, "version": "0"}
    record = {
        "command": "study",
        "study": "x",
        "model": "m",
        "seed": 0,
        "quick": True,
        "stages": [row],
    }
    write(study / "study.json", json.dumps(record))
    with pytest.raises(ProbeError, match=r"study\.json: stage fit: .*leads out of the folder"):
        open_run(study)
    record["stages"][0]["output"] = "fit"
    write(study / "study.json", json.dumps(record))
    assert list(open_run(study).stages["output"]) == ["fit"]


def test_a_checkpoint_cuts_no_file_but_its_logs(tmp_path):
    """A checkpoint's header says how long its logs were; once it could say that of any file."""
    from probekit.rl.checkpoint import LOGS, cut_logs

    victim = write(tmp_path / "precious.txt", "precious")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in LOGS:
        write(folder / name, "0123456789")
    cut_logs(folder, {**dict.fromkeys(LOGS, 4), "../precious.txt": 0, str(victim): 0})
    assert victim.read_text() == "precious"
    assert {(folder / name).read_text() for name in LOGS} == {"0123"}


def test_a_pickled_adapter_is_not_read(tmp_path):
    from probekit.models.load import add_adapter

    class Trap:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "mark", "run")

    import torch

    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder / "adapter_config.json", '{"peft_type": "LORA", "target_modules": ["q_proj"]}')
    torch.save({"w": Trap()}, folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        add_adapter(None, folder)
    assert not (tmp_path / "mark").exists()


def test_a_pickled_model_is_not_read(tmp_path, tiny_llama):
    import shutil

    import torch

    from probekit.models.load import load_model

    class Trap:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "mark", "run")

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save({"w": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_model(str(folder))
    assert not (tmp_path / "mark").exists()


def test_code_that_ships_with_a_model_is_not_run(tmp_path, tiny_llama):
    import shutil

    from probekit.models.load import load_model

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    write(folder / "config.json", json.dumps({**config, "model_type": "evil", "auto_map": names}))
    write(folder / "evil.py", EVIL.format(mark=str(tmp_path / "mark")))
    with pytest.raises(ModelError):
        load_model(str(folder))
    assert not (tmp_path / "mark").exists()


def test_no_loader_of_pickles_is_called():
    import ast

    import probekit

    for path in Path(probekit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"torch.load", "np.load", "pd.read_pickle", "eval", "exec"}, path
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("allow_pickle", "False") == "False", path
                assert given.get("trust_remote_code", "False") != "True", path
