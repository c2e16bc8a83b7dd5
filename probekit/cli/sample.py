"""`probekit sample`: completions of the model itself, as rows for `probekit cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probekit.cli.options import (
    echo_json,
    force_option,
    json_option,
    log,
    model_options,
    out_option,
    progress_bar,
    quiet_libraries,
    seed_option,
)


@click.command()
@click.option("--model", required=True, help="Name, hub id, directory or GGUF file.")
@click.option(
    "--prompts", "source", required=True, help="jsonl[.gz], csv, parquet, hf:NAME or demo:NAME."
)
@out_option("File to write, .jsonl.")
@click.option("--adapter", type=click.Path(), help="LoRA adapter that probekit rl wrote, merged.")
@click.option("--samples", default=8, show_default=True, help="Completions of each prompt.")
@click.option("--max-new-tokens", default=40, show_default=True, help="Of a completion.")
@click.option("--temperature", default=1.0, show_default=True, help="Of sampling.")
@click.option("--top-p", default=1.0, show_default=True, help="Nucleus to draw from.")
@click.option("--batch", default=64, show_default=True, help="Sequences decoded together.")
@click.option("--behaviours", help="Behaviours file, or the name of a shipped one: adds a tag.")
@click.option(
    "--behaviour", multiple=True,
    help="Label rows by it, wanted or other: NAME[,NAME] or TAG=VALUE:NAME[,NAME].",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N prompts.")
@click.option("--dtype", default="auto", show_default=True, help="Of the forward pass.")
@model_options
@seed_option
@force_option
@json_option
def sample(model: str, source: str, out: str, **options: Any) -> None:  # noqa: ANN401
    """Let a model answer prompts and write its answers as rows, labelled by what they do.

    A head fitted to them tells the behaviour from everything else that this model writes.

    \b
    Example:
      probekit sample --model smollm2-135m --prompts demo:sentiment --out rows.jsonl \\
        --behaviours sentiment --behaviour positive
    """
    from probekit.behaviours import Behaviours, Wanted
    from probekit.behaviours.sampled import sampled_rows
    from probekit.container import refuse_existing, write_jsonl
    from probekit.data.prompts import open_prompts
    from probekit.models.adapter import merge_adapter
    from probekit.models.load import load_model
    from probekit.models.sampling_config import SamplingConfig

    target = Path(out)
    refuse_existing(target, force=options["force"])
    behaviours = Behaviours.load(options["behaviours"]) if options["behaviours"] else None
    wanted = Wanted.parse(options["behaviour"], behaviours)
    prompts = open_prompts(source, limit=options["limit"])
    names = SamplingConfig.__dataclass_fields__.keys() & options.keys()
    config = SamplingConfig(**{name: options[name] for name in names})
    quiet_libraries(options["threads"])
    loaded = load_model(
        model,
        dtype=options["dtype"],
        device=options["device"],
        revision=options["revision"],
        trust_remote_code=options["trust_remote_code"],
        log=log,
    )
    if options["adapter"]:
        loaded = merge_adapter(loaded, options["adapter"])
    total = len(prompts) * config.samples
    with progress_bar() as progress:
        rows = sampled_rows(
            loaded, prompts, config, behaviours=behaviours, wanted=wanted,
            progress=lambda done: progress("sampling", done, total),
        )  # fmt: skip
    write_jsonl(target, rows)
    counts: dict[str, int] = {}
    for row in rows:
        name = row.get("label") or row["tags"].get("category", "rows")
        counts[name] = counts.get(name, 0) + 1
    if options["as_json"]:
        return echo_json({"n_rows": len(rows), "counts": counts, "path": str(target)})
    click.echo(f"{target}: {len(rows)} completions of {len(prompts)} prompts")
    for name, n in sorted(counts.items()):
        click.echo(f"  {name:<12} {n:>6}  {n / len(rows):.0%}")
