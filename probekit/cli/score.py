"""`probekit score`: score new rows with a fitted probe."""

from __future__ import annotations

import json
from typing import Any

import click

import probekit.cli.options as opt
from probekit.foreign import escaped


@click.command()
@opt.PROBE
@opt.DATA
@click.option(
    "-o", "--out", type=click.Path(), help="File to write the scores to, instead of stdout."
)
@click.option("--layer", type=int, help="Score with the probe of this layer of the same fit.")
@click.option("--position", help="Score with the probe of this position of the same fit.")
@click.option(
    "--skip-refused",
    is_flag=True,
    help="Leave out rows that the model's chat template refuses, and count them.",
)
@opt.SAME_MODEL
@opt.batch_tokens_option()
@click.option(
    "--reproducible",
    is_flag=True,
    help="Score every row alone, so that its score does not depend on the rows beside it; slower.",
)
@opt.READING
@opt.FORCE
@opt.JSON
def score(probe: str, data: str, out: str | None, **options: Any) -> None:  # noqa: ANN401
    """Score rows with a probe: one opt.JSON line a text, with its id, score and side.

    \b
    Example:
      probekit score --probe sweep --data demo:researchers_pairs --out scores.jsonl
    """
    from probekit.container import atomic_file
    from probekit.probes import Probe
    from probekit.probes.scoring import Scorer, score_examples
    from probekit.provenance import run_record

    path = None if out is None else opt.claim(out, "score", options)
    fitted = Probe.load(probe, layer=options["layer"], position=options["position"])
    dataset = opt.read_data(data, options)
    loaded = opt.open_model(options, fitted)
    for line in opt.positive_line(fitted.positive_class):
        opt.log(line)
    size = 1 if options["reproducible"] else options["batch_tokens"]
    scorer = Scorer(fitted, loaded, batch_tokens=size)
    refused: list[str] = []
    with opt.progress_bar() as progress:
        rows = score_examples(
            scorer,
            dataset.examples(),
            source=dataset.source,
            refused=refused if options["skip_refused"] else None,
            progress=lambda done: progress("scoring", done, dataset.n_examples),
        )
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if path is None:
            if options["as_json"]:
                scores = [json.loads(line) for line in lines]
                return opt.echo_json({"scores": scores, "positive_class": fitted.positive_class})
            for line in lines:
                click.echo(escaped(line), nl=False)
            return
        record = {
            **run_record("score", {"probe": probe, "data": data, "out": out, **options}),
            "data": dataset.fingerprint,
            "positive_class": fitted.positive_class,
        }
        with (
            atomic_file(path, replace=options["force"], record=record) as temporary,
            temporary.open("w", encoding="utf-8") as handle,
        ):
            handle.writelines(lines)
    n = dataset.n_examples - len(refused)
    if options["as_json"]:
        counts = {"n": n, **({"refused": len(refused)} if options["skip_refused"] else {})}
        opt.echo_json({"path": out, **counts})
    else:
        left_out = f", {len(refused)} left out that the chat template refuses" if refused else ""
        opt.echo(f"{out}: {n} scores{left_out}")
