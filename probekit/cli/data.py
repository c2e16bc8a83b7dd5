"""`probekit data check`: what is in a data file, and what in it would spoil a probe."""

from __future__ import annotations

from typing import Any

import click

from probekit.cli.options import data_options, echo_json, json_option, read_data


@click.group()
def data() -> None:
    """Look at data files before a model is run on them."""


@data.command()
@click.argument("file")
@data_options
@json_option
def check(file: str, **options: Any) -> None:  # noqa: ANN401
    """Validate a data file and print its kind, counts, lengths, duplicates, leaks and lint.

    \b
    Example:
      probekit data check demo:researchers_pairs
    """
    from probekit.data import check as check_dataset

    report = check_dataset(read_data(file, options))
    if options["as_json"]:
        return echo_json(report.to_json())
    for line in _lines(report):
        click.echo(line)


def _lines(report: Any) -> list[str]:  # noqa: ANN401 - a CheckReport
    lines = [
        f"{report.source}: {report.rows} {report.kind} rows in {report.groups} groups"
        + (f", layout {report.layout}" if report.layout != "probekit" else "")
        + (f", {report.dropped} left out" if report.dropped else "")
    ]
    if report.classes:
        lines.append("classes     " + ", ".join(f"{k}: {n}" for k, n in report.classes.items()))
    if report.score_range:
        lines.append(f"score       {report.score_range[0]:g} to {report.score_range[1]:g}")
    for tag, values in report.tags.items():
        lines.append(f"tag {tag:<8}" + ", ".join(f"{value}: {n}" for value, n in values.items()))
    lines.append(f"{'characters':<12}{'mean':>8}{'median':>8}{'p95':>8}{'max':>8}")
    for name, row in report.length.items():
        lines.append(
            f"  {name:<10}{row['mean']:>8.0f}{row['median']:>8.0f}{row['p95']:>8.0f}{row['max']:>8.0f}"
        )
    if report.length_auc is not None:
        lines.append(f"length AUC  {report.length_auc:.2f}")
    lines.append(f"duplicates  {report.duplicates}    leaks {report.leaks}")
    lines += [f"warning: {warning}" for warning in report.warnings] or ["no warnings"]
    return lines
