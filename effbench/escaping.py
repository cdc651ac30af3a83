"""Escape text from other sources for spreadsheets, terminals and Markdown."""

from __future__ import annotations

import re
from typing import Any

# Control characters except tab and newline, bidirectional overrides, lone surrogates.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def csv_cell(value: Any) -> Any:
    """Add an apostrophe to text that a spreadsheet would run as a formula; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def for_terminal(text: str) -> str:
    r"""Replace control characters by escapes such as \x1b; lines and tabs stay."""
    return _CONTROL.sub(lambda match: _escaped(match[0]), text)


def one_line(text: str) -> str:
    r"""Replace all characters that cannot be printed by escapes, line breaks and tabs too."""
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def markdown_text(text: str) -> str:
    """Return a text as Markdown shows it, on one line: in a cell, a sentence or a heading."""
    # a pipe ends a cell, a backtick starts code, '<' is HTML in Markdown, and '](' a link, or an image to be fetched
    harmless = for_terminal(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return harmless.replace("<", "&lt;").replace("`", "'").replace("](", "]\\(")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
