"""`probekit cache`: rows of text in, an activation store out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import probekit.cli.options as opt
from probekit.cli.settings import SettingsCommand

if TYPE_CHECKING:
    from probekit.activations.config import CacheConfig


@click.command(cls=SettingsCommand, settings="probekit.activations.config:CacheConfig")
@opt.MODEL
@opt.DATA
@opt.out_option("HDF5 file to write the activations to.")
@opt.DTYPE
@opt.ADAPTER
@opt.LOADING
@opt.READING
@opt.RESUME
@opt.FORCE
@opt.JSON
def cache(data: str, out: str, config: CacheConfig, **options: Any) -> None:  # noqa: ANN401
    """Run a model over rows of text and keep its residual stream per layer and position.

    \b
    Example:
      probekit cache --data demo:researchers_pairs --positions last,turn_end,mean --out acts.h5
    """
    from probekit.activations.cache import cache_activations, is_store
    from probekit.container import RECORD, write_json
    from probekit.provenance import run_record

    opt.refuse_both(options)
    path = opt.claim(out, "cache", options, own=is_store)
    dataset = opt.read_data(data, options, several=True)
    loaded = opt.open_model(options, adapter=options["adapter"])
    with opt.progress_bar() as progress:
        store = cache_activations(
            loaded,
            dataset,
            path,
            config=config,
            force=options["force"],
            resume=options["resume"],
            progress=progress,
        )
    arguments = {"data": data, "out": out, **options, **asdict(config)}
    write_json(path.with_name(path.name + RECORD), run_record("cache", arguments))
    opt.log_rows(dataset)
    with store:
        _print(store, as_json=options["as_json"])


def _print(store: Any, *, as_json: bool) -> None:  # noqa: ANN401 - an ActivationStore
    cells = store.cells() + store.ragged_cells()
    summary = {
        "path": str(store.path),
        "kind": store.kind,
        "classes": _classes(store),
        "positive_class": store.examples.classes and store.examples.classes[1],
        "n_examples": store.n_examples,
        "n_layers": store.n_layers,
        "d_model": store.d_model,
        "sites": sorted({cell.site for cell in cells}),
        "layers": sorted({cell.layer for cell in cells if cell.site != "resid_pre"}),
        "positions": sorted({cell.position for cell in cells}),
        "model": store.provenance["model"],
        "forward_dtype": store.provenance["forward_dtype"],
        "left_out": store.provenance["data"]["left_out"],
    }
    if as_json:
        return opt.echo_json(summary)
    opt.echo(
        f"{store.path}: {store.n_examples} {store.kind} examples, {len(cells)} matrices of width "
        f"{store.d_model} ({summary['model']}, {summary['forward_dtype']})"
    )
    for reason, n in summary["left_out"].items():
        opt.echo(f"  left out: {n} {reason}")
    for line in opt.positive_line(summary["positive_class"], summary["classes"]):
        opt.echo(line)


def _classes(store: Any) -> dict[str, int] | None:  # noqa: ANN401 - an ActivationStore
    """Return the rows of every class, class 0 first; None for other kinds."""
    names, label = store.examples.classes or store.examples.several, store.examples.label
    return {name: int((label == k).sum()) for k, name in enumerate(dict.fromkeys(names))}
