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
@opt.HEAD
@click.option(
    "--skip-refused",
    is_flag=True,
    help="Leave out rows that the model's chat template refuses, and count them.",
)
@opt.ADAPTER
@opt.SAME_MODEL
@opt.batch_tokens_option()
@click.option(
    "--reproducible",
    is_flag=True,
    help="Score every row alone, so that its score does not depend on the rows beside it; slower.",
)
@opt.READING
@click.option(
    "--per-token",
    is_flag=True,
    help="Write a score for every token of a text: id, tokens, token_ids, scores.",
)
@click.option(
    "--aggregate",
    metavar="RULE",
    help="Score a text by its tokens' scores: mean, max, last, rolling:K, ema[:A] or softmax[:T].",
)
@opt.FORCE
@opt.JSON
def score(probe: str, data: str, out: str | None, **options: Any) -> None:  # noqa: ANN401
    """Score texts, which need no label, with a probe: a line a text, with its id, score and side.

    Rows of any kind and lines of plain text (.txt) are read, and written to jsonl or parquet as --out ends.

    \b
    Example:
      probekit score --probe sweep --data demo:researchers_pairs --out scores.jsonl
      probekit score --probe sweep --data texts.txt --per-token --out tokens.parquet
    """
    from probekit.container import atomic_file
    from probekit.probes.aggregate import Aggregate
    from probekit.probes.folder import load_head
    from probekit.probes.score_file import write_scores
    from probekit.probes.scoring import Scorer, score_examples, score_tokens
    from probekit.provenance import run_record

    rule = options["aggregate"]
    if options["per_token"] and rule:
        raise click.UsageError("--per-token writes the scores that --aggregate joins: give one.")
    aggregate = None if rule is None else Aggregate.parse(rule)
    path = None if out is None else opt.claim(out, "score", options)
    fitted = load_head(
        probe, kind=options["kind"], layer=options["layer"], position=options["position"]
    )
    texts = _texts(data, options)
    loaded = opt.open_model(options, fitted, adapter=options["adapter"])
    for line in opt.positive_line(fitted.positive_class):
        opt.log(line)
    size = 1 if options["reproducible"] else options["batch_tokens"]
    scorer = Scorer(fitted, loaded, batch_tokens=size)
    refused: list[str] = []
    with opt.progress_bar() as progress:
        more = {} if options["per_token"] else {"aggregate": aggregate}
        rows = (score_tokens if options["per_token"] else score_examples)(
            scorer,
            texts.examples(),
            source=texts.source,
            refused=refused if options["skip_refused"] else None,
            progress=lambda done: progress("scoring", done, texts.n_examples),
            **more,
        )
        if path is None:
            if options["as_json"]:
                scores = list(rows)
                opt.log_rows(texts)
                return opt.echo_json({"scores": scores, "positive_class": fitted.positive_class})
            for row in rows:
                click.echo(escaped(json.dumps(row, ensure_ascii=False)))
            return opt.log_rows(texts)
        record = {
            **run_record("score", {"probe": probe, "data": data, "out": out, **options}),
            "data": texts.fingerprint,
            "positive_class": fitted.positive_class,
        }
        with atomic_file(path, replace=options["force"], record=record) as temporary:
            n = write_scores(temporary, rows, parquet=path.name.lower().endswith(".parquet"))
    opt.log_rows(texts)
    if options["as_json"]:
        counts = {"n": n, **({"refused": len(refused)} if options["skip_refused"] else {})}
        opt.echo_json({"path": out, **counts})
    else:
        left_out = f", {len(refused)} left out that the chat template refuses" if refused else ""
        opt.echo(f"{out}: {n} scores{left_out}")


def _texts(data: str, options: dict[str, Any]) -> Any:  # noqa: ANN401 - Texts or a Dataset
    """Open the texts; rows of a kind that was asked for are validated as such."""
    if options["data_kind"] or options["positive"]:
        return opt.read_data(data, options)
    return opt.read_texts(data, options)
