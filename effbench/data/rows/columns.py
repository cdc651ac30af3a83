"""Columns of a table -> features: numbers as they are, categories as one feature each, missing values stated."""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from effbench.config.recipes import quoted
from effbench.data.rules import RULES
from effbench.data.table_files import NUMBER_RULE, cell_problem, finite_number, is_coarse, number_in
from effbench.errors import ConfigError, DataError, shown

log = logging.getLogger(__name__)

Row = tuple[int, Mapping[str, str]]  # line in the file, column -> cell
_MOSTLY = 0.5  # a column is of numbers if more than this part of its cells are
_SOME = 0.25  # of the cells; with fewer numbers a column of categories is not doubtful
_SHOWN = 50  # letters of a cell in a message
_VALUES = ("nan", "inf", "null", "true", "false")  # Hydra reads them as no text
_FEW = 10  # cells that say nothing about a column
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


@dataclass(frozen=True)
class Column:
    """How the cells of a column become features.

    Attributes:
        name: of the column.
        categories: values of the train split, sorted; None for a column of numbers. One feature each, 0 or 1.
        fill: value of a missing number: the mean of the train split.
        tells_missing: there is one more feature, 1 where the number is missing.
        centre: subtracted from numbers that are too large for their differences in float32; 0 for most columns.
    """

    name: str
    categories: tuple[str, ...] | None = None
    fill: float = 0.0
    tells_missing: bool = False
    centre: float = 0.0

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        if self.categories is not None:
            return [f"{self.name}={value}" for value in self.categories]
        return [self.name, f"{self.name} is missing"] if self.tells_missing else [self.name]


class Columns:
    """The columns of a table, as the train split has them.

    Args:
        columns: in the order of the features.
    """

    def __init__(self, columns: Sequence[Column]):
        self.columns = tuple(columns)
        self.features = [feature for column in self.columns for feature in column.features]

    @classmethod
    def fit(
        cls,
        file: str,
        rows: Sequence[Row],
        names: Sequence[str],
        categorical: Sequence[str] = (),
        rules: int = RULES,
    ) -> Columns:
        """Find out what each column holds.

        Args:
            file: name for messages.
            rows: of the train split.
            names: columns that become features.
            categorical: those of them that hold categories, though their cells are numbers.
            rules: see effbench/data/rules.py.

        Raises:
            DataError: a column of numbers has another cell, or is empty.
        """
        return cls([_fitted(file, rows, name, name in categorical, rules) for name in names])

    def encode(self, file: str, rows: Sequence[Row]) -> tuple[Tensor, dict[str, int]]:
        """Return the features of rows.

        Args:
            file: name for messages.
            rows: lines and cells.

        Returns:
            (float32 (N, F), column -> number of missing or, for categories, unknown cells)

        Raises:
            DataError: a cell of a column of numbers is no finite number, or another one no Unicode text.
        """
        features, odd = [], Counter[str]()
        for line, row in rows:
            values: list[float] = []
            for column in self.columns:
                cell = row[column.name].strip()
                if column.categories is not None:
                    if why := cell_problem(cell):
                        raise DataError(f"{file} line {line}: the column {column.name!r} {why}. Correct the cell.")
                    odd[column.name] += cell not in column.categories
                    values += [float(cell == value) for value in column.categories]
                else:
                    odd[column.name] += not cell
                    # in float64: it is the difference that is stored
                    values.append((_number(file, line, column.name, cell) if cell else column.fill) - column.centre)
                    values += [float(not cell)] * column.tells_missing
            features.append(values)
        return torch.tensor(features, dtype=torch.float32), {name: count for name, count in odd.items() if count}

    def record(self) -> list[dict[str, Any]]:
        """Return plain values from which `restored` makes the same columns."""
        # lists, as JSON gives them back: records are compared, also with older ones, which know no centre
        found = [{**asdict(each), "categories": each.categories and list(each.categories)} for each in self.columns]
        return [{key: value for key, value in each.items() if key != "centre" or value} for each in found]

    @classmethod
    def restored(cls, record: object) -> Columns:
        """Return the columns of a record. Raises ValueError if it is damaged."""
        if not isinstance(record, list) or not record:
            raise ValueError("data.columns must be a list of columns")
        found = []
        for entry in record:
            try:
                column = Column(**{**entry, "categories": entry["categories"] and tuple(entry["categories"])})
                sound = isinstance(column.name, str) and math.isfinite(column.fill) and math.isfinite(column.centre)
                sound &= isinstance(column.tells_missing, bool)
                sound &= all(isinstance(each, str) for each in column.categories or ())
            except (TypeError, KeyError, OverflowError) as error:
                raise ValueError(f"data.columns holds an entry that is no column ({error})") from error
            if not sound:
                raise ValueError("data.columns holds a column with a name, a number or categories of a wrong type")
            found.append(column)
        return cls(found)


class Missing:
    """The cells that stand for a missing value. Numbers are compared as such: -999 is also -999.0.

    Args:
        given: the option `data.missing`.

    Raises:
        ConfigError: it is no list of texts and finite numbers.
    """

    def __init__(self, given: object):
        if not (isinstance(given, list | tuple) and all(_is_cell(each) for each in given)):
            raise ConfigError(
                "data.missing must be a list of texts and numbers, such as \"data.missing=[NA,'?',-999]\" ('NaN' and "
                f"'null' need their quotes); got {shown(given)}."
            )
        self.named = [str(each).strip() for each in given]
        self._texts = frozenset(self.named)
        # NaN is equal to no number: the text 'NaN' counts
        self._numbers = frozenset(value for each in self.named if (value := number_in(each)) is not None)

    def emptied(self, rows: Sequence[Row], names: Collection[str]) -> list[Row]:
        """Return the rows with '' for each such cell.

        Args:
            rows: lines and cells.
            names: columns that become features; others, such as the label's, stay as they are.
        """
        if not self.named:
            return list(rows)
        features = frozenset(names)
        return [
            (line, {name: "" if name in features and self._holds(cell.strip()) else cell for name, cell in row.items()})
            for line, row in rows
        ]

    def _holds(self, cell: str) -> bool:
        return cell in self._texts or (bool(self._numbers) and number_in(cell) in self._numbers)


def _is_cell(value: object) -> bool:
    return type(value) in (str, int) or (isinstance(value, float) and math.isfinite(value))


def _fitted(file: str, rows: Sequence[Row], name: str, categorical: bool, rules: int) -> Column:
    cells = [(line, row[name].strip()) for line, row in rows]
    filled = [cell for _, cell in cells if cell]
    if not filled:
        raise DataError(f"{file}: the column {name!r} is empty. Leave it out: {listing('data.ignore', name)}.")
    numeric = sum(number_in(cell) is not None for cell in filled)
    if categorical or numeric <= _MOSTLY * len(filled):
        if not categorical:
            _tell_doubtful(file, name, filled, numeric)
        # a missing category is 0 in all of its features
        return Column(name, tuple(sorted(set(filled))))
    numbers = [_number(file, line, name, cell) for line, cell in cells if cell]
    _tell_row_numbers(file, name, [line for line, cell in cells if cell], numbers)
    mean = math.fsum(numbers) / len(numbers)
    return Column(name, None, mean, len(filled) < len(cells), _centre(file, name, numbers, mean, rules))


def _centre(file: str, name: str, numbers: Sequence[float], mean: float, rules: int) -> float:
    """Return what to subtract from the numbers of a column, so that float32 holds their differences.

    Args:
        file: name for messages.
        name: of the column.
        numbers: of the train split.
        mean: theirs.
        rules: see effbench/data/rules.py.
    """
    exact = torch.tensor(numbers, dtype=torch.float64)
    error = float((exact.float().double() - exact).abs().max())
    if not is_coarse(error, float(exact.std(correction=0))):
        return 0.0
    what = f"{file}: float32 holds the numbers of the column {name!r} to within {error:.3g} only"
    if rules < RULES:
        log.warning(f"{what}, which is much of their differences: this run was begun so. A new run keeps them")
        return 0.0
    log.info(f"note: {what}: their differences from {mean:.17g}, the mean of train, are the feature")
    return mean


def _tell_doubtful(file: str, name: str, filled: Sequence[str], numeric: int) -> None:
    """Warn of a column of texts that may be no categories: nobody asked for it, and a model learns them by heart.

    Args:
        file: name for messages.
        name: of the column.
        filled: its cells that are not empty.
        numeric: how many of them are numbers.
    """
    distinct, example = len(set(filled)), next(cell for cell in filled if number_in(cell) is None)
    where = f"{file}: the column {name!r} is taken for categories"
    if len(filled) < _FEW:
        return
    if sum(_DECIMAL_COMMA.fullmatch(cell) is not None for cell in filled) > _MOSTLY * len(filled):
        log.warning(f"{where}: {example[:50]!r} has a comma. For numbers write a decimal point, as in 1234.5")
    elif numeric >= _SOME * len(filled):
        log.warning(
            f"{where}: {numeric} of {len(filled)} cells in train are numbers, others are texts such as "
            f"{example[:_SHOWN]!r}. If these are missing numbers, leave the cells empty"
            f"{', or write ' + listing('data.missing', example) if len(example) <= _SHOWN else ''}"
        )
    elif distinct > _MOSTLY * len(filled):
        log.warning(
            f"{where}, and has {distinct} different texts in {len(filled)} rows of train, such as {example[:50]!r}: "
            f"other rows have other texts. Leave it out ({listing('data.ignore', name)}), or write a date as numbers"
        )


def _tell_row_numbers(file: str, name: str, lines: Sequence[int], numbers: Sequence[float]) -> None:
    """Warn of a column that numbers the rows: what it predicts of this file's rows is an accident of their order.

    Args:
        file: name for messages.
        name: of the column.
        lines: of the cells that are not empty.
        numbers: their values.
    """
    apart = {number - line for line, number in zip(lines, numbers, strict=True)}
    if len(numbers) >= _FEW and len(apart) == 1:
        log.warning(
            f"{file}: the column {name!r} numbers the rows. Leave it out: {listing('data.ignore', name)}, unless the "
            "order of rows matters"
        )


def listing(key: str, name: str) -> str:
    """Return the override that lists one text. Others than a plain word are quoted, for the shell and for Hydra."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name) and name.lower() not in _VALUES:
        return f"{key}=[{name}]"
    word = f"{key}=[{quoted(name)}]"
    # within double quotes a shell reads these four
    return shlex.quote(word) if re.search(r'["$`\\]', word) else f'"{word}"'


def _number(file: str, line: int, name: str, cell: str) -> float:
    value = finite_number(cell)
    if value is None:
        named = f", or train with {listing('data.missing', cell)}" if len(cell) <= _SHOWN else ""
        raise DataError(
            f"{file} line {line}: {cell[:_SHOWN]!r} in the column {name!r} is no finite number of float32. "
            f"{NUMBER_RULE} Leave the cell empty if it is missing{named}; if the column holds categories, "
            f"{listing('data.categorical', name)}."
        )
    return value
