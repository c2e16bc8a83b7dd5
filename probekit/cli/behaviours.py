"""`probekit behaviours`: what a behaviours file holds, and how far it can be trusted."""

from __future__ import annotations

from typing import Any

import click

from probekit.cli.options import ALLOW_CODE, JSON, echo, echo_json


@click.command()
@click.argument("source")
@click.option(
    "--labelled",
    metavar="FILE",
    help="Rows of prompt, completion and label on which precision and recall are measured.",
)
@ALLOW_CODE
@JSON
def behaviours(source: str, labelled: str | None, *, allow_code: bool, as_json: bool) -> None:
    """Show a behaviours file, and measure it against completions labelled by hand.

    \b
    Example:
      probekit behaviours knowledge-awareness --labelled labelled.jsonl
    """
    from probekit.behaviours import Behaviours, measure_quality
    from probekit.behaviours.quality import read_labelled

    found = Behaviours.load(source, allow_code=allow_code)
    summary: dict[str, Any] = {
        "name": found.name,
        "path": str(found.path),
        "default": found.default,
        "categories": [
            {
                "name": category.name,
                "description": category.description,
                "patterns": [pattern.pattern for pattern in category.patterns],
                "function": category.function is not None,
            }
            for category in found.categories
        ],
        "quality": None,
    }
    if labelled is not None:
        rows = read_labelled(labelled)
        accuracy, table = measure_quality(found, rows)
        summary["quality"] = {
            "n": len(rows),
            "accuracy": accuracy._asdict(),
            "categories": {
                name: {"precision": q.precision._asdict(), "recall": q.recall._asdict()}
                for name, q in table.items()
            },
        }
    if as_json:
        return echo_json(summary)
    for line in summary_lines(summary):
        echo(line)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return the categories in their order, and the quality where it was measured."""
    lines = [f"{summary['name']}: highest precedence first, {summary['default']} when none holds"]
    for category in summary["categories"]:
        parts = [f"{len(category['patterns'])} patterns"] if category["patterns"] else []
        parts += ["a function"] if category["function"] else []
        lines.append(f"  {category['name']:<12} {' and '.join(parts)}: {category['description']}")
    quality = summary["quality"]
    if quality:
        lines.append(f"against {quality['n']} labels, 95 % Wilson intervals")
        lines.append(f"  {'accuracy':<12} {_share(quality['accuracy'])}")
        for name, row in quality["categories"].items():
            lines.append(
                f"  {name:<12} precision {_share(row['precision'])}, recall {_share(row['recall'])}"
            )
    return lines


def _share(share: dict[str, float]) -> str:
    if not share["n"]:
        return "none"
    return f"{share['value']:.2f} [{share['low']:.2f}, {share['high']:.2f}] of {share['n']}"
