"""Tables of shaded cells as numbers of an SVG: images, kernels, attention. figures.html.j2 writes the elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from effbench.report.charts import WIDTH
from effbench.report.figures import Label, text_width

LEVELS = 24  # shades; cells of one shade are one element of the SVG
_MOST_SIDE, _GAP = 34.0, 6.0  # of a cell; between the labels and the cells
_NUMBERED = 20.0  # least side of a cell whose number is written
_FAINT, _FULL = 0.65, 1.0  # darkest shade below a number, which must stay readable; without numbers


@dataclass(frozen=True)
class HeatMap:
    """A table of shaded cells.

    Attributes:
        title: of the figure.
        text: what a screen reader says: the facts that the figure shows.
        values: of the cells, row by row.
        cells: (style, opacity, path) of each shade. Styles: 'ink' for images, 'c0' for values above 0, 'c1' below.
        labels: of rows and columns.
        numbers: written in the cells.
        outline: path around all cells.
        height: of the whole.
    """

    title: str
    text: str
    values: Sequence[Sequence[float]]
    cells: Sequence[tuple[str, float, str]]
    labels: Sequence[Label]
    numbers: Sequence[Label]
    outline: str
    height: float


def heat_map(
    title: str,
    text: str,
    values: Sequence[Sequence[float]],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    written: Callable[[float], str] | None = None,
    ink: bool = False,
) -> HeatMap:
    """Return the figure of a table; the shade of a cell is its value over the largest absolute value.

    Args:
        title: of the figure.
        text: what a screen reader says.
        values: at least one row, all of one length.
        rows: names of the rows; () for none.
        columns: names of the columns.
        written: how a number is written in its cell, where cells are large enough; None: numbers are not written.
        ink: values are at least 0, and drawn in the colour of the text, as an image.
    """
    left = max(map(text_width, rows), default=0.0) + _GAP if rows else _GAP
    # column names are turned by 45 degrees, so that they take 0.71 of their length upwards
    longest = max(map(text_width, columns), default=0.0)
    top = 0.71 * longest + 10 if columns else _GAP
    side = min(_MOST_SIDE, (WIDTH - left - _GAP - (0.71 * longest - 10 if columns else 0)) / len(values[0]))
    if not rows:
        left = (WIDTH - side * len(values[0])) / 2  # in the middle
    numbered = written is not None and side >= _NUMBERED
    width, bottom = side * len(values[0]), top + side * len(values)

    def centre(index: int, start: float) -> float:
        return round(start + (index + 0.5) * side, 1)

    names = [Label(left - _GAP, centre(row, top) + 3.5, name, "end") for row, name in enumerate(rows)]
    names += [Label(centre(at, left), round(top - 4, 1), name, turn=-45) for at, name in enumerate(columns)]
    numbers = [
        Label(centre(column, left), centre(row, top) + 3.5, written(value), "middle")
        for row, line in enumerate(values)
        for column, value in enumerate(line)
        if numbered and written is not None
    ]
    outline = f"M{left:.1f} {top:.1f}h{width:.1f}v{bottom - top:.1f}h{-width:.1f}z"
    cells = _cells(values, (left, top, side), _FAINT if numbered else _FULL, ink)
    return HeatMap(title, text, values, cells, names, numbers, outline, round(bottom + _GAP, 1))


def _cells(
    values: Sequence[Sequence[float]], place: tuple[float, float, float], darkest: float, ink: bool
) -> list[tuple[str, float, str]]:
    """Return (style, opacity, path) of each shade; neighbours in a row that have one shade are one rectangle."""
    left, top, side = place
    largest = max(abs(value) for line in values for value in line) or 1.0
    paths: dict[int, list[str]] = {}
    for row, line in enumerate(values):
        shades = [round(LEVELS * value / largest) for value in line]
        start = 0
        for column in range(1, len(shades) + 1):
            if column < len(shades) and shades[column] == shades[start]:
                continue
            if shades[start]:  # 0: the page itself
                # absolute places: neighbours share their edges after rounding, so that no seam is seen
                x, end, y, low = left + start * side, left + column * side, top + row * side, top + (row + 1) * side
                paths.setdefault(shades[start], []).append(f"M{x:.1f} {y:.1f}H{end:.1f}V{low:.1f}H{x:.1f}z")
            start = column
    return [
        ("ink" if ink else "c0" if shade > 0 else "c1", round(darkest * abs(shade) / LEVELS, 3), "".join(parts))
        for shade, parts in sorted(paths.items())
    ]
