"""`probekit`: the lazily loaded command group, and where errors become exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from probekit import __version__
from probekit.errors import ProbekitError
from probekit.foreign import PATHS, one_line

COMMANDS = {
    "models": "probekit.cli.models:models",
    "data": "probekit.cli.data:data",
    "sample": "probekit.cli.sample:sample",
    "elicit": "probekit.cli.elicit:elicit",
    "cache": "probekit.cli.cache:cache",
    "fit": "probekit.cli.fit:fit",
    "score": "probekit.cli.score:score",
    "evaluate": "probekit.cli.evaluate:evaluate",
    "view": "probekit.cli.view:view",
    "steer": "probekit.cli.steer:steer",
    "rl": "probekit.cli.rl:rl",
    "dpo": "probekit.cli.dpo:dpo",
    "tokens": "probekit.cli.ratings:tokens",
    "stack": "probekit.cli.ratings:stack",
    "compare": "probekit.cli.ratings:compare",
    "dynamics": "probekit.cli.dynamics:dynamics",
    "behaviours": "probekit.cli.behaviours:behaviours",
    "study": "probekit.cli.study:study",
    "report": "probekit.cli.report:report",
    "verify": "probekit.cli.verify:verify",
}


class LazyGroup(click.Group):
    """Import a command's module when it is asked for, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="probekit")
@click.option(
    "--record-paths",
    is_flag=True,
    envvar=PATHS,
    help="Write whole paths into run records and reports, instead of the last names.",
)
def cli(*, record_paths: bool) -> None:
    """Is this direction in the residual stream real? Cache, fit, report.

    \b
    Example:
      probekit cache --data demo:researchers_pairs --out acts.h5
      probekit fit acts.h5 --out sweep
    """
    if record_paths:
        os.environ[PATHS] = "1"  # the processes of a study have it too


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 user error in one line, 2 usage, 130 interrupted."""
    try:
        cli.main(args=None if argv is None else list(argv), standalone_mode=False)
    except click.ClickException as error:
        vars(error)["message"] = one_line(error.message)  # parts of it are what was typed
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ProbekitError as error:  # its text is fit to show
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
