"""Write docs/cli.md from the commands' own help: python -m tests.make_cli_reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from probekit.cli.main import cli

HEAD = """# Command line

Made from the commands' own help by `python -m tests.make_cli_reference`.
"""


def reference() -> str:
    """Return the page."""
    return HEAD + "".join(
        f"\n## `{name}`\n\n```text\n{text}\n```\n" for name, text in _helps(cli, "probekit", None)
    )


def _helps(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command,
        info_name=name.split()[-1],
        parent=parent,
        terminal_width=90,
        max_content_width=90,
        **command.context_settings,
    )
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _helps(found, f"{name} {child}", context)


if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "cli.md"
    page.write_text(reference(), encoding="utf-8")
