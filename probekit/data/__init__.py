"""Rows in: examples, ratings and preference pairs, read, validated and checked."""

from probekit.data.check import CheckReport, check
from probekit.data.open import Dataset, open_dataset
from probekit.data.pairs import pairs_of_ratings
from probekit.data.readers import demo_path
from probekit.data.rows import Example, Message

__all__ = [
    "CheckReport",
    "Dataset",
    "Example",
    "Message",
    "check",
    "demo_path",
    "open_dataset",
    "pairs_of_ratings",
]
