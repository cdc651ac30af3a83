"""Figures as one SVG file, for documents: side by side, with titles and a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from effbench.report.charts import WIDTH
from effbench.report.figures import FRAME, Figure, text_width
from effbench.report.heat_maps import HeatMap
from effbench.report.templates import environment_of, harmless

_GAP, _TITLE = 14.0, 20.0  # between figures; above each, for its title
_KEY_LINE = 16.0  # height of a line of the key
_SCALE = 1.45  # pixels of a document a unit: a single figure is as wide as two thirds of a page of text
_MOST_WIDTH = 1000.0  # pixels


def sheet(figures: Sequence[Figure | HeatMap], text: str, across: int = 1, key: Sequence[tuple[int, str]] = ()) -> str:
    """Return an SVG file with the figures. It has light and dark colours, as the reader's system asks for.

    Args:
        figures: in order.
        text: what a screen reader says.
        across: figures beside each other.
        key: (index of the colour, name) of the series whose names are not beside their lines.
    """
    placed, top = list[dict[str, Any]](), 0.0
    for start in range(0, len(figures), across):
        row = figures[start : start + across]
        for column, figure in enumerate(row):
            placed.append({"x": column * (WIDTH + _GAP), "y": top, "figure": asdict(figure)})
        top += _TITLE + max(figure.height for figure in row) + _GAP
    width = min(across, len(figures)) * (WIDTH + _GAP) - _GAP
    keys, height = _keys(key, width, top)
    marks = [mark for each in figures if isinstance(each, Figure) for mark in each.marks]
    content = {"text": text, "width": width, "height": height, "placed": placed, "keys": keys}
    shown = min(_SCALE * width, _MOST_WIDTH)
    template = environment_of().get_template("sheet.svg.j2")
    return template.render(
        harmless(content),
        frame=FRAME,
        title=_TITLE,
        has_marks=any(mark.status != "on the front" for mark in marks),
        shown_width=round(shown),
        shown_height=round(shown * height / width),
    )


def _keys(key: Sequence[tuple[int, str]], width: float, top: float) -> tuple[list[dict[str, Any]], float]:
    """Return the places of the key's entries, in lines below the figures, and where they end."""
    keys, x = list[dict[str, Any]](), 0.0
    for index, name in key:
        wide = 34 + text_width(name) + 14
        if x and x + wide > width:
            x, top = 0.0, top + _KEY_LINE
        keys.append({"x": round(x, 1), "y": round(top + 10, 1), "index": index, "name": name})
        x += wide
    return keys, round(top + (_KEY_LINE if keys else 0), 1)
