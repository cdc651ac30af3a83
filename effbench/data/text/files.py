"""Files of texts: tables with a text column, and files that hold one text a line."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effbench.data.table_files import ENCODING, TABLES, decoded, files_of, read_columns
from effbench.errors import DataError
from effbench.escaping import for_terminal

TEXT_COLUMN = "text"
A_TEXT = 'For a text itself, write text="a sentence".'  # `effbench predict` was given it in place of a file
_NO_NAME = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)  # of what is no file: a text, too


def text_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files in the given order, those of a folder sorted by name.

    Raises:
        DataError: there is no such file, it cannot be seen, or a folder has none.
    """
    for path in paths:
        check_there(path)
    return files_of(paths, (*TABLES, ".txt"))


def check_there(path: str | Path) -> None:
    """Raise DataError if nothing has this name, or it cannot be seen; a text in place of a file is told of text=."""
    try:
        os.stat(path)  # noqa: PTH116 - a text may be any
    except (OSError, ValueError) as error:  # ValueError: it holds NUL
        if isinstance(error, OSError) and error.errno not in _NO_NAME:
            raise DataError(f"{for_terminal(str(path))} cannot be read: {error.strerror}.") from error
        raise DataError(f"there is no file {for_terminal(str(path))}. {A_TEXT}") from error


class TextRow(NamedTuple):
    """A text of a file.

    Attributes:
        row: of a table, from 1; of other files the line.
        line: from 1; of a table the last one of the row, of Parquet the row.
        text: the text, perhaps empty.
    """

    row: int
    line: int
    text: str


def read_texts(path: Path, options: Mapping[str, Any]) -> list[TextRow]:
    """Read the texts of a file.

    Args:
        path: the file.
        options: of the data group: `text_column` and `encoding`, where the dataset has them.

    Raises:
        DataError: the file cannot be read, or lacks the column.
    """
    encoding = str(options.get("encoding") or ENCODING)
    # also a pipe, such as /dev/stdin
    if path.suffix.lower() not in TABLES:
        # not splitlines(): a text may hold U+2028 or a form feed
        lines = decoded(path, encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return [TextRow(number, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    column = str(options.get("text_column") or TEXT_COLUMN)
    read = enumerate(read_columns(path, [column], encoding), start=1)
    return [TextRow(number, line, row[column]) for number, (line, row) in read]
