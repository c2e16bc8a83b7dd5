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
    for folder, message in (
        (files, "holds no adapter_config.json"),
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
