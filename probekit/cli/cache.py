"""`probekit cache`: rows of text in, an activation store out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probekit.cli.options import (
    DEFAULT_MODEL,
    data_options,
    echo_json,
    force_option,
    json_option,
    log,
    model_options,
    out_option,
    progress_bar,
    quiet_libraries,
    read_data,
)


@click.command()
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Built-in name, hub id, folder or .gguf file.",
)
@click.option("--data", required=True, help="jsonl[.gz], csv, parquet, hf:NAME or demo:NAME.")
@out_option("HDF5 file to write.")
@click.option(
    "--layers", default="all", show_default=True, help="all, or layers and slices: 0,4,8:24:2,-1."
)
@click.option(
    "--sites", default="resid_post", show_default=True, help="resid_post, attn_out, mlp_out."
)
@click.option(
    "--positions",
    help="last, turn_end, prompt_end, mean, first:K, token:I, all.  [default: last,turn_end,mean; "
    "prompt_end for rows that end with their prompt]",
)
@click.option(
    "--backend",
    default="hooks",
    show_default=True,
    type=click.Choice(["hooks", "transformer-lens", "nnsight"]),
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    help="Forward pass: auto, float32, bfloat16, float16.",
)
@click.option(
    "--store-dtype", default="float16", show_default=True, type=click.Choice(["float16", "float32"])
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    help="Longest row in tokens.  [default: the model's context]",
)
@click.option(
    "--too-long",
    default="error",
    show_default=True,
    type=click.Choice(["error", "drop"]),
    help="What to do with longer rows.",
)
@click.option("--blocks", help="Blocks of an unknown architecture: PATH:ATTN,MLP.")
@model_options
@data_options
@click.option("--resume", is_flag=True, help="Continue an interrupted capture.")
@force_option
@json_option
def cache(model: str, data: str, out: str, **options: Any) -> None:  # noqa: ANN401
    """Run a model over rows of text and keep its residual stream per layer and position.

    \b
    Example:
      probekit cache --data demo:researchers_pairs --positions last,turn_end,mean --out acts.h5
    """
    from probekit.activations.cache import cache_activations
    from probekit.activations.config import CacheConfig
    from probekit.container import write_json
    from probekit.models.load import load_model
    from probekit.provenance import run_record

    if options["force"] and options["resume"]:
        raise click.UsageError("--force starts again and --resume continues: give one of them.")
    quiet_libraries(options["threads"])
    dataset = read_data(data, options)
    loaded = load_model(
        model,
        dtype=options["dtype"],
        device=options["device"],
        revision=options["revision"],
        trust_remote_code=options["trust_remote_code"],
        log=log,
    )
    config = CacheConfig(
        layers=options["layers"],
        sites=tuple(part.strip() for part in options["sites"].split(",") if part.strip()),
        positions=options["positions"],
        backend=options["backend"],
        store_dtype=options["store_dtype"],
        batch_tokens=options["batch_tokens"],
        max_length=options["max_length"],
        too_long=options["too_long"],
        blocks=options["blocks"],
    )
    with progress_bar() as progress:
        store = cache_activations(
            loaded,
            dataset,
            out,
            config=config,
            force=options["force"],
            resume=options["resume"],
            progress=progress,
        )
    arguments = {"model": model, "data": data, "out": out, **options}
    write_json(Path(f"{out}.run.json"), run_record("cache", arguments))
    with store:
        _print(store, as_json=options["as_json"])


def _print(store: Any, *, as_json: bool) -> None:  # noqa: ANN401 - an ActivationStore
    cells = store.cells() + store.ragged_cells()
    summary = {
        "path": str(store.path),
        "kind": store.kind,
        "n_examples": store.n_examples,
        "n_layers": store.n_layers,
        "d_model": store.d_model,
        "sites": sorted({cell.site for cell in cells}),
        "layers": sorted({cell.layer for cell in cells if cell.site != "resid_pre"}),
        "positions": sorted({cell.position for cell in cells}),
        "model": store.provenance["model"],
        "forward_dtype": store.provenance["forward_dtype"],
    }
    if as_json:
        return echo_json(summary)
    click.echo(
        f"{store.path}: {store.n_examples} {store.kind} examples, {len(cells)} matrices of width "
        f"{store.d_model} ({summary['model']}, {summary['forward_dtype']})"
    )
