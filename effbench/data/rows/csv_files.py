"""CSV files of numbers, one row a line, with or without a header."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from effbench.errors import DataError
from effbench.escaping import for_terminal

SEPARATORS = (",", ";", "\t")


def csv_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files in the given order, those of a folder (*.csv) sorted by name.

    Raises:
        DataError: there is no such file, or a folder has none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() == ".csv" and each.is_file())
            if not inside:
                raise DataError(f"the folder {for_terminal(str(path))} holds no .csv file.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"there is no file {for_terminal(str(path))}.")
    return found


def read_rows(path: Path, num_features: int, names: Sequence[str] | None = None) -> Tensor:
    """Read a file as float32 (N, F).

    A first line without any number, or with the names of all features, holds the names of the columns. These may then
    be more than the features, in any order, if the features have names.

    Args:
        path: the file, UTF-8; its separator is a comma, a semicolon or a tab.
        num_features: F.
        names: of the features.

    Raises:
        DataError: a line has another number of columns, or a cell is no finite number.
    """
    try:
        lines = list(_lines(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{for_terminal(str(path))} cannot be read as CSV ({error}).") from error
    columns, width = list(range(num_features)), num_features
    if lines and _is_header(lines[0][1], names):
        _, header = lines.pop(0)
        columns, width = _chosen(path, header, num_features, names), len(header)
    if not lines:
        raise DataError(f"{for_terminal(str(path))} holds no rows of numbers.")
    rows = torch.empty(len(lines), num_features)
    for place, (number, cells) in enumerate(lines):
        if len(cells) != width:
            raise DataError(f"{for_terminal(str(path))} line {number} has {len(cells)} columns; expected {width}.")
        rows[place] = torch.tensor([_checked(path, number, column, cells[column]) for column in columns])
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number from 1, cells) of the lines that are not blank. A line of separators alone is a row."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        text = stream.read()  # a pipe is read once
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=first.count))
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if len(stripped) > 1 or any(stripped):
            yield reader.line_num, stripped


def _is_header(cells: Sequence[str], names: Sequence[str] | None) -> bool:
    """Return True for a header. A line with some numbers is a damaged row and not a header."""
    if names is not None and set(names) <= set(cells):
        return True
    return any(cells) and all(_number(cell) is None for cell in cells)


def _chosen(path: Path, header: Sequence[str], num_features: int, names: Sequence[str] | None) -> list[int]:
    """Return the columns of the features."""
    if names is None:
        if len(header) != num_features:
            raise DataError(f"{for_terminal(str(path))} has {len(header)} columns; the run's rows have {num_features}.")
        return list(range(num_features))
    missing = [name for name in names if header.count(name) != 1]
    if missing:
        raise DataError(
            f"{for_terminal(str(path))} must have one column for each of the run's {num_features} features; "
            f"{missing[0]!r} is there {header.count(missing[0])} times ({len(missing)} such features). Without a first "
            "line of names the columns are taken in the run's order."
        )
    return [header.index(name) for name in names]


def _checked(path: Path, line: int, column: int, cell: str) -> float:
    value = _number(cell)
    if value is None or not math.isfinite(value) or abs(value) > torch.finfo(torch.float32).max:
        raise DataError(
            f"{for_terminal(str(path))} line {line}, column {column + 1}: {cell[:50]!r} is no finite number of float32."
        )
    return value


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)  # float() reads 1_000 as 1000
    except ValueError:
        return None
