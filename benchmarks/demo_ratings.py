"""Write `demo:ratings`: completions of the embedded model, rated from 1 to 10 by stated criteria.

    python benchmarks/demo_ratings.py probekit/data/demo/ratings.jsonl

150 prompts ask for one, two or three sentences about a topic with a given word; the model answers each of
them four times. The rating is 1 plus points: 2 for the number of sentences that was asked for (1 when it is
one off), 2 for the word, 1 for the topic, 2 for an answer that comes to its end, 1 for no words
before the answer ("Sure", "Here is"), 1 for no four words that occur twice.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from probekit.behaviours.sampled import sampled_rows
from probekit.models.load import load_model
from probekit.models.sampling_config import SamplingConfig

TOPICS = {
    "bread": ("oven", "morning", "flour"), "rivers": ("stone", "north", "bridge"),
    "trains": ("station", "window", "night"), "cats": ("milk", "roof", "quiet"),
    "mountains": ("snow", "path", "cold"), "libraries": ("shelf", "silence", "card"),
    "gardens": ("seed", "rain", "wall"), "markets": ("fish", "price", "basket"),
    "islands": ("boat", "wind", "sand"), "winter": ("coat", "fire", "dark"),
    "music": ("drum", "street", "song"), "chess": ("queen", "clock", "patient"),
    "bicycles": ("wheel", "hill", "repair"), "coffee": ("cup", "bitter", "friend"),
    "forests": ("moss", "owl", "lost"), "the moon": ("tide", "silver", "walk"),
    "schools": ("chalk", "bell", "teacher"), "bees": ("honey", "flower", "hive"),
    "ships": ("harbour", "storm", "captain"), "clocks": ("spring", "tower", "late"),
    "painting": ("blue", "canvas", "light"), "horses": ("field", "saddle", "gentle"),
    "glass": ("sand", "broken", "clear"), "letters": ("stamp", "ink", "far"),
    "football": ("goal", "crowd", "mud"), "soup": ("salt", "onion", "slow"),
    "deserts": ("camel", "thirst", "star"), "shoes": ("leather", "mile", "worn"),
    "birds": ("nest", "south", "feather"), "castles": ("gate", "king", "ruin"),
    "tea": ("leaf", "steam", "afternoon"), "dogs": ("ball", "loyal", "leash"),
    "lakes": ("ice", "deep", "canoe"), "theatre": ("curtain", "mask", "applause"),
    "apples": ("tree", "red", "worm"), "wolves": ("pack", "howl", "winter"),
    "candles": ("wax", "shadow", "flame"), "maps": ("border", "compass", "fold"),
    "radio": ("voice", "signal", "kitchen"), "farms": ("tractor", "dawn", "hay"),
    "hospitals": ("nurse", "corridor", "hope"), "stars": ("telescope", "old", "count"),
    "dancing": ("floor", "partner", "rhythm"), "whales": ("ocean", "breath", "song"),
    "doors": ("key", "lock", "paint"), "elephants": ("memory", "river", "trunk"),
    "photographs": ("album", "smile", "grey"), "sailing": ("rope", "knot", "horizon"),
    "cheese": ("cave", "knife", "age"), "poetry": ("line", "rhyme", "page"),
}  # fmt: skip
COUNTS = ("one sentence", "two sentences", "three sentences")
PREFACE = re.compile(
    r"^\s*(sure|here|certainly|of course|okay|as an ai|i['’]m|yes)\b", re.IGNORECASE
)


def prompts() -> list[dict[str, object]]:
    """Return the 150 prompts with what they ask for."""
    return [
        {"prompt": f"Write {COUNTS[k]} about {topic}. Use the word {word!r}.", "id": f"{topic}-{word}",
         "tags": {"topic": topic, "word": word, "sentences": str(k + 1)}}
        for topic, words in TOPICS.items()
        for k, word in enumerate(words)
    ]  # fmt: skip


def rating(completion: str, tags: dict[str, str]) -> int:
    """Return the rating of a completion, 1 to 10, by the criteria above."""
    text = completion.strip()
    ended = text.endswith((".", "!", "?", '"', "”"))
    sentences = [part for part in re.split(r"(?<=[.!?])[\"”]?\s+", text) if part.strip()]
    off = abs(len(sentences) - int(tags["sentences"]))
    words = re.findall(r"[\w'’]+", text.lower())
    fours = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    stem = tags["topic"].split()[-1].rstrip("s").lower()
    points = (
        max(0, 2 - off), 2 * any(w.startswith(tags["word"]) for w in words),
        any(w.startswith(stem) for w in words), 2 * ended, not PREFACE.match(text),
        len(set(fours)) == len(fours),
    )  # fmt: skip
    return 1 + sum(int(p) for p in points)


def main(out: str) -> None:
    """Sample, rate and write."""
    asked = prompts()
    config = SamplingConfig(samples=4, max_new_tokens=72, temperature=1.0, seed=0)
    rows = sampled_rows(load_model("smollm2-135m"), asked, config)
    with Path(out).open("w", encoding="utf-8") as handle:
        for row in rows:
            row["prompt"] = row["prompt"][-1]["content"]
            row["score"] = rating(str(row["completion"]), row["tags"])
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
