"""Write docs/measures.md from results/measures.toml: python -m tests.make_measures_reference."""

from __future__ import annotations

import re
from pathlib import Path

from probekit.results.measures import Measure, measures

ROOT = Path(__file__).parents[1]
HEAD = """# Measures

Every measure that probekit writes, draws or prints: its key, its unit and its definition. Made from
`probekit/results/measures.toml` by `python -m tests.make_measures_reference`. In a key that ends in `:`
or `@` the rest is a name or a layer. A *share* is written in per cent, its changes in percentage points.
"""


def reference() -> str:
    """Return the page: a section each room, under the comment that begins it."""
    text = (ROOT / "probekit" / "results" / "measures.toml").read_text(encoding="utf-8")
    rooms = {room: said for said, room in re.findall(r"^# (.+)\n\[([\w-]+)\]", text, flags=re.M)}
    return HEAD + "".join(
        f"\n## {room}\n\n{said}\n\n| key | measure | unit | definition |\n|---|---|---|---|\n"
        + "".join(_row(item) for item in measures(room).values())
        for room, said in rooms.items()
    )


def _row(item: Measure) -> str:
    label = item.label.replace("{}", "…")
    notes = [item.definition[:1].upper() + item.definition[1:].rstrip(".") + "."]
    if item.chance is not None:
        notes.append(f"Chance: {item.chance:g}.")
    if item.lower_is_better:
        notes.append("Lower is better.")
    cells = (f"`{item.name}`", label, item.unit, " ".join(notes))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


if __name__ == "__main__":
    (ROOT / "docs" / "measures.md").write_text(reference(), encoding="utf-8")
