"""How well a model knows a name: the log-probability of its later words, and who is kept by it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from probekit.activations.names import name_logprobs
from probekit.data.rows import Example, Message
from probekit.errors import DataError
from probekit.models.load import load_model
from probekit.studies.familiarity import familiar, summary
from tests.cli.test_cli import run
from tests.cli.test_elicit import RECIPE
from tests.tiny import save_tiny


def asked(i, content, name, value="real"):
    return Example(
        f"p{i}", f"g{i}", (Message("user", content),), tags={"name": name, "class": value}
    )


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_it_is_the_models_own_probability_of_the_words_after_the_first(tmp_path, architecture):
    loaded = load_model(str(save_tiny(tmp_path / architecture, architecture)), dtype="float32")
    names = ["Ann Lee", "Jo van der Berg", "Plato"]
    contents = ["Who is {}?", "I met {} today. Who is that?", "Tell me about {}."]
    prompts = [
        asked(i, c.format(n), n) for i, (c, n) in enumerate(zip(contents, names, strict=True))
    ]
    found = name_logprobs(loaded, prompts, "name", batch_tokens=40)
    tokenizer = loaded.tokenizer
    for value, content, name in zip(found, contents, names, strict=True):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content.format(name)}],
            tokenize=False,
            add_generation_prompt=True,
        )
        end = text.index(name) + len(name)
        # A name of one word begins with the space before it.
        start = text.index(name) + (len(name.split()[0]) if " " in name else -1)
        whole = tokenizer(text[:end], add_special_tokens=False)["input_ids"]
        before = tokenizer(text[:start], add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        wanted = sum(float(logits[i - 1, whole[i]]) for i in range(len(before), len(whole)))
        assert value == pytest.approx(wanted, abs=1e-3)


def test_classes_are_cut_to_the_names_that_are_known_and_then_to_one_size():
    prompts = [asked(i, "Who?", "A B", "real" if i % 2 else "invented") for i in range(10)]
    logprobs = np.array([-30.0, -1, -30, -9, -30, -2, -30, -3, -30, -8])
    kept = familiar(prompts, logprobs, "class", {"real": -5.0})
    assert [prompt.id for prompt in kept] == ["p0", "p1", "p2", "p4", "p5", "p7"]
    told = summary(prompts, logprobs, "class", kept)
    assert told["real"] == {
        "n": 5, "n_kept": 3, "median_logprob": -3.0, "median_logprob_kept": -2.0,
    }  # fmt: skip
    assert told["invented"]["n_kept"] == 3
    with pytest.raises(DataError, match=r"classes\.real\.familiar is -0\.5: the model knows none"):
        familiar(prompts, logprobs, "class", {"real": -0.5})


@pytest.mark.parametrize("prompt", [asked(1, "Who is Ann?", "Ann Lee"), asked(1, "Who is it?", "")])
def test_a_prompt_without_its_name_is_one_line(tiny_llama, prompt):
    loaded = load_model(str(tiny_llama), dtype="float32")
    with pytest.raises(DataError, match="prompt p1: its last turn does not hold its name"):
        name_logprobs(loaded, [prompt], "name")


def test_a_recipe_can_ask_for_known_names(tiny_llama, tmp_path, capsys):
    recipe = RECIPE.replace("[classes.0]\n", "[classes.0]\nfamiliar = {}\n").replace(
        'name = "letters"\n', 'name = "letters"\nname_tag = "who"\n'
    )
    rows = [
        {
            "prompt": f"Who is Ann {'x' * (k + 1)}?",
            "group": f"g{k}",
            "tags": {"half": str(k % 2), "who": f"Ann {'x' * (k + 1)}"},
        }
        for k in range(8)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_model(str(tiny_llama))
    examples = [asked(k, row["prompt"], row["tags"]["who"]) for k, row in enumerate(rows)]
    known = name_logprobs(loaded, examples, "name")[::2]
    (tmp_path / "r.toml").write_text(recipe.format(float(np.sort(known)[1]) - 0.01))
    command = ["elicit", "--recipe", tmp_path / "r.toml", "--prompts", tmp_path / "p.jsonl"]
    assert run(*command, "--model", tiny_llama, "--out", tmp_path / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)["familiarity"]
    assert (told["0"]["n"], told["0"]["n_kept"], told["1"]["n_kept"]) == (4, 3, 3)
    written = [json.loads(x) for x in (tmp_path / "out/completions.jsonl").read_text().splitlines()]
    assert len({row["prompt_id"] for row in written}) == 6
    (tmp_path / "r.toml").write_text(recipe.format("'much'"))
    assert run(*command, "--model", tiny_llama, "--out", tmp_path / "other") == 1
    assert "classes.0.familiar: got 'much', expected a number" in capsys.readouterr().err
