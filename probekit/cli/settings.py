"""Options, a settings file and its comments from a settings model: a key is declared once, in the model."""

from __future__ import annotations

import importlib
import textwrap
import typing
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from probekit.errors import DataError, ProbekitError

if TYPE_CHECKING:
    from probekit.settings import Key, Settings

FILE = click.Option(
    ["--config", "config_file"],
    type=click.Path(),
    help="TOML file with settings, as --print-config prints them.",
)
SET = click.Option(
    ["--set", "assignments"],
    multiple=True,
    metavar="KEY=VALUE",
    help="Change any setting by its key; may be repeated.",
)
PRINT = click.Option(
    ["--print-config"],
    is_flag=True,
    help="Print every setting with its meaning as a settings file, and run nothing.",
)

_OUTPUT = {"out", "resume", "force", "as_json", "report_to", "tensorboard"}
_ADVANCED = {
    "allow_code", "judge_url", "judge_model", "judge_key_env", "judge_timeout", "ensemble_layers",
    "store", "device", "dtype", "revision", "trust_remote_code", "template_date", "models_file",
    "threads", "batch_tokens",
}  # fmt: skip
"""Where help shows a command's own options; the others say what is worked on, and settings how."""


class SettingsCommand(click.Command):
    """A command with an option for every key of a settings model, which its function gets as `config`.

    `--set` and options stand over the file of `--config`, and that over the defaults.

    Parameters
    ----------
    settings
        Where the model is, `module:Class`; imported when the options are first needed.
    defaults
        Defaults of this command that differ from the model's.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's own
        settings: str,
        defaults: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self._settings, self._defaults = settings, dict(defaults or {})

    @cached_property
    def model(self) -> type[Settings]:
        """The settings model."""
        module, _, name = self._settings.partition(":")
        model: type[Settings] = getattr(importlib.import_module(module), name)
        return model

    @cached_property
    def keys(self) -> dict[str, Key]:
        """The keys of the model with the defaults of this command."""
        found = self.model.keys().items()
        return {
            name: key._replace(default=self._defaults.get(name, key.default)) for name, key in found
        }

    @cached_property
    def options(self) -> dict[str, click.Option]:
        """The option of every key."""
        return {name: _option(name, key) for name, key in self.keys.items()}

    @property
    def groups(self) -> dict[str, list[str]]:
        """The keys under their headings."""
        found: dict[str, list[str]] = {}
        for name, key in self.keys.items():
            found.setdefault(key.group, []).append(name)
        return found

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and those of its settings."""
        return [*super().get_params(ctx), *self.options.values(), FILE, SET, PRINT]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what is worked on, how (the common settings), the output, and what few people need."""
        own = super().get_params(ctx)
        helped = [p for p in own if set(p.opts) & set(ctx.help_option_names)]
        first = sorted((p for p in own if p not in helped), key=lambda p: not p.required)
        later = _OUTPUT | _ADVANCED
        sections: dict[str, Sequence[click.Parameter]] = {
            "What": [p for p in first if p.name not in later],
            **{f"How: {g.lower()}": [self.options[n] for n in ns] for g, ns in self.groups.items()},
            "Output": [p for p in first if p.name in _OUTPUT],
            "Advanced": [*(p for p in first if p.name in _ADVANCED), FILE, SET, PRINT, *helped],
        }
        for title, params in sections.items():
            if rows := [row for param in params if (row := param.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if hidden := [option.opts[0] for option in self.options.values() if option.hidden]:
            text = f"More options, explained by --print-config: {', '.join(hidden)}."
            formatter.write(f"\n{textwrap.fill(text, formatter.width, break_on_hyphens=False)}\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; `--print-config` needs none of what a run needs."""
        if PRINT.opts[0] not in args:
            return super().parse_args(ctx, args)
        needed = [param for param in self.params if param.required]
        try:
            for param in needed:
                param.required = False
            super().parse_args(ctx, args)
        finally:
            for param in needed:
                param.required = True
        click.echo(self.toml(self.resolve(ctx)), nl=False)
        ctx.exit()

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the command with its settings resolved."""
        config = self.resolve(ctx)
        made = {*self.options, *(str(param.name) for param in (FILE, SET, PRINT))}
        ctx.params = {k: v for k, v in ctx.params.items() if k not in made} | {"config": config}
        return super().invoke(ctx)

    def resolve(self, ctx: click.Context) -> Settings:
        """Return the settings of a command line.

        Raises
        ------
        ProbekitError
            With the option, or the file and key, that is wrong.
        """
        given = {name: (value, "") for name, value in self._defaults.items()}
        if file := ctx.params["config_file"]:
            for name, value in _read(file).items():
                given[name] = self._value(name, value, f"{file}:"), f"{file}: {name}"
        for assignment in ctx.params["assignments"]:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise click.UsageError(f"--set {assignment}: expected KEY=VALUE.")
            given[name] = self._value(name, _toml(text), "--set"), f"--set {name}"
        for name, option in self.options.items():
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                if name in given and given[name][1].startswith("--set"):
                    raise click.UsageError(f"{option.opts[0]} and --set {name}: give one of them.")
                given[name] = ctx.params[name], option.opts[0]
        try:
            return self.model(**{name: value for name, (value, _) in given.items()})
        except ProbekitError as error:
            name = str(error).partition(":")[0].partition("[")[0]
            place = given.get(name, ("", ""))[1] or name
            raise type(error)(place + str(error)[len(name) :]) from None

    def toml(self, config: Settings) -> str:
        """Return settings as a TOML file that `--config` reads, each key under its sentence."""
        import json

        lines = [
            f"# Settings of probekit {self.name}: change them and pass the file with --config."
        ]
        for group, names in self.groups.items():
            lines += ["", f"# ---- {group} ----"]
            for name in names:
                value = getattr(config, name)
                text = json.dumps("none" if value is None else value, ensure_ascii=False)
                lines += ["", f"# {self.keys[name].sentence}", f"{name} = {text}"]
        return "\n".join(lines) + "\n"

    def _value(self, name: str, value: Any, place: str) -> Any:  # noqa: ANN401 - a TOML value
        """Return a value as the model takes it: `none` is None, and a number may stand for its text."""
        from probekit.settings import unknown_key

        if line := unknown_key([name], self.keys):
            raise DataError(f"{place} {line}")
        key = self.keys[name]
        if key.optional and value == "none":
            return None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return str(value) if is_number and key.type not in (int, float) else value


def _toml(text: str) -> Any:  # noqa: ANN401 - a TOML value
    """Return what a text is in TOML; bare text as it is."""
    from probekit.parsing import parse_toml

    try:
        return parse_toml(f"x = {text}")["x"]
    except ValueError:
        return text


def _option(name: str, key: Key) -> click.Option:
    spelling = key.option or f"--{name.replace('_', '-')}"
    is_flag, default = key.type is bool, shown(key.default)
    choices = typing.get_args(key.type) if typing.get_origin(key.type) is typing.Literal else ()
    return click.Option(
        [f"{spelling}/--no-{spelling[2:]}" if is_flag and key.default else spelling, name],
        is_flag=is_flag,
        type=None if is_flag else key.type if key.type in (int, float) else str,
        multiple=key.repeat,
        default=None,
        metavar="|".join(choices) or None,
        hidden=not key.common,
        help=key.sentence + (f"  [default: {default}]" if default else ""),
    )


def shown(value: object) -> str:
    """Return a default as a user types it; nothing for what is off."""
    if value is None or value is False or value == ():
        return ""
    if isinstance(value, tuple):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("True", "true")


def _read(file: str) -> dict[str, Any]:
    from probekit.parsing import read_toml

    return read_toml(Path(file), DataError, "See docs/cli.md.")
