"""Versions of the rules by which texts and tables of the user's are read: a run keeps those that it was begun with.

Rules 2 differ from rules 1 in four things:

- Texts that differ in white space or in their Unicode form alone are equal, and stay in one split.
- Where one sample of each class would make a split more than twice as large as asked for, not every class is in it.
- `data.tokenizer=words` keeps combining marks in their word.
- Numbers whose differences are lost in float32 are kept as differences from their mean.
"""

from __future__ import annotations

import unicodedata

from effbench.errors import ConfigError, shown

FIRST, RULES = 1, 2  # of records before schema 8; of new runs


def check_rules(rules: object) -> None:
    """Raise ConfigError unless data.rules is a known version."""
    if type(rules) is not int or not FIRST <= rules <= RULES:
        raise ConfigError(
            f"data.rules must be {FIRST} or {RULES}; got {shown(rules)}. {RULES} is for new runs; older ones keep "
            f"{FIRST} by themselves."
        )


def compared(text: str, rules: int = RULES) -> str:
    """Return the form by which texts are equal: Unicode NFC, with single spaces for white space. Capitals stay.

    Args:
        text: any text.
        rules: by 1 each text is equal to itself alone.
    """
    if rules < RULES:
        return text
    form = " ".join(unicodedata.normalize("NFC", text).split())
    return text if form == text else form  # the object itself, so that a million texts are not held twice
