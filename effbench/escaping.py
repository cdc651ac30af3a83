"""Names from elsewhere, made harmless for where they are shown: a spreadsheet, a terminal."""

from __future__ import annotations

import re
from typing import Any

# Control characters but tab and newline, those that turn the direction of writing, halves that cannot be encoded.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def csv_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, with an apostrophe before it; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def for_terminal(text: str) -> str:
    r"""Text that cannot steer a terminal: control characters as \x1b, lines and tabs as they are."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
