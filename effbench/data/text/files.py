"""Files of texts: tables with a text column, and files that hold one text a line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.data.table_files import ENCODING, TABLES, decoded, files_of, read_columns
from effbench.errors import DataError
from effbench.escaping import for_terminal

TEXT_COLUMN = "text"
A_TEXT = 'For a text itself, write text="a sentence".'  # `effbench predict` was given it in place of a file


def text_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files in the given order, those of a folder sorted by name.

    Raises:
        DataError: there is no such file, or a folder has none.
    """
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110 - Path's raises where a sentence is too long for a name
            raise DataError(f"there is no file {for_terminal(str(path))}. {A_TEXT}")
    return files_of(paths, (*TABLES, ".txt"))


def read_texts(path: Path, options: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Read the texts of a file.

    Args:
        path: the file.
        options: of the data group: `text_column` and `encoding`, where the dataset has them.

    Returns:
        (line from 1, text) of each; for Parquet the row.

    Raises:
        DataError: the file cannot be read, or lacks the column.
    """
    encoding = str(options.get("encoding") or ENCODING)
    # also a pipe, such as /dev/stdin
    if path.suffix.lower() not in TABLES:
        # not splitlines(): a text may hold U+2028 or a form feed
        lines = decoded(path, encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    column = str(options.get("text_column") or TEXT_COLUMN)
    return [(line, row[column]) for line, row in read_columns(path, [column], encoding)]
