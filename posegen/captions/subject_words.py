"""The rule of one subject word: a caption names its person once, as woman, girl, man, boy or person.

The rule looks at whole words: "many" and "romantic" hold no "man".
"""

from __future__ import annotations

import re

SUBJECT_WORDS = ("woman", "girl", "man", "boy", "person")
SYNONYMS = {
    "woman": ("woman", "women", "lady", "ladies", "female", "females"),
    "girl": ("girl", "girls"),
    "man": ("man", "men", "guy", "guys", "gentleman", "gentlemen", "male", "males"),
    "boy": ("boy", "boys", "lad", "lads"),
    "person": (
        *("person", "persons", "people", "individual", "individuals", "somebody", "someone"),
        *(
            "kid",
            "kids",
            "child",
            "children",
            "toddler",
            "toddlers",
            "teenager",
            "teenagers",
            "adult",
            "adults",
        ),
    ),
}
SUBJECT_OF = {synonym: subject for subject, synonyms in SYNONYMS.items() for synonym in synonyms}
_ALTERNATIVES = "|".join(sorted(SUBJECT_OF, key=len, reverse=True))
_COMPOUND = re.compile(rf"(?<=\w-)({_ALTERNATIVES})\b|\b({_ALTERNATIVES})(?=-\w)", re.IGNORECASE)
_ADJECTIVE = re.compile(r"\b(male|female|adult)\s+(?=[a-z])", re.IGNORECASE)
_MENTION = re.compile(
    rf"\b(?:(?P<article>an|two|three|four|several|some)(?P<space>\s+))?(?P<word>{_ALTERNATIVES})\b",
    re.IGNORECASE,
)


def subject_word(text: str) -> str:
    """The first of SUBJECT_WORDS in a text, of which `ensure_one_subject_word` leaves just one.

    Raises ValueError where there is none.
    """
    found = re.search(rf"\b({'|'.join(SUBJECT_WORDS)})\b", text, re.IGNORECASE)
    if not found:
        raise ValueError(f"the caption {text!r} has no subject word")
    return found[1].lower()


def ensure_one_subject_word(text: str, fallback: str = "person") -> str:
    """The text with exactly one subject word: its first mention of the subject, in the most definite word it
    uses; later mentions become "figure". A text without any is led by `fallback`, one of SUBJECT_WORDS.

    Raises ValueError for another fallback.
    """
    if fallback not in SUBJECT_WORDS:
        raise ValueError(f"the subject word {fallback!r} is not one of {', '.join(SUBJECT_WORDS)}")
    adjectives = [match[1].lower() for match in _ADJECTIVE.finditer(text)]
    text = _COMPOUND.sub("human", _ADJECTIVE.sub("", text)).strip()
    mentions = [SUBJECT_OF[match["word"].lower()] for match in _MENTION.finditer(text)]
    definite = [word for word in (*mentions, *(SUBJECT_OF[a] for a in adjectives)) if word != "person"]
    subject = definite[0] if definite else fallback
    if not mentions:
        return f"A {subject}. {text}".strip()
    first = True

    def replace(match: re.Match[str]) -> str:
        nonlocal first
        word, first = (subject if first else "figure"), False
        before = "a" + match["space"] if match["article"] else ""
        result = before + word
        return result.capitalize() if match[0][0].isupper() else result

    return _MENTION.sub(replace, text)
