"""`probekit data`: what is in a data file, what in it would spoil a probe, and how a fit divides it."""

from __future__ import annotations

from typing import Any

import click

import probekit.cli.options as opt


@click.group()
def data() -> None:
    """Look at data files before a model is run on them."""


@data.command()
@click.argument("file")
@click.option(
    "--model", help="Model whose chat template is tried too: rows that it refuses are found."
)
@opt.READING
@opt.JSON
def check(file: str, model: str | None, **options: Any) -> None:  # noqa: ANN401
    """Validate a data file and print its kind, counts, lengths, duplicates, leaks and lint.

    \b
    Example:
      probekit data check demo:researchers_pairs --model smollm2-135m
    """
    from probekit.data import check as check_dataset

    dataset = opt.read_data(file, options, several=True)
    report = check_dataset(dataset)
    opt.log_rows(dataset)
    tokens = None if model is None else _tokens(model, dataset)
    if options["as_json"]:
        return opt.echo_json({**report.to_json(), **({} if tokens is None else {"model": tokens})})
    for line in [*_lines(report), *([] if tokens is None else _token_lines(tokens))]:
        opt.echo(line)


def _tokens(model: str, dataset: Any) -> dict[str, Any]:  # noqa: ANN401 - a Dataset
    """Return what a model's tokenizer makes of the rows: how many are refused, and the longest."""
    from probekit.errors import TemplateRefusal
    from probekit.models.chat import render
    from probekit.models.load import load_tokenizer

    opt.quiet_libraries()
    tokenizer, refused, longest = load_tokenizer(model), [], 0
    for example in dataset.examples():
        try:
            longest = max(longest, len(render(example, tokenizer).ids))
        except TemplateRefusal as error:
            refused.append(str(error))
    return {"name": model, "refused": len(refused), "first": refused[:3], "longest": longest}


def _token_lines(tokens: dict[str, Any]) -> list[str]:
    lines = [f"{tokens['name']}: longest text {tokens['longest']:,} tokens"]
    if tokens["refused"]:
        lines.append(
            f"warning: {tokens['refused']} texts are refused by the chat template of "
            f"{tokens['name']}; cache --skip-refused leaves their rows out"
        )
    return lines + [f"  {message}" for message in tokens["first"]]


@data.command()
@opt.DATA
@opt.out_option("File to write the pairs to, .jsonl.")
@click.option(
    "--min-gap",
    type=float,
    default=0.0,
    help="Least difference of a pair's ratings; ties make none.",
)
@click.option(
    "--probe",
    type=click.Path(),
    help="Fit whose report split is left out, so that it stays unseen.",
)
@opt.STORE
@opt.COLUMNS
@opt.ROWS
@opt.FORCE
@opt.JSON
def pairs(out: str, min_gap: float, **options: Any) -> None:  # noqa: ANN401
    """Make pairs of ratings: of every prompt the best completion against the worst.

    A pair keeps its group, and the tags that both of its rows have.

    \b
    Example:
      probekit data pairs --data ratings.jsonl --out pairs.jsonl --min-gap 1
      probekit dpo --model smollm2-135m --data pairs.jsonl --out tuned
    """
    from probekit.data.pairs import write_pairs

    path = opt.claim(out, "data pairs", options)
    dataset = opt.read_data(options["data"], options)
    opt.log_rows(dataset)
    left_out: set[str] = set()
    if options["probe"]:
        from probekit.studies.held_out import groups_of

        left_out = groups_of(options["probe"], options["store"]).held_out
    made = write_pairs(
        dataset, path, min_gap=min_gap, left_out=left_out, force=options["force"],
        arguments={"out": out, "min_gap": min_gap, **options},
    )  # fmt: skip
    counts = {"n_pairs": len(made.rows), "n_prompts": made.n_prompts, "without": made.without}
    if options["as_json"]:
        return opt.echo_json({**counts, "path": str(path)})
    opt.echo(f"{path}: {len(made.rows)} pairs of {made.n_prompts} prompts")
    for reason, n in made.without.items():
        opt.echo(f"  {n:>6} prompts without a pair: {reason}")


@data.command()
@opt.PROBE
@opt.prompts_option(purpose="to divide")
@opt.STORE
@opt.out_option("Directory to write train.jsonl and held_out.jsonl to.")
@opt.FORCE
@opt.JSON
def split(
    probe: str, prompts: str, store: str | None, out: str, *, force: bool, as_json: bool
) -> None:
    """Divide prompts as a fit was: held out are the groups of its report split.

    Groups that a head was fitted on may be trained on; by the held-out ones no head was fitted or chosen.
    Prompts of other groups are left out.

    \b
    Example:
      probekit data split --probe fit --prompts demo:people --out prompts
    """
    from probekit.data.prompts import open_prompts
    from probekit.studies.held_out import groups_of, write_split

    path = opt.claim(out, "data split", {"force": force}, marker="held_out.jsonl")
    found = write_split(open_prompts(prompts), groups_of(probe, store), path, force=force)
    if as_json:
        return opt.echo_json({**found, "path": out})
    opt.echo(
        f"{out}: {found['train']} prompts to train on, {found['held_out']} held out, "
        f"{found['left_out']} left out of groups that the fit has not seen"
    )


def _lines(report: Any) -> list[str]:  # noqa: ANN401 - a CheckReport
    lines = [
        f"{report.source}: {report.rows} {report.kind} rows in {report.groups} groups"
        + (f", layout {report.layout}" if report.layout != "probekit" else "")
    ]
    facts = {"left out": _counts(report.dropped), "classes": _counts(report.classes)}
    if report.score_range:
        facts["score"] = f"{report.score_range[0]:g} to {report.score_range[1]:g}"
    facts |= {f"tag {tag}": _counts(values) for tag, values in report.tags.items()}
    facts["duplicates"] = str(report.duplicates)
    facts["leaks"] = f"prompts: {report.leaking_prompts}, texts: {report.leaking_texts}"
    facts["length"] = _length_facts(report)
    width = max(map(len, [*facts, *report.length])) + 2
    lines += [f"{name:<{width}}{value}" for name, value in facts.items() if value]
    lines.append(f"{'':<{width}}{'words':>32}  {'characters':>32}")
    columns = f"{'mean':>8}{'median':>8}{'p95':>8}{'max':>8}"
    lines.append(f"{'':<{width}}{columns}  {columns}")
    for name in report.length:
        cells = "  ".join(
            "".join(f"{value:>8,.0f}" for value in table[name].values())
            for table in (report.words, report.length)
        )
        lines.append(f"{name:<{width}}{cells}")
    lines.append(f"report split: {_can_show(report)}")
    return lines + ([f"warning: {warning}" for warning in report.warnings] or ["no warnings"])


def _can_show(report: Any) -> str:  # noqa: ANN401 - a CheckReport
    from probekit.results.measures import measure

    found, unit = report.can_show, "pairs" if report.kind == "pair" else "rows"
    split, outer = found["report"], found.get("outer")
    label, words = measure("sweep", split["measure"]).label, "too few to show anything"
    if split["least"] is not None:
        words = f"shows no {label} under {split['least']:.2f}"
    words = f"about {split['rows']} {unit} in {split['groups']} groups; {words}"
    if outer and outer["least"] is not None:
        words += f"; fit --outer-folds 5 over all {outer['rows']}: {outer['least']:.2f}"
    return words


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in counts.items())


def _length_facts(report: Any) -> str:  # noqa: ANN401 - a CheckReport
    found = {
        "AUC": (report.length_auc, ".2f"),
        "difference": (report.length_difference, "+.2f"),
        "correlation with score": (report.length_correlation, "+.2f"),
    }
    return ", ".join(f"{name} {x:{form}}" for name, (x, form) in found.items() if x is not None)
