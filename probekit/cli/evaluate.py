"""`probekit evaluate`: fitted probes on other labelled data, as tables and a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

import probekit.cli.options as opt


@click.command()
@click.option(
    "--probe", "probes", required=True, multiple=True, type=click.Path(),
    help="Directory that probekit fit wrote; repeat it for a transfer table.",
)  # fmt: skip
@click.option(
    "--data", "sources", required=True, multiple=True,
    help=f"Labelled rows, or a store: {opt.SOURCE}, .h5; repeat it for a transfer table.",
)  # fmt: skip
@opt.out_option("Directory to write the tables and the report to.")
@click.option(
    "--control",
    help="Rows of the negative class alone, labelled or not, that thresholds come from.",
)
@click.option(
    "--fpr", "rates", multiple=True, type=float, default=(0.01, 0.05), show_default=True,
    help="Share of false alarms at which recall is given; may be repeated.",
)  # fmt: skip
@click.option(
    "--judge-cost", type=float, metavar="COST",
    help="Cost of a row for a judge that reads what the probe flags: says what both cost and find.",
)  # fmt: skip
@click.option(
    "--probe-cost", type=float, default=0.0, show_default=True, metavar="COST",
    help="Cost of a row for the probe, in the unit of --judge-cost.",
)  # fmt: skip
@click.option(
    "--base-rate", type=float, metavar="SHARE",
    help="Share of positive rows where the cascade is used, instead of that of the data.",
)  # fmt: skip
@click.option(
    "--aggregate",
    metavar="RULE",
    help="Score a text by its tokens' scores: mean, max, last, rolling:K, ema[:A] or softmax[:T].",
)
@click.option(
    "--positive", "positives", multiple=True, metavar="CLASS",
    help="Class that should score higher: once for all data, or once for each --data.",
)  # fmt: skip
@opt.HEAD
@click.option(
    "--skip-refused", is_flag=True, help="Leave out rows that the model's chat template refuses."
)
@click.option("--seed", default=0, show_default=True, help="Seed of intervals and folds.")
@opt.ADAPTER
@opt.SAME_MODEL
@opt.batch_tokens_option()
@opt.COLUMNS
@opt.ROWS
@opt.FORCE
@opt.JSON
def evaluate(
    probes: Sequence[str], sources: Sequence[str], out: str, **options: Any  # noqa: ANN401
) -> None:  # fmt: skip
    """Judge probes on data they were not fitted to: measures, controls, calibration, recall.

    Nothing is fitted but the controls, length and words, on the data themselves.

    \b
    Example:
      probekit evaluate --probe sweep --data held_out.jsonl --out judged
      probekit evaluate --probe a --probe b --data x.jsonl --data y.jsonl --out transfer
    """
    from probekit.probes.aggregate import Aggregate
    from probekit.probes.folder import load_head
    from probekit.probes.transfer import evaluate_all
    from probekit.provenance import run_record

    target = opt.claim(out, "evaluate", options)
    costs = _costs(options)
    rule = None if options["aggregate"] is None else Aggregate.parse(options["aggregate"])
    head = {name: options[name] for name in ("kind", "layer", "position")}
    loaded = [load_head(path, **head) for path in probes]
    fitted = dict(zip(names_of(probes), loaded, strict=True))
    chosen = _positives(options["positives"], sources)
    data = {
        name: _open(source, {**options, "positive": positive})
        for name, source, positive in zip(names_of(sources), sources, chosen, strict=True)
    }
    control = options["control"] and _open(options["control"], options, labelled=False)
    with opt.progress_bar() as progress:
        found = evaluate_all(
            fitted,
            data,
            model=lambda probe: opt.open_model(options, probe, adapter=options["adapter"]),
            control=control,
            fpr=options["rates"],
            costs=costs,
            aggregate=rule,
            positive=dict(zip(data, chosen, strict=True)),
            seed=options["seed"],
            seen={name: _seen(path) for name, path in zip(fitted, probes, strict=True)},
            skip_refused=options["skip_refused"],
            batch_tokens=options["batch_tokens"],
            progress=progress,
        )
    arguments = {"probes": list(probes), "data": list(sources), "out": out, **options}
    found.save(
        target,
        force=options["force"],
        record=run_record("evaluate", arguments, seed=options["seed"]),
    )
    for source in data.values():
        if hasattr(source, "understood"):
            opt.log_rows(source)
    paths = {"directory": str(target), "report": str(target / "report.html")}
    if options["as_json"]:
        return opt.echo_json({**found.to_json(), "paths": paths})
    for result in found.results:
        for line in _lines(result):
            opt.echo(line)
    opt.echo(f"report   {paths['report']}")


def _costs(options: dict[str, Any]) -> Any:  # noqa: ANN401 - Costs or None
    from probekit.probes.monitor import Costs

    if options["judge_cost"] is not None:
        return Costs(options["judge_cost"], options["probe_cost"], options["base_rate"])
    if options["probe_cost"] or options["base_rate"] is not None:
        raise click.UsageError(
            "--probe-cost and --base-rate are of a cascade: give --judge-cost too."
        )
    return None


def _seen(fit: str) -> set[tuple[str, str]]:
    """Return id and group of the rows that a fit did not hold out; rows without own ids are not known."""
    from probekit.errors import ProbeError
    from probekit.results.sweep import SweepRun

    try:
        splits = SweepRun.open(Path(fit)).splits
    except ProbeError:  # of an older version
        return set()
    rows = splits[splits["split"].isin(["fit", "choose"]) & ~splits["id"].str.startswith("row-")]
    return set(zip(rows["id"], rows["group"], strict=True))


def names_of(paths: Sequence[str]) -> list[str]:
    """Return short names, different from each other: the last part of a path, then a number."""
    found: list[str] = []
    for path in paths:
        name = path if path.startswith(("demo:", "hf:")) else Path(path).name or path
        n = 1 + sum(other == name or other.startswith(f"{name} #") for other in found)
        found.append(name if n == 1 else f"{name} #{n}")
    return found


def _positives(given: Sequence[str], sources: Sequence[str]) -> list[str | None]:
    if len(given) not in (0, 1, len(sources)):
        raise click.UsageError(
            f"--positive: got {len(given)} for {len(sources)} data sets, expected one, or one of each."
        )
    return [*given] if len(given) == len(sources) else [given[0] if given else None] * len(sources)


def _open(source: str, options: dict[str, Any], *, labelled: bool = True) -> Any:  # noqa: ANN401
    """Open a store, labelled rows, or texts."""
    from probekit.activations.store import ActivationStore

    if source.endswith((".h5", ".hdf5")):
        return click.get_current_context().with_resource(ActivationStore.open(source))
    return (opt.read_data if labelled else opt.read_texts)(source, options)


def _lines(result: Any) -> Iterator[str]:  # noqa: ANN401 - a Judged
    """Yield what a result came to: its first measure beside its controls, and its monitors."""
    from probekit.reports.formats import percent, spanned
    from probekit.results.measures import measure

    found = result.evaluation
    name, n = measure("sweep", found.primary).label, found.n
    fitted = f", {result.n_seen} of them not held out of its fit" if result.n_seen else ""
    fitted = ", of rows it was fitted to" if found.is_fitted_data else fitted
    yield (
        f"{result.probe} on {result.data}: {name} {spanned(found[found.primary], digits=3)} "
        f"({n['rows']} rows, {n['groups']} groups{fitted})"
    )
    for control, value in (result.controls.values if result.controls else {}).items():
        above = spanned(result.controls.differences[control], digits=3, sign=True)
        yield f"  {measure('control', control).label:<22}{spanned(value, digits=3):<24}{above}"
    for monitor in result.monitors:
        rate = f"recall at {percent(monitor.fpr, 1)} false alarms"
        if not monitor.estimable:
            yield f"  {rate}: not estimable, {monitor.n} of {monitor.needed} negatives needed"
            continue
        recall = spanned(monitor.recall, "share", digits=0)
        yield f"  {rate}: {recall}, threshold {monitor.threshold:.3f} from {monitor.source}"
    for one in result.cascade:
        if one.fpr is not None:
            sent, recall = (spanned(v, "share", digits=1) for v in (one.sent, one.recall))
            yield (
                f"  cascade at {percent(one.fpr, 1)} false alarms: {sent} of rows to the judge, recall "
                f"{recall}, cost {spanned(one.cost)} of 1,000 rows"
            )
