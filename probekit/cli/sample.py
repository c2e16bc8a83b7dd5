"""`probekit sample`: completions of the model itself, as rows for `probekit cache`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import probekit.cli.options as opt
from probekit.cli.settings import SettingsCommand

if TYPE_CHECKING:
    from probekit.models.sampling_config import SamplingConfig


@click.command(
    cls=SettingsCommand,
    settings="probekit.models.sampling_config:SamplingConfig",
    defaults={"samples": 8, "max_new_tokens": 40},
)
@click.option(
    "--model", required=True, help="Model to run: built-in name, hub id, folder or .gguf file."
)
@opt.prompts_option("source")
@opt.out_option("File to write the rows to, .jsonl.")
@opt.ADAPTER
@click.option(
    "--amplify",
    type=float,
    metavar="K",
    help="Draw from logits base + K (adapted - base): 0 is the model without --adapter, 1 the one with it, "
    "more goes beyond.",
)
@opt.BEHAVIOURS
@click.option(
    "--behaviour",
    multiple=True,
    help="Label rows wanted or other by these categories: NAME[,NAME] or TAG=VALUE:NAME[,NAME].",
)
@opt.LIMIT
@opt.DTYPE
@opt.LOADING
@opt.batch_tokens_option(hidden=True)
@opt.RESUME
@opt.FORCE
@opt.JSON
def sample(source: str, out: str, config: SamplingConfig, **options: Any) -> None:  # noqa: ANN401
    """Let a model answer prompts and write its answers as rows, labelled by what they do.

    A head fitted to them tells the behaviour from everything else that this model writes.

    \b
    Example:
      probekit sample --model smollm2-135m --prompts demo:sentiment --out rows.jsonl \\
        --behaviours sentiment --behaviour positive
      probekit sample --model smollm2-135m --adapter tuned --amplify 2 --prompts demo:sentiment \\
        --out amplified.jsonl
    """
    from probekit.behaviours import Wanted
    from probekit.behaviours.sampled import write_sampled
    from probekit.data.prompts import open_prompts

    opt.refuse_both(options)
    target = opt.claim(out, "sample", options)
    behaviours = opt.read_behaviours(options)
    wanted = Wanted.parse(options["behaviour"], behaviours)
    prompts = open_prompts(source, limit=options["limit"])
    loaded = opt.open_model(options)
    total = len(prompts) * config.samples
    with opt.progress_bar() as progress:
        rows = write_sampled(
            loaded, prompts, target, config, adapter=options["adapter"], amplify=options["amplify"],
            behaviours=behaviours, wanted=wanted, resume=options["resume"], force=options["force"],
            arguments={"prompts": source, "out": out, **options, **asdict(config)},
            progress=lambda done: progress("sampling", done, total),
        )  # fmt: skip
    counts: dict[str, int] = {}
    for row in rows:
        name = row.get("label") or row["tags"].get("category", "rows")
        counts[name] = counts.get(name, 0) + 1
    if options["as_json"]:
        return opt.echo_json({"n_rows": len(rows), "counts": counts, "path": str(target)})
    opt.echo(f"{target}: {len(rows)} completions of {len(prompts)} prompts")
    for name, n in sorted(counts.items()):
        opt.echo(f"  {name:<12} {n:>6}  {n / len(rows):.0%}")
