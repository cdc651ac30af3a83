"""Figures as lines of text, for terminals and pipes: a letter for each series, a darker letter for a larger value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from effbench.report.charts import LEFT, TOP
from effbench.report.figures import COLOURS, Figure
from effbench.report.heat_maps import HeatMap

if TYPE_CHECKING:
    from rich.text import Text

PLOT_HEIGHT = 12  # lines of a plot's frame
_STYLES = ("blue", "yellow", "green", "magenta", "red", "cyan", "bright_yellow", "bright_black")  # as chart.css's
_LETTERS = "*+ox#%@&abcdefghijklmnpqrstuvwyz"  # of series 0, 1, ...
_RAMP, _BELOW = " .:-=+*#%@", " 123456789"  # from 0 to the largest absolute value; values below 0
_MOST_CELL_NAMES = 14  # columns of a table of numbers; a wider one is drawn as an image
_GAP = 3  # columns between two figures

Cells = list[list[tuple[str, str]]]  # (letter, style) by row and column


def text_figures(figures: Sequence[Figure | HeatMap], width: int, across: int = 2) -> list[Text]:
    """Return the lines of figures, side by side where they fit.

    Args:
        figures: in order.
        width: columns of the terminal.
        across: most figures beside each other.
    """
    from rich.text import Text

    room = width if across == 1 or len(figures) == 1 else (width - _GAP * (across - 1)) // across
    blocks = [_block(figure, max(room, 30)) for figure in figures]
    lines: list[Text] = []
    while blocks:
        # as many as fit: an image is narrower than its share
        row, used = [blocks.pop(0)], 0
        used = _width(row[0])
        while blocks and len(row) < across and used + _GAP + _width(blocks[0]) <= width:
            used += _GAP + _width(blocks[0])
            row.append(blocks.pop(0))
        for number in range(max(map(len, row))):
            line = Text()
            for block in row:
                part = block[number].copy() if number < len(block) else Text()
                part.pad_right(_width(block) - part.cell_len + (_GAP if block is not row[-1] else 0))
                line.append_text(part)
            line.rstrip()
            lines.append(line)
        if blocks:
            lines.append(Text())
    return lines


def legend(figures: Sequence[Figure | HeatMap]) -> Text | None:
    """Return the letters of the series, if there are several, or how an image shows values below 0."""
    from rich.text import Text

    images = [figure for figure in figures if isinstance(figure, HeatMap) and not figure.numbers]
    if any(value < 0 for figure in images for line in figure.values for value in line):
        return Text("digits: below 0; other signs: above 0")
    plots = [figure for figure in figures if isinstance(figure, Figure)]
    names = {line.colour: line.label for figure in plots for line in figure.panel.lines if line.label}
    if len(names) < 2:
        return None
    parts = [Text(f"{_letter(index)} {name}", _style(index)) for index, name in sorted(names.items())]
    return Text("   ").join(parts)


def _width(block: Sequence[Text]) -> int:
    return max(line.cell_len for line in block)


def _block(figure: Figure | HeatMap, width: int) -> list[Text]:
    from rich.text import Text

    if isinstance(figure, Figure):
        title, lines = figure.panel.title, _plot(figure, width)
    else:
        title, lines = figure.title, _table(figure, width)
    title = title if len(title) <= width else f"{title[: width - 3]}..."
    return [Text(title, "bold"), *lines]


# --- plots ------------------------------------------------------------------------------------------------------------


def _plot(figure: Figure, width: int) -> list[Text]:
    from rich.text import Text

    panel = figure.panel
    margin = max((len(tick.text) for tick in panel.y_ticks), default=0) + 1
    columns = width - margin - 1
    grid: Cells = [[(" ", "")] * columns for _ in range(PLOT_HEIGHT)]

    def place(point: str) -> tuple[int, int]:
        x, y = map(float, point.split(","))
        across, down = (x - LEFT) / (figure.right - LEFT), (y - TOP) / (figure.bottom - TOP)
        return round(across * (columns - 1)), round(down * (PLOT_HEIGHT - 1))

    for points in figure.guides:
        _draw(grid, [place(point) for point in points.split()], ".", "bright_black")
    for line in panel.lines:
        _draw(grid, [place(point) for point in line.points.split()], _letter(line.colour), _style(line.colour))

    rows = {place(f"{LEFT},{tick.place}")[1]: tick.text for tick in panel.y_ticks}
    lines = []
    for row, cells in enumerate(grid):
        lines.append(Text(f"{rows.get(row, ''):>{margin - 1}} |", "bright_black"))
        for letter, style in cells:
            lines[-1].append(letter, style)
    axis, ends = [" "] * columns, [" "] * (columns + margin)
    for tick in panel.x_ticks:
        column = place(f"{tick.place},0")[0]
        start = min(max(column + margin - len(tick.text) // 2, 0), len(ends) - len(tick.text))
        # a number that would touch the one before it is left out
        if all(letter == " " for letter in ends[max(start - 1, 0) : start + len(tick.text)]):
            axis[min(max(column, 0), columns - 1)] = "+"
            ends[start : start + len(tick.text)] = tick.text
    lines.append(Text(" " * margin + "+" + "".join("-" if mark == " " else mark for mark in axis), "bright_black"))
    lines.append(Text(" " + "".join(ends), "bright_black"))
    lines.append(Text(f"{panel.x_label:^{width}}".rstrip(), "bright_black"))
    return lines


def _draw(grid: Cells, places: Sequence[tuple[int, int]], letter: str, style: str) -> None:
    pairs = zip(places, places[1:] or places, strict=False)
    for x, y in (each for start, end in pairs for each in _between(start, end)):
        # a guide or a path may leave the frame
        if 0 <= y < len(grid) and 0 <= x < len(grid[0]):
            grid[y][x] = (letter, style)


def _between(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    # a line that leaves the frame by far would take as many steps
    for step in range(min(steps, 10_000) + 1):
        yield tuple(round(a + (b - a) * step / steps) for a, b in zip(start, end, strict=True))  # type: ignore[misc]


def _letter(index: int) -> str:
    return _LETTERS[index % len(_LETTERS)]


def _style(index: int) -> str:
    return _STYLES[index % COLOURS]


# --- tables of cells --------------------------------------------------------------------------------------------------


def _table(figure: HeatMap, width: int) -> list[Text]:
    rows = [label for label in figure.labels if label.anchor == "end"]
    columns = [label for label in figure.labels if label.anchor != "end"]
    if figure.numbers or (columns and len(figure.values[0]) <= _MOST_CELL_NAMES):
        return _numbers(figure, [label.text for label in rows], [label.text for label in columns], width)
    return _image(figure, width)


def _numbers(figure: HeatMap, rows: Sequence[str], columns: Sequence[str], width: int) -> list[Text]:
    """Return the numbers, row by row; names of columns are cut to the width of a number."""
    from rich.text import Text

    count = len(figure.values[0])
    cells = [label.text for label in figure.numbers] or [f"{value:.2f}" for line in figure.values for value in line]
    margin = min(max(map(len, rows), default=0), width // 3)
    side = max(max(map(len, cells)), min(7, (width - margin) // count - 1))
    lines = [Text(" " * margin + "".join(f" {name[:side]:>{side}}" for name in columns))] if columns else []
    largest = max(abs(value) for line in figure.values for value in line) or 1.0
    for number, line in enumerate(figure.values):
        name = rows[number] if number < len(rows) else ""
        text = Text(f"{name[:margin]:>{margin}}")
        for column, value in enumerate(line):
            cell = cells[number * count + column]
            text.append(f" {cell:>{side}}", "bold" if abs(value) > largest / 2 else "")
        lines.append(text)
    return lines


def _image(figure: HeatMap, width: int) -> list[Text]:
    """Return one letter a cell across and one for two cells down: a letter is about twice as high as wide."""
    from rich.text import Text

    largest = max(abs(value) for line in figure.values for value in line) or 1.0
    lines = []
    for top in range(0, len(figure.values), 2):
        pair = figure.values[top : top + 2]
        text = Text("|")
        for column in range(min(len(pair[0]), width - 2)):
            value = sum(line[column] for line in pair) / len(pair)
            shade = round((len(_RAMP) - 1) * abs(value) / largest)
            text.append(_BELOW[shade] if value < 0 else _RAMP[shade], "yellow" if value < 0 else "")
        text.append("|")
        lines.append(text)
    return lines
