"""Write the golden version 1 store and its values: python -m tests.activations.make_golden."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from probekit.activations.cache import CacheConfig, cache_activations
from probekit.activations.store import ActivationStore
from probekit.models.load import load_model
from tests.activations.memory import ratings
from tests.tiny import save_tiny

FOLDER = Path(__file__).parent / "golden"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    out = FOLDER / "store_v1.h5"
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(str(save_tiny(Path(folder) / "tiny")), dtype="float32")
        config = CacheConfig(layers="0,2", positions="last,mean,all", batch_tokens=100)
        cache_activations(loaded, ratings(5), out, config=config, force=True).close()
    with ActivationStore.open(out) as store:
        (FOLDER / "store_v1.json").write_text(json.dumps(values(store)) + "\n")


def values(store: ActivationStore) -> dict[str, object]:
    """Everything the golden test compares."""
    rows = store.examples
    ragged = {str(cell): store.read_ragged(cell) for cell in store.ragged_cells()}
    return {
        "kind": store.kind,
        "id": rows.id.tolist(),
        "score": rows.score.tolist(),
        "tags": {name: tag.tolist() for name, tag in rows.tags.items()},
        "token_ids": [store.tokens.row(i).ids.tolist() for i in range(len(rows))],
        "activations": {str(cell): store.read(cell).tolist() for cell in store.cells()},
        "ragged": {name: acts.tolist() for name, (acts, _) in ragged.items()},
        "offsets": next(iter(ragged.values()))[1].tolist(),
    }


if __name__ == "__main__":
    main()
