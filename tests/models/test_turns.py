"""How a model's turns end, named templates, templates that refuse rows or print the date."""

from __future__ import annotations

import datetime
import json

import pytest

from probekit.activations.store import ActivationStore
from probekit.data import open_dataset
from probekit.data.rows import Example, Message
from probekit.errors import DataError, ModelError
from probekit.models import dates
from probekit.models.chat import render
from probekit.models.load import at_date_of, load_model
from probekit.models.sampling import closing_id, stop_ids
from tests.cli.test_cli import rows, run
from tests.models.test_placed import tokenizer_with
from tests.tiny import CHATML, tiny_model, tiny_tokenizer

GEMMA = (
    "<s>{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>model\n{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m['role'] }}"
    "{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m['content'] }}"
    "{{ '<|return|>' if m['role'] == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}" + CHATML
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
)


def folder_with(path, template):
    """Save a tiny model whose tokenizer has the template; it knows one end token, `<|im_end|>`."""
    tiny_model().save_pretrained(path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize(("template", "closing"), [(GEMMA, "<|end|>"), (CHANNELS, "<|return|>")])
def test_the_templates_own_closing_token_ends_a_turn(tmp_path, template, closing):
    tokenizer = tokenizer_with(template)
    tiny_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), dtype="float32")
    name = loaded.tokenizer.convert_ids_to_tokens
    assert name(closing_id(loaded)) == closing
    assert closing in [name(i) for i in stop_ids(loaded)]
    assert "</s>" in [name(i) for i in stop_ids(loaded)]


def test_an_answer_that_is_a_word_of_the_header_is_not_found_there():
    tokenizer = tokenizer_with(CHANNELS)
    row = render(Example("r", "g", (Message("user", "Where?"),), "final"), tokenizer)
    assert tokenizer.decode(row.ids[row.start - 1 : row.start]) == "<|message|>"
    assert tokenizer.decode(row.ids[row.start : row.stop]) == "final"
    assert tokenizer.decode(row.ids[row.new : row.start]) == "<|channel|>final<|message|>"


def test_a_text_template_without_closing_token_is_closed_by_the_eos_that_a_model_writes():
    tokenizer = tokenizer_with(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )
    row = render(Example("r", "g", (Message("user", "a"),), "b"), tokenizer)
    assert tokenizer.decode(row.ids) == "user: a\nassistant: b</s>"


def test_of_several_named_templates_the_default_is_used(tmp_path):
    named = {"default": CHATML, "tool_use": CHATML + "tools"}
    loaded = load_model(str(folder_with(tmp_path / "a", named)), dtype="float32")
    assert loaded.tokenizer.chat_template == CHATML
    assert loaded.template_hash == load_model(
        str(folder_with(tmp_path / "b", CHATML)), dtype="float32"
    ).template_hash  # fmt: skip
    with pytest.raises(ModelError, match="named rag, tool_use, none of them default"):
        load_model(str(folder_with(tmp_path / "c", {"rag": CHATML, "tool_use": CHATML})))


@pytest.fixture
def refused(tmp_path):
    """A model whose template knows no system turn, and rows of which two have one."""
    made = rows(tmp_path / "rows.jsonl", "label", n=12)
    lines = [json.loads(line) for line in made.read_text().splitlines()]
    for i in (4, 5):
        lines[i]["prompt"] = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    made.write_text("\n".join(map(json.dumps, lines)))
    return folder_with(tmp_path / "model", STRICT), made


def test_refused_rows_are_named_found_before_and_left_out_by_request(refused, tmp_path, capsys):
    model, data = refused
    command = ["cache", "--model", model, "--data", data, "--out", tmp_path / "a.h5", "--json"]
    assert run(*command) == 1
    message = capsys.readouterr().err
    assert f"{data}:5: row row-000005: the model's chat template refuses" in message
    assert "--skip-refused" in message and not (tmp_path / "a.h5").exists()
    assert run("data", "check", data, "--model", model, "--json") == 0
    found = json.loads(capsys.readouterr().out)["model"]
    assert found["refused"] == 2 and f"{data}:5" in found["first"][0] and found["longest"] > 20
    assert run(*command, "--skip-refused") == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {"refused by the chat template": 2}
    with ActivationStore.open(tmp_path / "a.h5") as store:
        ids = [row.split("-")[1] for row in store.examples.id.astype(str)]
        assert [int(i) for i in ids] == [1, 2, 3, 4, 7, 8, 9, 10, 11, 12]


def test_score_leaves_refused_rows_out_by_request(refused, tmp_path, capsys):
    model, data = refused
    assert run("cache", "--model", model, "--data", rows(tmp_path / "fit.jsonl", "label"),
               "--out", tmp_path / "a.h5", "--dtype", "float32") == 0  # fmt: skip
    assert run("fit", tmp_path / "a.h5", "--out", tmp_path / "fit") == 0
    command = ["score", "--probe", tmp_path / "fit", "--data", data, "--out", tmp_path / "s.jsonl"]
    assert run(*command) == 1
    assert f"{data}:5: row" in capsys.readouterr().err and not (tmp_path / "s.jsonl").exists()
    assert run(*command, "--skip-refused") == 0
    assert "10 scores, 2 left out" in capsys.readouterr().out
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 10


def test_a_printed_date_is_recorded_and_used_again(tmp_path, monkeypatch, capsys):
    model = folder_with(tmp_path / "model", DATED)
    data = rows(tmp_path / "rows.jsonl", "label")
    cache = [
        "cache",
        "--model",
        model,
        "--data",
        data,
        "--out",
        tmp_path / "a.h5",
        "--dtype",
        "float32",
    ]
    assert run(*cache, "--template-date", "3 May") == 1
    assert "expected a day as YYYY-MM-DD" in capsys.readouterr().err
    assert run(*cache, "--template-date", "2025-05-03") == 0
    assert run("fit", tmp_path / "a.h5", "--out", tmp_path / "fit") == 0
    with ActivationStore.open(tmp_path / "a.h5") as store:
        assert store.provenance["template_date"] == "2025-05-03"
        text = load_model(str(model)).tokenizer.decode(store.tokens.row(0).ids)
    assert text.startswith("03 May 2025")
    score = ["score", "--probe", tmp_path / "fit", "--data", data, "--out"]
    assert run(*score, tmp_path / "a.jsonl") == 0
    monkeypatch.setattr(dates, "today", lambda: "2031-01-01")
    assert run(*score, tmp_path / "b.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    assert run(*score, tmp_path / "c.jsonl", "--template-date", "2024-01-01") == 1
    assert (
        "template_date is 2024-01-01, the probe was fitted on 2025-05-03" in capsys.readouterr().err
    )


def test_a_run_of_another_day_is_continued_at_its_own_date(tmp_path, monkeypatch):
    model = folder_with(tmp_path / "model", DATED)
    data = rows(tmp_path / "rows.jsonl", "label")
    cache = ["cache", "--model", model, "--data", data, "--out", tmp_path / "a.h5"]
    assert run(*cache) == 0
    begun = datetime.date.today().isoformat()
    monkeypatch.setattr("probekit.models.load.today", lambda: "2031-01-01")
    monkeypatch.setattr(dates, "today", lambda: "2031-01-01")
    assert run(*cache, "--resume") == 0  # whole already, and seen to be the same
    loaded = load_model(str(model))
    assert loaded.template_date == "2031-01-01"
    again = at_date_of(loaded, {"template_date": begun})
    row = render(Example("r", "g", (Message("user", "a"),)), again.tokenizer)
    day = datetime.date.fromisoformat(begun).strftime("%d %b %Y")
    assert again.template_date == begun and again.tokenizer.decode(row.ids).startswith(day)
    asked = load_model(str(model), template_date="2020-02-02")
    assert at_date_of(asked, {"template_date": begun}).template_date == "2020-02-02"


def test_tokens_that_a_model_wrote_otherwise_than_the_tokenizer_come_along(tmp_path):
    """A model may write a word in other pieces than the tokenizer does; a head is read on its own."""
    tokenizer = tokenizer_with(GEMMA)
    pieces = tokenizer("the film", add_special_tokens=False)["input_ids"]
    letters = [i for c in "the film" for i in tokenizer(c, add_special_tokens=False)["input_ids"]]
    assert len(letters) > len(pieces)
    prompt = (Message("user", "a"),)
    row = render(Example("r", "g", prompt, "the film", completion_ids=tuple(letters)), tokenizer)
    assert row.ids[row.start : row.stop].tolist() == letters
    assert tokenizer.decode(row.ids[row.turn_end]) == "<|end|>"
    for text, ids in (("the films", letters), ("the film", (5, 6))):  # not this text's
        row = render(Example("r", "g", prompt, text, completion_ids=tuple(ids)), tokenizer)
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert row.ids[row.start : row.stop].tolist() == own
    data = tmp_path / "rows.jsonl"
    line = {"prompt": "a", "completion": "the film", "label": 1, "completion_ids": letters}
    data.write_text(json.dumps(line) + "\n" + json.dumps({**line, "completion_ids": ["x"]}))
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: completion_ids is .*expected a list of token"
    ):
        open_dataset(data)
    data.write_text(
        json.dumps(line) + "\n" + json.dumps({**line, "label": 2, "completion_ids": None})
    )
    assert [e.completion_ids for e in open_dataset(data).examples()] == [tuple(letters), None]


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_a_template_that_stands_with_the_processor_is_the_models(tmp_path, name):
    """Models of images and text keep it there; without it turns would be joined with blank lines."""
    folder = folder_with(tmp_path, None)
    assert load_model(str(folder)).tokenizer.chat_template is None
    (folder / name).write_text(json.dumps({"chat_template": GEMMA}))
    loaded = load_model(str(folder))
    assert loaded.template_hash == load_model(str(folder_with(tmp_path / "b", GEMMA))).template_hash
    row = render(Example("r", "g", (Message("user", "hi"),)), loaded.tokenizer)
    assert loaded.tokenizer.decode(row.ids).endswith("<|start|>model\n")
