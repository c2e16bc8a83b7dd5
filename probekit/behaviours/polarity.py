"""Words of praise and blame in a reply, counted."""

from __future__ import annotations

import re

_PRAISE = re.compile(
    r"\b(?:good|great\w*|wonder\w+|excell\w+|amaz\w+|beautif\w+|love[sd]?|loving|lovely|enjoy\w*|happ\w+|"
    r"delight\w*|delicious|fantastic|perfect\w*|impress\w+|pleas\w+|best|better|brilliant\w*|charm\w+|"
    r"comfort\w*|warm\w*|fresh|joy\w*|excit\w+|thrill\w*|fun|memorable|stunning|vibrant|rich|success\w*|"
    r"welcom\w+|friendly|helpful|kind|captivat\w+|inspir\w+|breathtaking|grateful|satisf\w+|superb|"
    r"incredibl\w+|unforgettable|treat|refreshing|cozy|magical|fascinat\w+|glad|smooth\w*|gorgeous)\b",
    re.IGNORECASE,
)
_BLAME = re.compile(
    r"\b(?:bad\w*|terribl\w+|awful\w*|horribl\w+|worst|worse|poor\w*|disappoint\w*|boring|bored|dull|"
    r"hate[sd]?|sad\w*|angry|anger|frustrat\w+|annoy\w+|pain\w*|broken|broke|fail\w*|wrong|problem\w*|"
    r"difficult\w*|hard|harsh\w*|cold|dirty|rude\w*|slow\w*|late|noisy|noise|tired\w*|exhaust\w+|"
    r"struggl\w+|stress\w*|fear\w*|afraid|scar\w+|unfortunate\w*|sorry|unpleasant\w*|uncomfortable|"
    r"disgust\w+|damag\w+|lost|loss|lack\w*|miss\w+|mistake\w*|mess\w*|ruin\w*|waste\w*|empty|bitter\w*|"
    r"stale|ugly|crowded|expensive|never|nothing|unable|tragic\w*|devastat\w+|dead|death|die[sd]?|"
    r"complain\w*|refus\w+|ignored?|shock\w*|trouble\w*|grim|miser\w+|gloomy|stuck|crash\w*)\b",
    re.IGNORECASE,
)


def balance(completion: str) -> int:
    """Return words of praise minus words of blame."""
    return len(_PRAISE.findall(completion)) - len(_BLAME.findall(completion))


def positive(prompt: str, completion: str) -> bool:
    """Return whether a reply has more praise than blame."""
    return balance(completion) > 0


def negative(prompt: str, completion: str) -> bool:
    """Return whether a reply has more blame than praise."""
    return balance(completion) < 0
