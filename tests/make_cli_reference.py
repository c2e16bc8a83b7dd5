"""Write docs/cli.md from the commands' own help: python -m tests.make_cli_reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from probekit.cli.main import cli
from probekit.cli.settings import SettingsCommand, shown

HEAD = """# Command line

Made from the commands' own help and the settings models by `python -m tests.make_cli_reference`.

Commands with settings read them from three places: options and `--set KEY=VALUE` stand over the file of
`--config FILE`, and that over the defaults. `--print-config` prints such a file, each key under its meaning.
"""


def reference() -> str:
    """Return the page."""
    return HEAD + "".join(
        f"\n## `{name}`\n\n```text\n{command.get_help(context)}\n```\n{_settings(command)}"
        for name, command, context in _commands(cli, "probekit", None)
    )


def _settings(command: click.Command) -> str:
    """Return every key of a command's settings as a table."""
    if not isinstance(command, SettingsCommand):
        return ""
    lines = ["", "| key | option | default | meaning |", "|---|---|---|---|"]
    for name, key in command.keys.items():
        default = f"`{shown(key.default)}`" if shown(key.default) else ""
        option = "/".join((*command.options[name].opts, *command.options[name].secondary_opts))
        lines.append(f"| `{name}` | `{option}` | {default} | {key.sentence} |")
    return "\n".join(lines) + "\n"


def _commands(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    context = click.Context(
        command,
        info_name=name.split()[-1],
        parent=parent,
        terminal_width=90,
        max_content_width=90,
        **command.context_settings,
    )
    yield name, command, context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _commands(found, f"{name} {child}", context)


if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "cli.md"
    page.write_text(reference(), encoding="utf-8")
