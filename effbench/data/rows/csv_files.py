"""CSV files of numbers, one row a line, with or without a header."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from effbench.data.table_files import files_of, finite_number, number_in
from effbench.errors import DataError
from effbench.escaping import for_terminal

log = logging.getLogger(__name__)

SEPARATORS = (",", ";", "\t")
LEAST_NUMBERED = 3  # features; with fewer, a first line `0` or `0,1` may well be a row


def csv_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files in the given order, those of a folder (*.csv) sorted by name. Raises DataError as `files_of`."""
    return files_of(paths, (".csv",))


def read_rows(path: Path, num_features: int, names: Sequence[str] | None = None) -> Tensor:
    """Read a file as float32 (N, F).

    The first line is a header and not a row in three cases:

    - it holds the names of all features; the columns may then be in any order, and more than the features;
    - none of its cells is a number;
    - it is 0, 1, ... F - 1, with three features or more, and rows follow: pandas numbers columns without names so. A
      note is logged.

    Args:
        path: the file, UTF-8; its separator is a comma, a semicolon or a tab.
        num_features: F.
        names: of the features.

    Raises:
        DataError: a line has another number of columns, or a cell is no finite number.
    """
    file = for_terminal(str(path))
    try:
        lines = list(_lines(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV ({error}).") from error

    first = lines[0][1] if lines else []
    columns, width = list(range(num_features)), num_features
    has_names = names is not None and set(names) <= set(first)
    # A first line with some numbers is a damaged row: as a header it would be lost without a word.
    if has_names or (any(first) and all(number_in(cell) is None for cell in first)):
        del lines[0]
        columns, width = _chosen(file, first, num_features, names), len(first)
    elif num_features >= LEAST_NUMBERED and len(lines) > 1 and first == [str(column) for column in columns]:
        del lines[0]
        log.info(f"note: {file}: the first line, 0 to {num_features - 1}, counts as column numbers and not as a row")
    if not lines:
        raise DataError(f"{file} holds no rows of numbers.")

    rows = torch.empty(len(lines), num_features)
    for place, (number, cells) in enumerate(lines):
        if len(cells) != width:
            raise DataError(f"{file} line {number} has {len(cells)} columns; expected {width}.")
        rows[place] = torch.tensor([_checked(file, number, column, cells[column]) for column in columns])
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number from 1, cells) of the lines that are not blank. A line of separators alone is a row."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        text = stream.read()  # a pipe is read once
    # the most frequent of the three in the first line; a tie, as in one column, leaves the comma
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=first.count))
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if len(stripped) > 1 or any(stripped):
            # the reader's number: a quoted cell may go over several lines of the file
            yield reader.line_num, stripped


def _chosen(file: str, header: Sequence[str], num_features: int, names: Sequence[str] | None) -> list[int]:
    """Return the columns of the features."""
    if names is None:
        if len(header) != num_features:
            raise DataError(f"{file} has {len(header)} columns; the run's rows have {num_features}.")
        return list(range(num_features))
    for name in names:
        if (count := header.count(name)) > 1:
            raise DataError(
                f"{file} has {count} columns with the name {name!r}, which is one feature of the run. Remove or rename "
                "the others."
            )
    if missing := [name for name in names if name not in header]:
        raise DataError(
            f"{file} has no column for {len(missing)} of the run's {num_features} features, such as {missing[0]!r}. "
            "Name the columns as in training; without a first line of names they are taken in the run's order."
        )
    return [header.index(name) for name in names]


def _checked(file: str, line: int, column: int, cell: str) -> float:
    value = finite_number(cell)
    if value is None:
        raise DataError(f"{file} line {line}, column {column + 1}: {cell[:50]!r} is no finite number of float32.")
    return value
