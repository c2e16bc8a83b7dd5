"""`probekit sample`: a model's own completions as rows that every other command reads."""

from __future__ import annotations

import json

import pytest
import torch

from probekit.behaviours import Behaviours
from probekit.data.open import open_dataset
from probekit.models.load import add_adapter, load_model
from probekit.rl.policy import Policy
from tests.cli.test_cli import run
from tests.tiny import save_tiny

LETTERS = """
name = "letters"
order = ["a"]
default = "rest"
[categories.a]
description = "has an a"
patterns = ["a"]
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "letters.toml").write_text(LETTERS)
    rows = [
        {"prompt": f"say {'x' * k}", "group": f"g{k}", "tags": {"half": str(k % 2)}}
        for k in range(6)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def sample(tiny_llama, files, out, *more):
    return [
        "sample", "--model", tiny_llama, "--prompts", files / "p.jsonl", "--out", out,
        "--samples", "5", "--max-new-tokens", "4", "--behaviours", files / "letters.toml", *more,
    ]  # fmt: skip


def test_rows_are_labelled_by_what_they_do_and_can_be_fitted(tiny_llama, files, capsys):
    out = files / "rows.jsonl"
    assert run(*sample(tiny_llama, files, out, "--behaviour", "a", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in out.read_bytes().split(b"\n") if line]
    assert told["n_rows"] == len(rows) == sum(told["counts"].values())
    known = Behaviours.load(files / "letters.toml")
    for row in rows:
        holds = known.classify("", row["completion"]) == "a"
        assert row["label"] == ("wanted" if holds else "other")
        assert row["tags"]["half"] == str(int(row["group"][1:]) % 2)
    assert len({(row["group"], row["completion"]) for row in rows}) == len(rows)
    dataset = open_dataset(out)
    assert dataset.kind == "label" and dataset.classes == ("other", "wanted")
    again = files / "again.jsonl"
    assert run(*sample(tiny_llama, files, again, "--behaviour", "a")) == 0
    assert again.read_bytes() == out.read_bytes()


def test_what_is_wanted_of_no_prompt_is_left_out(tiny_llama, files):
    out = files / "rows.jsonl"
    assert run(*sample(tiny_llama, files, out, "--behaviour", "half=1:a")) == 0
    rows = [json.loads(line) for line in out.read_bytes().split(b"\n") if line]
    assert {row["tags"]["half"] for row in rows} == {"1"}


@pytest.mark.parametrize("targets", ["all-linear", "lm_head"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_adapter_is_the_policy_that_saved_it(tiny_llama, files, dtype, targets):
    """Also where it is smaller than the last digit of the weights, which it stays beside."""
    ids = torch.arange(3, 260)[None]
    policy = Policy(load_model(str(tiny_llama), dtype=dtype), rank=2, targets=targets)
    generator = torch.Generator().manual_seed(0)
    policy.masters.set([torch.randn(p.shape, generator=generator) for p in policy.masters.all])
    folder = files / "adapter"
    policy.save(folder)
    loaded = load_model(str(tiny_llama), dtype=dtype)
    trained = add_adapter(loaded, folder)
    assert trained.fingerprint == loaded.fingerprint
    with torch.inference_mode():
        wanted, found = (
            model(ids).logits.float() for model in (policy.loaded.model, trained.model)
        )
    error = float((wanted - found).norm() / wanted.norm())
    assert error == 0.0  # the same sums
    own = dict(trained.model.named_parameters())
    for layer, module in policy.loaded.model.named_modules():
        if module in policy._layers:
            assert torch.equal(own[f"{layer}.base_layer.weight"], module.get_base_layer().weight)
    plain, trained = files / "plain.jsonl", files / "trained.jsonl"
    assert run(*sample(tiny_llama, files, plain)) == 0
    assert run(*sample(tiny_llama, files, trained, "--adapter", folder)) == 0
    assert plain.read_bytes() != trained.read_bytes()


def test_an_adapter_of_another_model_is_one_line(tiny_llama, files, capsys):
    other = load_model(str(save_tiny(files / "other", "phi3")), dtype="float32")
    Policy(other, rank=2).save(files / "adapter")
    out = files / "rows.jsonl"
    (files / "none").mkdir()
    for folder, message in (
        (files / "none", "holds no adapter_config.json"),
        (files, "does not fit"),  # the folder of a run
        (files / "adapter", "does not fit"),
    ):
        assert run(*sample(tiny_llama, files, out, "--adapter", folder)) == 1
        shown = capsys.readouterr().err
        assert message in shown and shown.strip().splitlines()[-1].startswith("error: ")
        assert not out.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--behaviour", "b"], "behaviour 'b': is no category"),
        (["--samples", "0"], "samples: got 0"),
        (["--prompts", "none.jsonl"], "no such file"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tiny_llama, files, capsys, more, message):
    out = files / "rows.jsonl"
    assert run(*sample(tiny_llama, files, out, *more)) == 1
    shown = capsys.readouterr().err
    assert message in shown and shown.strip().splitlines()[-1].startswith("error: ")
    assert not out.exists()
    out.write_text("mine")
    assert run(*sample(tiny_llama, files, out)) == 1
    assert out.read_text() == "mine"


@pytest.fixture
def adapter(tiny_llama, files):
    """An adapter that does something."""
    policy = Policy(load_model(str(tiny_llama), dtype="float32"), rank=2)
    generator = torch.Generator().manual_seed(0)
    weights = [0.1 * torch.randn(p.shape, generator=generator) for p in policy.masters.all]
    policy.masters.set(weights)
    policy.save(files / "adapter")
    return files / "adapter"


def test_an_amplified_sample_says_so_and_goes_on_where_it_was_cut(
    tiny_llama, files, adapter, monkeypatch
):
    from probekit.behaviours import sampled

    found, more = {}, ("--dtype", "float32", "--batch", "5")
    for name, options in {
        "base": [],
        "0": ["--adapter", adapter, "--amplify", "0"],
        "1": ["--adapter", adapter, "--amplify", "1"],
        "tuned": ["--adapter", adapter],
        "3": ["--adapter", adapter, "--amplify", "3"],
    }.items():
        out = files / f"{name}.jsonl"
        assert run(*sample(tiny_llama, files, out, *more, *options)) == 0
        rows = [json.loads(line) for line in out.read_bytes().split(b"\n") if line]
        tags = {row["tags"].get("amplify") for row in rows}
        assert tags == ({name} if "--amplify" in options else {None})
        assert all("category" in row["tags"] and "half" in row["tags"] for row in rows)
        record = json.loads((files / f"{name}.jsonl.run.json").read_text())
        assert record.get("amplify") == (float(name) if "--amplify" in options else None)
        found[name] = [row["completion"] for row in rows]
    assert found["0"] == found["base"] and found["1"] == found["tuned"]
    assert len({json.dumps(texts) for texts in found.values()}) == 3
    cut, kept = files / "cut.jsonl", sampled.Drawn.write

    def stop(self, number, completions):
        kept(self, number, completions)
        if number == 2:
            raise KeyboardInterrupt

    command = sample(tiny_llama, files, cut, *more, "--adapter", adapter)
    monkeypatch.setattr(sampled.Drawn, "write", stop)
    assert run(*command, "--amplify", "3") == 130
    monkeypatch.undo()
    assert run(*command, "--amplify", "2", "--resume") == 1
    assert run(*command, "--amplify", "3", "--resume") == 0
    assert cut.read_bytes() == (files / "3.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--amplify", "2"], "amplify: the model has no adapter, so there is no difference"),
        (["--adapter", "adapter", "--amplify", "-1"], "amplify: got -1, expected a number from 0"),
        (["--adapter", "adapter", "--amplify", "nan"], "amplify: got nan, expected a number"),
        (["--adapter", "fresh", "--amplify", "2"], "amplify: the adapter changes nothing"),
    ],
)
def test_what_cannot_be_amplified_is_one_line(tiny_llama, files, adapter, capsys, options, message):
    Policy(load_model(str(tiny_llama), dtype="float32"), rank=2).save(files / "fresh")
    options = [files / option if option in ("adapter", "fresh") else option for option in options]
    out = files / "rows.jsonl"
    assert run(*sample(tiny_llama, files, out, *options)) == 1
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("error: ") and message in shown
    assert not out.exists() and not out.with_name("rows.jsonl.partial").exists()
