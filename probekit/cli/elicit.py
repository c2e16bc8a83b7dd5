"""`probekit elicit`: contrastive completions by conditioning, as pair rows."""

from __future__ import annotations

from typing import Any

import click

import probekit.cli.options as opt


@click.command()
@click.option(
    "--recipe", "source", required=True, help="Recipe: a TOML file, or the name of a shipped one."
)
@opt.out_option("Directory to write the pairs to.")
@opt.MODEL
@click.option("--prompts", help=f"Prompts to answer, instead of the recipe's: {opt.SOURCE}.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="Completions of each prompt and side, instead of the recipe's number.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Longest completion in tokens, instead of the recipe's.",
)
@click.option(
    "--batch",
    default=128,
    show_default=True,
    help="Sequences that are decoded together, which bounds the memory.",
)
@opt.ALLOW_CODE
@opt.LIMIT
@opt.DTYPE
@opt.LOADING
@opt.batch_tokens_option(hidden=True)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Seed of the sampling; the same seed gives the same completions.",
)
@opt.RESUME
@opt.FORCE
@opt.JSON
def elicit(source: str, out: str, **options: Any) -> None:  # noqa: ANN401
    """Let a model answer prompts plainly and under conditions, and pair the answers by class.

    The condition is stripped. A leak check tells how far words and length alone give the sides away.

    \b
    Example:
      probekit elicit --recipe knowledge-awareness --samples 8 --limit 100 --out pairs
    """
    import dataclasses

    from probekit.data.prompts import open_prompts
    from probekit.errors import DataError
    from probekit.studies import Recipe
    from probekit.studies import elicit as run

    opt.refuse_both(options)
    target = opt.claim(out, "elicit", options)
    recipe = Recipe.load(source, allow_code=options["allow_code"])
    given = {k: options[k] for k in ("samples", "max_new_tokens") if options[k] is not None}
    recipe = dataclasses.replace(recipe, **given)
    where = options["prompts"] or recipe.prompts
    if not where:
        raise DataError(f"{source}: names no prompts. Pass --prompts.")
    prompts = open_prompts(where, limit=options["limit"])
    loaded = opt.open_model(options)
    with opt.progress_bar() as progress:
        found = run(
            loaded, recipe, prompts, target, batch=options["batch"], seed=options["seed"],
            resume=options["resume"], force=options["force"],
            arguments={"recipe": source, "out": out, **options},
            progress=lambda done, total: progress("sampling", done, total),
        )  # fmt: skip
    if options["as_json"]:
        return opt.echo_json(
            {
                "n_pairs": found.n_pairs,
                "drops": found.drops,
                "leaks": found.leaks,
                "familiarity": found.familiarity,
                "known": found.known,
                "path": str(found.folder / "pairs.jsonl"),
            }
        )
    opt.echo(f"{found.folder / 'pairs.jsonl'}: {found.n_pairs} pairs of {len(prompts)} prompts")
    for name, part in (found.familiarity or {}).items():
        opt.echo(
            f"  {name:<14} {part['n_kept']} of {part['n']} prompts, median log p of the names kept "
            f"{part['median_logprob_kept']:.1f}"
        )
    for name, part in found.known.items():
        opt.echo(f"  {name:<14} {part['n_kept']} of {part['n']} names known by their answers")
    for name, counts in found.drops.items():
        opt.echo(f"  {name:<14} " + ", ".join(f"{n} {why}" for why, n in sorted(counts.items())))
    for name, value in found.leaks["total"].items():
        if value is not None:
            opt.echo(
                f"  {name + ' alone':<14} pair accuracy {value['value']:.2f} "
                f"[{value['low']:.2f}, {value['high']:.2f}], "
                + ("TELLS THE SIDES" if name in found.leaks["leaks"] else "half is chance")
            )
