"""`probekit score`: score new rows with a fitted probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from probekit.cli.options import (
    data_options,
    echo_json,
    force_option,
    json_option,
    log,
    model_options,
    progress_bar,
    quiet_libraries,
    read_data,
)


@click.command()
@click.option("--probe", required=True, type=click.Path(), help="Directory written by fit.")
@click.option("--data", required=True, help="jsonl[.gz], csv, parquet, hf:NAME or demo:NAME.")
@click.option("-o", "--out", type=click.Path(), help="File to write.  [default: stdout]")
@click.option("--model", help="Model to run.  [default: the one the probe was fitted on]")
@click.option("--dtype", help="Forward pass.  [default: the one of the fit]")
@click.option("--layer", type=int, help="Another layer's probe of the same fit.")
@click.option("--position", help="Another position's probe of the same fit.")
@model_options
@data_options
@force_option
@json_option
def score(probe: str, data: str, out: str | None, **options: Any) -> None:  # noqa: ANN401
    """Score rows with a probe: one JSON line a text, with its id, score and side.

    \b
    Example:
      probekit score --probe sweep --data demo:researchers_pairs --out scores.jsonl
    """
    from probekit.container import atomic_file, refuse_existing, write_json
    from probekit.models.load import load_model
    from probekit.probes import Probe
    from probekit.probes.scoring import Scorer, score_examples
    from probekit.provenance import run_record

    if out is not None:
        refuse_existing(Path(out), force=options["force"])
    quiet_libraries(options["threads"])
    fitted = Probe.load(probe, layer=options["layer"], position=options["position"])
    dataset = read_data(data, options)
    loaded = load_model(
        options["model"] or str(fitted.provenance.get("model")),
        dtype=options["dtype"] or str(fitted.provenance.get("forward_dtype", "auto")),
        device=options["device"],
        revision=options["revision"] or fitted.provenance.get("revision"),
        trust_remote_code=options["trust_remote_code"],
        log=log,
    )
    scorer = Scorer(fitted, loaded, batch_tokens=options["batch_tokens"])
    with progress_bar() as progress:
        rows = score_examples(
            scorer,
            dataset.examples(),
            source=dataset.source,
            progress=lambda done: progress("scoring", done, dataset.n_examples),
        )
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if out is None:
            if options["as_json"]:
                return echo_json({"scores": [json.loads(line) for line in lines]})
            for line in lines:
                click.echo(line, nl=False)
            return
        with atomic_file(Path(out)) as temporary, temporary.open("w", encoding="utf-8") as handle:
            handle.writelines(lines)
    record = run_record("score", {"probe": probe, "data": data, "out": out, **options})
    write_json(Path(out + ".run.json"), {**record, "data": dataset.fingerprint})
    if options["as_json"]:
        echo_json({"path": out, "n": dataset.n_examples})
    else:
        click.echo(f"{out}: {dataset.n_examples} scores")
