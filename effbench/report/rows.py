"""The rows of metrics.csv to draw: all of a normal file; of a long one the extremes of each interval.

A file of a million rows is parsed line by line and a few thousand rows are kept. No spike is lost.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper

from effbench.summary_schema import LARGEST

MOST_ROWS = 20_000  # files with at most this many rows are kept completely
INTERVALS = 400  # intervals of a longer file, for each kind of row; a chart has 240 points

Row = tuple[list[str], list[float | None]]  # (cells, the values that are drawn)


@dataclass
class Rows:
    """Rows of a metrics.csv.

    Attributes:
        columns: names of the columns.
        kept: rows to draw, by column; a cell that is not finite is empty.
        total: number of rows in the file.
        damaged: number of rows that are damaged.
    """

    columns: list[str] = field(default_factory=list)
    kept: list[dict[str, str]] = field(default_factory=list)
    total: int = 0
    damaged: int = 0


def drawable_rows(content: bytes) -> Rows:
    """Return the rows to draw from the content of a metrics.csv.

    Raises:
        UnicodeError, csv.Error: it is not a CSV file.
    """
    rows_per_interval = max(1, content.count(b"\n") // INTERVALS)
    # short enough to keep every row
    if rows_per_interval * INTERVALS < MOST_ROWS:
        rows_per_interval = 1
    # decoded line by line: the whole text and all cells would take several times the memory of the file
    with TextIOWrapper(BytesIO(content), encoding="utf-8", newline="") as stream:
        lines = filter(None, csv.reader(stream))
        rows = Rows(next(lines, []))
        if "row" in rows.columns and "step" in rows.columns:
            rows.kept = [_named(rows.columns, cells) for cells in _kept(_sound(lines, rows), rows_per_interval)]
        else:
            rows.total = sum(1 for _ in lines)
    return rows


def _sound(lines: Iterable[list[str]], rows: Rows) -> Iterator[tuple[str, Row]]:
    """Yield (kind, row) of complete rows, and count the others."""
    columns = rows.columns
    kind, step = columns.index("row"), columns.index("step")
    numbers = [index for index, name in enumerate(columns) if name not in ("row", "epoch", "step")]
    missing = [""] * len(columns)
    for cells in lines:
        rows.total += 1
        cells += missing[len(cells) :]  # of a line that was cut short
        try:
            values = [float(cells[index]) if cells[index] else None for index in numbers]
            whole = len(cells) == len(columns) and cells[kind] in ("step", "epoch") and cells[step].isdecimal()
            whole = whole and float(cells[step]) < LARGEST
        except ValueError:
            whole = False
        if whole:
            yield cells[kind], (cells, values)
        else:
            rows.damaged += 1


def _kept(rows: Iterable[tuple[str, Row]], rows_per_interval: int) -> Iterator[list[str]]:
    """Yield the cells of all rows, or of the first, the last and the extremes of each interval."""
    # separate intervals for step and epoch rows: each kind has other columns
    pending: dict[str, list[Row]] = {"step": [], "epoch": []}
    for kind, row in rows:
        if rows_per_interval == 1:
            yield row[0]
            continue
        pending[kind].append(row)
        if len(pending[kind]) == rows_per_interval:
            yield from _extremes(pending[kind])
            pending[kind] = []
    for some in pending.values():
        yield from _extremes(some)


def _extremes(rows: Sequence[Row]) -> Iterator[list[str]]:
    # the ends, so that a line spans its run, and for each column its lowest and highest row
    chosen = {0, len(rows) - 1} if rows else set()
    for column in zip(*(values for _, values in rows), strict=True):
        finite = [(value, index) for index, value in enumerate(column) if value is not None and abs(value) < LARGEST]
        if finite:
            chosen |= {min(finite)[1], max(finite)[1]}
    yield from (rows[index][0] for index in sorted(chosen))


def _named(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Return a row by column, without numbers that are not finite."""
    row: Mapping[str, str] = dict(zip(columns, cells, strict=True))
    # 16 digits or more are damage, not a number of epochs
    epoch = row.get("epoch", "")
    numbers = {
        name: cell if cell and abs(float(cell)) < LARGEST else ""
        for name, cell in row.items()
        if name not in ("row", "epoch")
    }
    return {**numbers, "row": row["row"], "epoch": epoch if epoch.isdecimal() and len(epoch) < 16 else ""}
