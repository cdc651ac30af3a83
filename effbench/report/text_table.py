"""A text table that fits the terminal: less important columns are left out, and numbers are never broken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from effbench.escaping import for_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 120  # columns without a terminal and without COLUMNS
_GAP = 2  # spaces between columns
_NARROW, _WIDE = 24, 48  # least width of a long text; width that it may have before number columns are removed
_WORD = 36  # a word of at most this length, such as a class with its module, is not broken


@dataclass(frozen=True)
class TextColumn:
    """A column of text. Control characters of the texts, which may be a stranger's, become escapes such as \\x1b.

    Attributes:
        head: title, with line breaks.
        cells: one text a row.
        is_number: numbers are aligned right and not broken.
        drop_order: order of removal on a narrow terminal, the highest first; 0: never removed.
    """

    head: str
    cells: Sequence[str]
    is_number: bool = True
    drop_order: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", for_terminal(self.head))
        object.__setattr__(self, "cells", [*map(for_terminal, self.cells)])

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        lines = [*self.head.split("\n"), *self.cells]
        return max(map(cell_len, lines), default=0)

    def least_width(self, width: int) -> int:
        """Return the width below which numbers or words would be broken, in a table of `width`."""
        from rich.cells import cell_len

        if self.is_number:
            return self.width
        words = [word for text in (self.head, *self.cells) for word in text.split()]
        # of a narrow terminal at most half: a word that leaves no room for the numbers is broken
        longest = max((length for word in words if (length := cell_len(word)) <= _WORD), default=0)
        return min(longest, width // 2)


def console() -> Console:
    """Return rich's console on stdout; without a terminal, plain text of a fixed width."""
    from rich.console import Console

    found = Console(highlight=False, emoji=False)
    if not found.is_terminal:
        # below 40 columns nothing is readable
        columns = os.environ.get("COLUMNS", "")
        found.width = int(columns) if columns.isdecimal() and int(columns) >= 40 else PIPE_WIDTH
    return found


def fitting(columns: Sequence[TextColumn], width: int) -> list[TextColumn]:
    """Return the columns that fit into `width`, in their order."""
    kept = list(columns)
    while len(kept) > 1 and _needed_width(kept, width) > width:
        # one column at a time, the least important first
        least_needed = max(kept, key=lambda column: column.drop_order)
        if least_needed.drop_order == 0:
            break
        kept.remove(least_needed)
    return kept


def _needed_width(columns: Sequence[TextColumn], width: int) -> int:
    texts = sum(not column.is_number for column in columns)
    # a single text column gets more room where there is some
    most = _WIDE if texts == 1 and width >= 100 else _NARROW
    # text can be broken down to `most`, numbers and words cannot
    widths = (max(column.least_width(width), min(column.width, most)) for column in columns)
    return sum(widths) + _GAP * (len(columns) - 1)


def text_table(columns: Sequence[TextColumn], width: int, styles: Sequence[str | None] = ()) -> Table:
    """Return rich's table of the columns that fit.

    Args:
        columns: all of them.
        width: of the terminal.
        styles: one rich style a row.
    """
    from rich.markup import escape
    from rich.table import Table

    # numbers are never wrapped: a broken number reads as another one
    shown = fitting(columns, width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    lines = max((column.head.count("\n") for column in shown), default=0)
    for column in shown:
        head = "\n" * (lines - column.head.count("\n")) + escape(column.head)  # all heads end on one line
        least = column.least_width(width)
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        table.add_column(head, justify=justify, no_wrap=column.is_number, min_width=least, overflow="fold")
    for index, cells in enumerate(zip(*(column.cells for column in shown), strict=True)):
        table.add_row(*map(escape, cells), style=styles[index] if index < len(styles) else None)
    return table


def print_table(columns: Sequence[TextColumn], styles: Sequence[str | None] = ()) -> None:
    """Print the columns to stdout; without columns print nothing. styles: one rich style a row."""
    out = console()
    if columns:
        out.print(text_table(columns, out.width, styles))


def print_sentence(out: Console, text: str, head: str = "", style: str = "") -> None:
    """Print a text after its head: to a pipe as one line, which grep finds; to a terminal in lines of its width.

    All lines but the first are indented by the head, or by two columns without one. Markup and control characters of
    the text are printed as they are.

    Args:
        out: from `console`.
        text: of words; its line breaks become spaces.
        head: what the first line begins with.
        style: rich's style of the head, or of the whole without one.
    """
    from rich.cells import cell_len
    from rich.text import Text

    text = for_terminal(" ".join(text.splitlines()))
    begin = for_terminal(head)
    # on a narrow terminal a long head leaves no room beside it
    indent = min(cell_len(begin), out.width // 2) if head else 2
    room = out.width - indent
    lines = _wrapped(text, out.width - cell_len(begin), room) if out.is_terminal else [text]
    for number, line in enumerate(lines):
        start = " " * indent if number else begin
        out.print(Text.assemble((start, style), (line, "" if head else style)), soft_wrap=True)


def _wrapped(text: str, first: int, room: int) -> list[str]:
    """Return lines of whole words. first, room: columns of the first line, and of the others."""
    from rich.cells import cell_len

    lines, line = list[str](), ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        # a word that is longer than a line stays whole: it may be a path, which is copied
        if cell_len(longer) > (room if lines else first) and (line or (not lines and first < room)):
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]
