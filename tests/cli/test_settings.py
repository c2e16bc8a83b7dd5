"""Settings from the command line: which source wins, what a settings file holds, how a bad one is refused."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from probekit.cli.main import cli
from probekit.cli.settings import SettingsCommand
from probekit.rl.config import RLConfig
from probekit.steering.config import SteerConfig
from tests.cli.test_cli import run, walk

COMMANDS = {" ".join(path): command for path, command in walk(cli) if path}
WITH_SETTINGS = [name for name, command in COMMANDS.items() if isinstance(command, SettingsCommand)]


def printed(capsys, *argv):
    """Return what `--print-config` prints, and that as a table."""
    assert run(*argv, "--print-config") == 0
    text = capsys.readouterr().out
    return text, tomllib.loads(text)


def test_no_option_is_lost():
    """`options.txt` holds the spellings of the last version whose options were written by hand."""
    lines = (Path(__file__).parent / "options.txt").read_text().splitlines()
    for line in lines:
        words = line.split()
        name = " ".join(word for word in words if not word.startswith("-"))
        params = COMMANDS[name].get_params(click.Context(COMMANDS[name]))
        spelled = {spelling for param in params for spelling in param.opts}
        assert {word for word in words if word.startswith("-")} <= spelled, name
    assert len(lines) == 16 and sum(line.count(" -") for line in lines) == 242


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_is_spelled_once_and_its_help_stands_alone(name):
    params = COMMANDS[name].get_params(click.Context(COMMANDS[name]))
    spelled = [spelling for param in params for spelling in (*param.opts, *param.secondary_opts)]
    assert len(spelled) == len(set(spelled))
    for param in params:
        if isinstance(param, click.Option):
            words = param.help.partition("  [default")[0]
            assert len(words.split()) >= 4 and words.endswith("."), (param.opts, words)
            assert not words.startswith(("Of ", "Its ", "It ", "This ", "Also ", "The same ")), (
                words
            )
            assert not words.endswith((" it.", " of it.", " too.", " instead.")), words


def test_help_shows_common_options_under_headings_and_names_the_others(capsys):
    assert run("rl", "--help") == 0
    text = capsys.readouterr().out
    shown, _, rest = text.partition("More options, explained by --print-config:")
    for name, key in RLConfig.keys().items():
        option = f"{COMMANDS['rl'].options[name].opts[0]} "
        assert (option in shown) == key.common, name
        assert key.common or option.strip() in rest
        assert not key.common or f"\nHow: {key.group.lower()}:\n" in shown


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_help_has_what_how_output_and_advanced_and_every_option_once(name, capsys):
    assert run(*name.split(), "--help") == 0
    shown = capsys.readouterr().out.partition("More options, explained")[0]
    parts = re.split(r"^(\w[\w: ]*):$", shown, flags=re.M)[1:]
    titles, texts = parts[::2], parts[1::2]
    own = [title.partition(":")[0] for title in titles]
    assert list(dict.fromkeys(own)) == [
        title for title in ("What", "How", "Output", "Advanced") if title in own
    ]
    listed = [re.findall(r"^  (?:-o, )?(--[\w-]+|-h)", text, flags=re.M) for text in texts]
    command = COMMANDS[name]
    params = command.get_params(click.Context(command, help_option_names=["-h", "--help"]))
    visible = [p for p in params if isinstance(p, click.Option) and not p.hidden]
    wanted = [p.opts[0] if p.opts[0] != "-o" else "--out" for p in visible]
    assert sorted(sum(listed, [])) == sorted(wanted)
    where = {option: title for title, part in zip(own, listed, strict=True) for option in part}
    shown_help = where.get("-h", where.get("--help"))  # whichever this process spelled first
    assert where["--out"] == "Output" and where["--config"] == shown_help == "Advanced"
    for title, part in zip(titles, listed, strict=True):  # what is needed stands first
        needed = [p.required for option in part for p in visible if option in p.opts]
        assert needed == sorted(needed, reverse=True), title


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_a_printed_file_is_read_back_as_the_same_settings(name, tmp_path, capsys):
    text, table = printed(capsys, *name.split())
    keys = COMMANDS[name].keys
    assert table.keys() == keys.keys()
    assert all(f"# {key.sentence}\n" in text for key in keys.values())
    file = tmp_path / "run.toml"
    file.write_text(text)
    assert printed(capsys, *name.split(), "--config", file)[0] == text


def test_changed_settings_round_trip_with_lists_and_none(tmp_path, capsys):
    changed = ["--reward", "length=-0.01", "--reward", "pattern:a,b=1", "--set", "clip=none"]
    changed += ["--full-weights", "--learning-rate", "1e-5", "--balance", 'of "people"']
    text, table = printed(capsys, "rl", *changed)
    assert table["rewards"] == ["length=-0.01", "pattern:a,b=1"] and table["clip"] == "none"
    (tmp_path / "run.toml").write_text(text)
    assert printed(capsys, "rl", "--config", tmp_path / "run.toml")[0] == text
    command = COMMANDS["rl"]
    context = command.make_context("rl", ["--probe", "p", "--prompts", "q", "-o", "o", *changed])
    wanted = RLConfig(
        rewards=("length=-0.01", "pattern:a,b=1"), clip=None, full_weights=True,
        learning_rate=1e-5, balance='of "people"',
    )  # fmt: skip
    assert command.resolve(context) == wanted


def test_options_stand_over_the_file_and_that_over_defaults(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text("steps = 3\ngroup = 4\nrank = 2\n")
    _, table = printed(capsys, "rl", "--config", file, "--group", "6", "--set", "rank=5")
    wanted = dataclasses.asdict(RLConfig(steps=3, group=6, rank=5))
    assert {key: table[key] for key in ("steps", "group", "rank", "seed")} == {
        key: wanted[key] for key in ("steps", "group", "rank", "seed")
    }
    assert run("rl", "--print-config", "--set", "steps=5", "--steps", "4") == 2
    assert "--steps and --set steps: give one of them" in capsys.readouterr().err
    assert run("rl", "--print-config", "--set", "steps") == 2
    assert "expected KEY=VALUE" in capsys.readouterr().err


def test_a_command_may_have_other_defaults_than_the_model(capsys):
    assert printed(capsys, "sample")[1]["samples"] == 8
    assert printed(capsys, "sample", "--samples", "2")[1]["samples"] == 2


def test_set_takes_bare_text_and_toml(capsys):
    for text, layers in (("12", "12"), ("'8:20:4'", "8:20:4"), ("8:20:4", "8:20:4")):
        assert printed(capsys, "steer", "--set", f"layers={text}")[1]["layers"] == layers
    table = printed(capsys, "steer", "--set", "rerank=true", "--set", "damage_bound=2")[1]
    assert (table["rerank"], table["damage_bound"]) == (True, 2.0)
    assert SteerConfig(**table | {"layers": None, "rerank_coeff": None}).damage_bound == 2
    assert printed(capsys, "cache", "--set", "sites=attn_out,mlp_out")[1]["sites"] == [
        "attn_out",
        "mlp_out",
    ]


@pytest.mark.parametrize(
    ("text", "argv", "line"),
    [
        ("stepps = 3", [], "{file}: stepps: unknown key. Did you mean steps?"),
        ("steps = 'many'", [], "{file}: steps: got 'many', expected a whole number."),
        ("lora_targets = true", [], "{file}: lora_targets: got True, expected text in quotes."),
        ("steps = ", [], "{file}: cannot be read as TOML (Invalid value (at end of document))."),
        (None, [], "{file}: no such file"),
        ("", ["--set", "grop=3"], "--set grop: unknown key. Did you mean group?"),
        ("", ["--set", "group=few"], "--set group: got 'few', expected a whole number."),
        ("", ["--prompts-per-step", "0"], "--prompts-per-step: got 0, expected 1 or more."),
        (
            "",
            ["--target", "mxa"],
            "--target: got 'mxa', expected max, clip, gaussian, kde or chosen. Did",
        ),
        ("guides = 3", [], "{file}: guides: got 3, expected 0 or an even number"),
        (
            "",
            ["--epochs", "2", "--set", "clip=none"],
            "--epochs: got 2, and more than one needs a clip",
        ),
    ],
)
def test_a_bad_setting_is_one_line_with_its_place(text, argv, line, tmp_path, capsys):
    file = tmp_path / "run.toml"
    if text is not None:
        file.write_text(text)
    needed = ["rl", "--probe", "p", "--prompts", "q", "--out", tmp_path / "o"]
    for ending in ([], ["--print-config"]):
        assert run(*needed, "--config", file, *argv, *ending) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("error: " + line.format(file=file)) and shown.count("\n") == 1


def test_what_a_run_needs_is_asked_for_again_after_a_print(capsys):
    assert run("rl", "--print-config") == 0
    assert run("rl") == 2
    assert "Missing option '--probe'" in capsys.readouterr().err


def test_help_of_every_command_loads_nothing_heavy():
    """In one process, so that what a command loads is named with it."""
    code = f"""
import contextlib, io, sys
from probekit.cli.main import main
heavy = {{"torch", "numpy", "pydantic", "pandas", "h5py", "plotly", "scipy", "sklearn", "jinja2"}}
for name in {["", *COMMANDS]!r}:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([*name.split(), "--help"])
    assert "Usage: " in text.getvalue(), name
    if loaded := heavy & sys.modules.keys():
        sys.exit(f"probekit {{name}} --help loads {{sorted(loaded)}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
