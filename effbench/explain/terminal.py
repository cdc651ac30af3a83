"""Explanations on a terminal or in a pipe."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

from effbench.escaping import for_terminal
from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Part, Table
from effbench.report.text_figures import legend, text_figures
from effbench.report.text_table import TextColumn, console, text_table

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 80  # columns without a terminal and without COLUMNS
_WIDEST = 100  # longer lines of prose are hard to read


def print_explanation(explanation: Explanation) -> None:
    """Print to stdout: colours on a terminal only."""
    out = console()
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = _WIDTH
    width = min(out.width, _WIDEST)
    out.print(explanation.title, style="bold", markup=False, soft_wrap=True)
    for part in explanation.parts:
        out.print()
        _print_part(out, part, width)
    if explanation.references:
        out.print()
        for reference in explanation.references:
            _print_prose(out, reference, width, "- ")


def _print_part(out: Console, part: Part, width: int) -> None:
    if isinstance(part, Paragraph):
        _print_prose(out, part.text, width)
    elif isinstance(part, Listing):
        # soft_wrap: a line of a computation is never broken
        out.print(textwrap.indent(for_terminal(part.text), "  "), style="cyan", markup=False, soft_wrap=True)
    elif isinstance(part, Table):
        columns = [
            TextColumn(for_terminal(head), [for_terminal(row[at]) for row in part.rows], at >= part.texts)
            for at, head in enumerate(part.heads)
        ]
        out.print(text_table(columns, out.width))
    elif isinstance(part, Drawing):
        for line in text_figures(part.figures, width, part.across):
            out.print(line, soft_wrap=True)
        if (names := legend(part.figures)) is not None:
            out.print(names)
        _print_prose(out, part.caption, width, style="italic")


def _print_prose(out: Console, text: str, width: int, head: str = "", style: str = "") -> None:
    lines = textwrap.wrap(
        for_terminal(text), width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
    for line in lines:
        out.print(line, style=style, markup=False, soft_wrap=True)
