"""Columns of tables in files: CSV, TSV, JSONL and Parquet."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effbench.errors import DataError, MissingExtraError, unknown_name
from effbench.escaping import for_terminal

log = logging.getLogger(__name__)

SEPARATORS = {".csv": ",", ".tsv": "\t"}
NUMBER_RULE = "Write numbers as 1234.5: with a decimal point, without commas and units."
_OTHERS = (";", "\t")  # between the columns of a .csv whose first line has no comma, as spreadsheets may write it
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_LARGEST = 3.4028234663852886e38  # of float32
_BATCH = 8192  # rows of Parquet that are converted at once
_COARSE = 1e-3  # of a standard deviation: a larger error of rounding is no detail any more
HAS_NUL = "holds a NUL character: it is no text, or it is UTF-16 (data.encoding)"
Keys = Mapping[str, str] | None  # column -> what names another one
ENCODING = "utf-8-sig"  # -sig: a byte order mark, which Excel writes, is no part of the text


def files_of(paths: Sequence[str | Path], suffixes: Sequence[str] = TABLES) -> list[Path]:
    """Return the files in the given order, those of a folder with one of the suffixes sorted by name.

    Raises:
        DataError: there is no such file, a folder has none, or it cannot be listed.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        try:
            found += _files_of(path, suffixes)
        except OSError as error:  # no permission, or another program removed it meanwhile
            raise DataError(f"{for_terminal(str(path))} cannot be read: {error.strerror}.") from error
    return found


def _files_of(path: Path, suffixes: Sequence[str]) -> list[Path]:
    if path.is_dir():
        inside = sorted(each for each in path.iterdir() if each.suffix.lower() in suffixes and each.is_file())
        if not inside:
            raise DataError(f"the folder {for_terminal(str(path))} holds no {' or '.join(suffixes)} file.")
        return inside
    # not is_file(): a pipe is read, too, such as <(zcat rows.csv.gz)
    if not path.exists():
        raise DataError(f"there is no file {for_terminal(str(path))}.")
    return [path]


def natural_order(label: str) -> tuple[bool, float, str]:
    """Return the key that sorts labels: numbers first and by value, 2 before 10, then other texts."""
    value = number_in(label)
    # NaN is neither before nor after a number: the order would be that of the set, which differs between processes
    return (True, 0.0, label) if value is None or math.isnan(value) else (False, value, label)


def cell_problem(cell: str) -> str | None:
    """Return why a cell is no Unicode text, or None: it holds a NUL, or a lone surrogate, which UTF-8 cannot encode."""
    if "\0" in cell:  # of Parquet, JSON and Python; `decoded` names the line of a file
        return HAS_NUL
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        return f"has a lone surrogate (character {error.start + 1}), which is no Unicode text"
    return None


def number_in(cell: str) -> float | None:
    """Return the number that a cell holds, possibly nan or inf; None if it holds another text."""
    try:
        return None if "_" in cell else float(cell)  # float() reads 1_000 as 1000
    except ValueError:
        return None


def finite_number(cell: str) -> float | None:
    """Return the number that a cell holds; None if it is none, or infinite in float32."""
    value = number_in(cell)
    return value if value is not None and abs(value) <= _LARGEST else None  # NaN compares as false


def is_coarse(error: float, deviation: float) -> bool:
    """Return True if numbers lose much of their differences in float32; equal ones have none to lose.

    Args:
        error: largest difference between a number and its float32.
        deviation: standard deviation of the numbers.
    """
    return error > _COARSE * deviation > 0


def read_columns(path: Path, columns: Sequence[str], encoding: str = ENCODING) -> list[tuple[int, dict[str, str]]]:
    """Read some columns of a table as texts.

    Args:
        path, columns, encoding: see `each_row`.
    """
    return list(each_row(path, columns, encoding))


def each_row(
    path: Path, columns: Sequence[str], encoding: str = ENCODING, keys: Mapping[str, str] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield some columns of a table as texts, row by row: the rows of a large table take more memory than their texts.

    Args:
        path: .csv, .tsv, .jsonl (an object a line) or .parquet.
        columns: their names.
        encoding: of a text file.
        keys: column -> what names another one, such as 'data.text_column=NAME', for messages; None: nothing does.

    Yields:
        (line from 1, column -> value) of each row; for Parquet the row. A missing value is ''.

    Raises:
        DataError: the file cannot be read, lacks a column, or a line has another number of columns.
    """
    read = {".jsonl": _jsonl, ".parquet": _parquet, **dict.fromkeys(SEPARATORS, _separated)}
    suffix = path.suffix.lower()
    if suffix not in read:
        raise DataError(f"{for_terminal(str(path))}: {unknown_name('the suffix', suffix, read)}")
    yield from read[suffix](path, columns, encoding, keys)


def column_names(path: Path, encoding: str = ENCODING) -> list[str]:
    """Return the names of a table's columns; of JSONL, the keys of its first line.

    Raises:
        DataError: the file cannot be read.
    """
    name, suffix = for_terminal(str(path)), path.suffix.lower()
    if suffix not in TABLES:
        raise DataError(f"{name}: {unknown_name('the suffix', suffix, TABLES)}")
    if suffix == ".parquet":
        return _parquet_names(path)
    text = decoded(path, encoding)
    if suffix == ".jsonl":
        # of all lines: a key that one of them lacks is a column too
        return list(dict.fromkeys(key for _, row in _objects(name, text) for key in row))
    stream, separator = io.StringIO(text, newline=""), _separator(suffix, text)
    with _long_cells():
        try:
            header = next(filter(None, csv.reader(stream, delimiter=separator, strict=True)), [])
        except csv.Error as error:
            raise DataError(f"{name} line 1 is no CSV ({error}).") from error
    return [cell.strip() for cell in header]


def _separated(path: Path, columns: Sequence[str], encoding: str, keys: Keys) -> Iterator[tuple[int, dict[str, str]]]:
    name = for_terminal(str(path))
    text = decoded(path, encoding)
    with _long_cells():
        separator = _separator(path.suffix.lower(), text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        try:
            header = [cell.strip() for cell in next(filter(None, reader), [])]
            if not header:
                raise DataError(f"{name} is empty: its first line must name the columns.")
            places = _places(name, header, columns, keys, first_line=True)
            for cells in reader:
                if not cells:  # a blank line
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{name} line {reader.line_num} has {len(cells)} columns; the first line names {len(header)}. "
                        'A text with the separator or a line break must be in quotes: "…".'
                    )
                if any("\n" in cell and separator in cell for cell in cells):
                    log.warning(
                        f"{name} line {reader.line_num} ends a quoted text with {separator!r} and a line break in it: "
                        "if these are several rows, a quote is missing"
                    )
                yield reader.line_num, {column: cells[place] for column, place in places.items()}
        except csv.Error as error:
            raise DataError(f"{name} line {reader.line_num} is no CSV ({error}).") from error


def _separator(suffix: str, text: str) -> str:
    """Return the sign between the columns of a .csv or .tsv file."""
    usual, header = SEPARATORS[suffix], text.lstrip("\r\n").partition("\n")[0]
    # A file of one column is of no use here: without a comma in its first line, the columns are divided otherwise.
    other = max(_OTHERS, key=header.count)
    return other if usual not in header and other in header else usual


def _jsonl(path: Path, columns: Sequence[str], encoding: str, keys: Keys) -> Iterator[tuple[int, dict[str, str]]]:
    name, found = for_terminal(str(path)), set[str]()
    for number, row in _objects(name, decoded(path, encoding)):
        found |= row.keys()
        # a key that a line lacks is a missing value, as null is
        yield number, {column: _text(row.get(column), f"{name} line {number}", column) for column in columns}
    if found:
        _places(name, sorted(found), columns, keys)


def _objects(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line from 1, object) of a JSONL text. Raises DataError."""
    # not splitlines(): a JSON text may hold U+2028, which it takes for a line end
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} line {number} is no JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{name} line {number} must be a JSON object, {{...}}; got {line.strip()[:40]!r}.")
        yield number, row


def _parquet(path: Path, columns: Sequence[str], encoding: str, keys: Keys) -> Iterator[tuple[int, dict[str, str]]]:
    del encoding  # Parquet has its own
    _places(for_terminal(str(path)), _parquet_names(path), columns, keys)
    name, number = for_terminal(str(path)), 0
    with _reading_parquet(path) as parquet:
        # some at a time: as objects of Python, rows take several times their memory
        for batch in parquet.read_table(path, columns=list(columns)).to_batches(max_chunksize=_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, {column: _text(row[column], f"{name} row {number}", column) for column in columns}


def _parquet_names(path: Path) -> list[str]:
    with _reading_parquet(path) as parquet:
        return list(parquet.read_schema(path).names)


@contextmanager
def _reading_parquet(path: Path) -> Iterator[Any]:
    """Yield pyarrow.parquet; its errors become DataErrors."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"reading {path.name}", "parquet") from error
    try:
        yield pyarrow.parquet
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # such as a date after year 9999
        raise DataError(f"{for_terminal(str(path))} cannot be read as Parquet ({error}).") from error


def _places(
    name: str, header: Sequence[str], columns: Sequence[str], keys: Keys, first_line: bool = False
) -> dict[str, int]:
    """Return the place of each column in the header.

    Args:
        name: of the file, for messages.
        header: names of its columns.
        columns: to find.
        keys: see `each_row`.
        first_line: the header is the first line of a text file.
    """
    for column in columns:
        if column not in header:
            names = for_terminal(", ".join(map(repr, header[:20])) or "none")
            there = f"Its first line names: {names}" if first_line else f"It has: {names}"
            remedy = f"This run reads the column {column!r}: rename the file's column."
            if keys is not None and column in keys:
                remedy = f"Write {keys[column]}."
            sample = " If that line is a sample, put a line with the names of the columns above it."
            raise DataError(f"{name} has no column {column!r}. {there}. {remedy}{sample if first_line else ''}")
        if header.count(column) > 1:
            raise DataError(f"{name} has {header.count(column)} columns {column!r}. Rename all but one.")
    return {column: list(header).index(column) for column in columns}


def _text(value: Any, place: str, column: str) -> str:
    """Return a cell as text, '' for a missing one.

    Args:
        value: of JSON or Parquet.
        place: file and line, for messages.
        column: its name, for messages.

    Raises:
        DataError: it is no text, number or date.
    """
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: column {column!r} holds bytes that are no UTF-8. Convert it to text.") from error
    if isinstance(value, list | tuple | dict):
        kind = "an object" if isinstance(value, dict) else "a list"
        raise DataError(f"{place}: column {column!r} holds {kind}; a cell must be a text or a number.")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    # as JSON writes it: true, not True
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, bool) else str(value)


def decoded(path: Path, encoding: str = ENCODING) -> str:
    """Return the text of a file. Raises DataError, with the line, if it is not of the encoding, or no text."""
    name = for_terminal(str(path))
    try:
        content = path.read_bytes()
        text = content.decode(encoding)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}).") from error
    except LookupError as error:
        raise DataError(f"data.encoding: {error}. Write utf-8, latin-1, cp1252, ...") from error
    except UnicodeDecodeError as error:
        # utf-8-sig takes off a byte order mark before it decodes: places are those of what is left
        read = error.object
        place, line = len(content) - len(read) + error.start, read.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} line {line} is no {encoding} (byte {place}, {read[error.start]:#04x}: {error.reason}). "
            "Name the file's encoding, such as data.encoding=latin-1 or cp1252, or convert the file to UTF-8."
        ) from error
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise DataError(f"{name} line {line} {HAS_NUL}.")
    return text


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lift Python's limit of 131,072 characters a cell, which is the process's."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
