"""`probekit tokens`, `stack` and `compare`: what else is read of a fit and its store."""

from __future__ import annotations

from typing import Any

import click

import probekit.cli.options as opt


@click.command()
@opt.PROBE
@opt.out_option("Directory to write the curve to.")
@opt.STORE
@click.option("--layers", help="Layers to choose from, such as 8:24:4; the probe's own by default.")
@opt.ADAPTER
@opt.SAME_MODEL
@opt.batch_tokens_option()
@opt.FORCE
@opt.JSON
def tokens(probe: str, out: str, store: str | None, **options: Any) -> None:  # noqa: ANN401
    """Read a rating at every token of held-out completions: how early is it known?

    One ridge head is fitted to all completion tokens of the fit split, beside the probe itself.

    \b
    Example:
      probekit tokens --probe sweep --out tokens
    """
    from probekit.activations.layers import parse_layers
    from probekit.analyses.early import KNOWN
    from probekit.analyses.tokens import token_curve
    from probekit.probes import Probe
    from probekit.results.ratings import TokensRun

    target = opt.claim(out, "tokens", options)
    fitted = Probe.load(probe)
    loaded = opt.open_model(options, fitted, adapter=options["adapter"])
    n_layers = int(loaded.model.config.get_text_config().num_hidden_layers)
    layers = parse_layers(options["layers"], n_layers) if options["layers"] else None
    with opt.progress_bar() as progress:
        found = token_curve(
            probe,
            loaded,
            store=store,
            layers=layers,
            batch_tokens=options["batch_tokens"],
            progress=progress,
        )
    arguments = {"probe": probe, "out": out, "store": store, **options}
    _save(target, TokensRun.DOCUMENT, found.to_json(), arguments)
    if options["as_json"]:
        return opt.echo_json({**found.to_json(), "paths": {"directory": str(target)}})
    for point in found.points:
        if point.measured == "part" and not point.binned and point.at in (0.0, 0.1, 0.5, 1.0):
            opt.echo(f"{point.reader:<11} at {point.at:>4.0%}: r {point.pearson} (n {point.n})")
    for reader, value in found.known_from.items():
        place = f"from {value.value:.0%} [{value.low:.0%}, {value.high:.0%}] of a completion on"
        opt.echo(
            f"{reader:<11} r stays at {KNOWN:.0%} of its last value {place}"
            if value.known
            else f"{reader:<11} r at the end does not leave 0: the rating is not read"
        )
    opt.echo(f"written  {target}")


@click.command()
@opt.PROBE
@opt.out_option("Directory to write the result to.")
@opt.STORE
@click.option("--positions", help="Position rules to combine, with commas; all by default.")
@click.option(
    "--every", type=click.IntRange(min=1), default=1, show_default=True,
    help="Combine every n-th layer, counted from the last.",
)  # fmt: skip
@click.option(
    "--tokens",
    type=click.Path(),
    help="Store of these rows with position all, for an attention over tokens.",
)
@opt.THREADS
@opt.FORCE
@opt.JSON
def stack(probe: str, out: str, store: str | None, **options: Any) -> None:  # noqa: ANN401
    """Combine many cells of a store, and compare with the cell that a fit chose.

    \b
    Example:
      probekit stack --probe sweep --out stack
    """
    from probekit.analyses.stacking import stack_cells
    from probekit.results.measures import measure
    from probekit.results.ratings import StackRun

    target = opt.claim(out, "stack", options)
    opt.quiet_libraries(options["threads"])
    positions = (
        [p.strip() for p in options["positions"].split(",")] if options["positions"] else None
    )
    with opt.progress_bar() as progress:
        found = stack_cells(
            probe,
            store,
            positions=positions,
            every=options["every"],
            tokens=options["tokens"],
            progress=progress,
        )
    arguments = {"probe": probe, "out": out, "store": store, **options}
    _save(target, StackRun.DOCUMENT, found.to_json(), arguments)
    if options["as_json"]:
        return opt.echo_json({**found.to_json(), "paths": {"directory": str(target)}})
    label, n = measure("sweep", found.primary).label, found.n
    opt.echo(
        f"{label}, {n['rows']} held-out rows in {n['groups']} groups, {len(found.cells)} cells"
    )
    opt.echo(f"  single cell  {found.single[found.primary]}")
    for name in found.candidates:
        chosen = "  (chosen)" if name == found.best else ""
        opt.echo(
            f"  {name:<12} {found.metrics[name][found.primary]}, above it {found.differences[name]}{chosen}"
        )
    opt.echo(f"written  {target}")


@click.command()
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@click.option("--store", "stores", multiple=True, type=click.Path(),
              help="Store of each fit, in order, where they are not where their records say.")  # fmt: skip
@opt.out_option("Directory to write the comparison to.")
@opt.FORCE
@opt.JSON
def compare(before: str, after: str, stores: tuple[str, ...], out: str, **options: Any) -> None:  # noqa: ANN401
    """Compare two fits of the same rows in two models, such as before and after tuning.

    \b
    Example:
      probekit compare fit_base fit_tuned --out compared
    """
    from probekit.analyses.compare import compare_fits
    from probekit.results.measures import measure
    from probekit.results.ratings import CompareRun

    if len(stores) not in (0, 2):
        raise click.UsageError(f"--store: got {len(stores)}, expected none, or one for each fit.")
    target = opt.claim(out, "compare", options)
    found = compare_fits(before, after, stores or (None, None))  # type: ignore[arg-type]
    arguments = {"before": before, "after": after, "stores": list(stores), "out": out, **options}
    _save(target, CompareRun.DOCUMENT, found.to_json(), arguments)
    if options["as_json"]:
        return opt.echo_json({**found.to_json(), "paths": {"directory": str(target)}})
    label, n = measure("sweep", found.primary).label, found.n
    opt.echo(f"{label} at {'/'.join(map(str, found.cell.values()))}, {n['rows']} held-out rows")
    for head, row in found.transfer.items():
        for acts, value in row.items():
            opt.echo(f"  head {head:<6} on activations {acts:<6} {value}")
    opt.echo(f"  after minus before, each on its own: {found.change}")
    cosine = next(r["cosine"] for r in found.layers if r["layer"] == found.cell["layer"])
    opt.echo(f"  cosine of the two directions: {cosine:.2f}")
    opt.echo(f"written  {target}")


def _save(target: Any, document: Any, content: dict[str, Any], arguments: dict[str, Any]) -> None:  # noqa: ANN401
    """Write a document with its header and run record, whole or not at all."""
    from probekit.container import atomic_directory, write_json
    from probekit.provenance import run_record

    record = run_record(document.command, arguments)
    with atomic_directory(target, force=arguments["force"]) as folder:
        write_json(
            folder / document.file, {**document.header, **content, "provenance": {"run": record}}
        )
        write_json(folder / "run.json", record)
