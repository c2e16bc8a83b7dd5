"""`probekit view`: texts on a page, tokens coloured by the scores of probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

import probekit.cli.options as opt


@click.command()
@click.option(
    "--probe", "probes", required=True, multiple=True, type=click.Path(),
    help="Directory that probekit fit wrote; repeat it to switch between probes of one model.",
)  # fmt: skip
@opt.DATA
@opt.out_option("HTML file to write.")
@click.option(
    "--rows",
    default=20,
    show_default=True,
    type=click.IntRange(1, 200),
    help="How many texts are shown at most.",
)
@click.option(
    "--tokens", default=400, show_default=True, type=click.IntRange(1, 4000),
    help="How many tokens of a text are shown at most.",
)  # fmt: skip
@click.option(
    "--threshold", "thresholds", multiple=True, type=float,
    help="Score at which the colours are centred, once or once for each --probe; 0 for probes of labels.",
)  # fmt: skip
@opt.HEAD
@opt.SAME_MODEL
@opt.batch_tokens_option()
@opt.COLUMNS
@opt.ROWS
@opt.FORCE
@opt.JSON
def view(probes: Sequence[str], data: str, out: str, **options: Any) -> None:  # noqa: ANN401
    """Show texts on a page, every token coloured by its score, its number on hover and focus.

    Texts need no label. The page is one file without a script.

    \b
    Example:
      probekit view --probe sweep --data demo:sentiment --out page.html
    """
    from probekit.cli.evaluate import names_of
    from probekit.probes.folder import load_head
    from probekit.probes.view import view_texts
    from probekit.provenance import run_record
    from probekit.reports.page import is_page

    path = opt.claim(out, "view", options, own=is_page)
    head = {name: options[name] for name in ("kind", "layer", "position")}
    fitted = dict(
        zip(names_of(probes), (load_head(probe, **head) for probe in probes), strict=True)
    )
    texts = opt.read_texts(data, options)
    arguments = {"probes": list(probes), "data": data, "out": out, **options}
    with opt.progress_bar() as progress:
        view_texts(
            fitted,
            texts,
            path,
            model=opt.open_model(options, next(iter(fitted.values()))),
            rows=options["rows"],
            tokens=options["tokens"],
            thresholds=options["thresholds"],
            force=options["force"],
            record=run_record("view", arguments),
            batch_tokens=options["batch_tokens"],
            progress=progress,
        )
    opt.log_rows(texts)
    if options["as_json"]:
        opt.echo_json({"path": str(path)})
    else:
        opt.echo(path)
