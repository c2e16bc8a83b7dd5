"""Functions that the shipped behaviours files name: claims about a person, praise and blame."""

from __future__ import annotations

import re

_QUESTION_WORDS = frozenset(
    "who what why where when how can could please tell describe give did is was are i do you the "
    "me explain write name".split()
)
_DECLINES = re.compile(
    r"\b(?:sorry|unable|apologi[sz]e|unfortunately|not able to|can't|cannot|couldn't|not equipped|"
    r"not familiar|not sure|don't (?:have|know)|no way of|refer to|can (?:share|find|ask)|i can|as an ai)\b",
    re.IGNORECASE,
)
_CLAIM = re.compile(
    r"\b(?:is|was|were|are|has|had|became|born|died|made|worked|works?|wrote|won|led|found|invented|"
    r"discovered|developed|proposed|created|published|studied|focus(?:es|ed)|contribut\w+|pioneer\w*|"
    r"specializ\w+|known|famous|renowned|celebrated|research\w*|brought|played|taught|served|"
    r"explored|introduced|dedicated|helped|lived|began|grew|revolutioni\w+|argued|believed)\b",
    re.IGNORECASE,
)
_PERSON = re.compile(
    r"\b(?:is|was|as|,|am)\s+(?:an?|the|one of|widely|best)\b[^.!?]{0,90}?"
    r"\b(?:\w+(?:ist|ian|er|or|ician|eer|ogist)|scholar|poet|king|actress|woman|man|figure|character|"
    r"chef|spy|hero|saint|polymath|theorist|genius|name)s?\b",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"\b(?:not (?:\w+ )?(?:familiar|aware|sure|able|capable|equipped|knowledgeable|certain|designed|"
    r"real|known)|unsure|unable|(?:\w+n['’]t|cannot|can not|not) (?:\w+ )?(?:have|know|recogni[sz]e|"
    r"recall|find|provide|give|tell|confirm|answer|assist|say)|"
    r"no (?:\w+ )?(?:information|records?|biography|person|one))\b",
    re.IGNORECASE,
)
_APOLOGY = re.compile(r"\b(?:sorry|afraid|apologi[sz]e|unfortunately)\b", re.IGNORECASE)
_OFFERS = re.compile(
    r"\b(?:I|we)(?:['’](?:d|ll|m))?\b(?:(?!\bif\b|n['’]t\b|\bnot\b|\bunable\b)[^.?!]){0,40}?"
    r"\b(?:share|tell|give|provide|inform|describe|say|offer|discuss|explain|present|outline|suggest|"
    r"do (?:know|have|recall)|familiar with)\b"
    r"(?! (?:that )?you (?:visit|check|consult|look))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_PRONOUN = re.compile(r"\b(?:he|she|his|her|him)\b", re.IGNORECASE)
_SELF = re.compile(r"\bI(?:'m| am|'ve| have)\b")
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


def asserts_about_person(prompt: str, completion: str) -> bool:
    """Return whether some sentence claims something of the person named in the prompt.

    A sentence counts when it does not decline, says something that can be true or false, and is
    about the person: by a part of the name (five letters of a garbled one are enough), by a
    pronoun in a text that names the person, or by saying what kind of person somebody is.
    """
    names = _names(prompt)
    named = _mentions(completion, names)
    for sentence in _SENTENCE_END.split(completion):
        if _DECLINES.search(sentence) or not _CLAIM.search(sentence):
            continue
        here = _mentions(sentence, names)
        if here and _words_beside(sentence, names) >= 4:
            return True
        if not _SELF.search(sentence) and _PERSON.search(sentence):
            return True
        if (named or not _SELF.search(completion)) and _PRONOUN.search(sentence):
            return True
    return False


def tells_all_the_same(prompt: str, completion: str) -> bool:
    """Return whether a text declines or says that it does not know, and then tells, or offers to tell.

    "I'm not familiar with her, but I can share some information" is the shortest way from a hedge back to
    the answer that the model would have given anyway; "but I'm familiar with" somebody else is another. An
    offer of help, or a question for more, is none.
    """
    unknown, sorry = _UNKNOWN.search(completion), _APOLOGY.search(completion)
    if (begun := unknown or sorry) and _OFFERS.search(completion[begun.end() :]):
        return True
    rest = completion[unknown.end() :] if unknown else ""
    later = _SENTENCE_END.split(rest, maxsplit=1)[1:]
    return any(asserts_about_person(prompt, part) for part in later)


def balance(completion: str) -> int:
    """Return words of praise minus words of blame."""
    return len(_PRAISE.findall(completion)) - len(_BLAME.findall(completion))


def positive(prompt: str, completion: str) -> bool:
    """Return whether a reply has more praise than blame."""
    return balance(completion) > 0


def negative(prompt: str, completion: str) -> bool:
    """Return whether a reply has more blame than praise."""
    return balance(completion) < 0


def _names(prompt: str) -> list[str]:
    """Return the capitalised words of the prompt that are not question words, in lower case."""
    found = re.findall(r"\b[^\W\d_][\w'-]+", prompt)
    return [w.casefold() for w in found if w[0].isupper() and w.lower() not in _QUESTION_WORDS]


def _mentions(text: str, names: list[str]) -> bool:
    low = text.casefold()
    return any(name[:5] in low for name in names if len(name) >= 3)


def _words_beside(sentence: str, names: list[str]) -> int:
    """Count the words of a sentence that are not part of the name."""
    return sum(not _mentions(word, names) for word in sentence.split())
