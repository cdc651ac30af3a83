"""Tables of your own: columns of numbers and of categories, and a column with the class."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from effbench.data.modality import Settings
from effbench.data.option_checks import check_division, check_name_lists, check_names, given_file
from effbench.data.rows.columns import Column, Columns, Row
from effbench.data.rows.modality import ROWS, Rows
from effbench.data.splits import Split, Splits, digest, stratified
from effbench.data.table_files import ENCODING, column_names, files_of, natural_order, read_columns
from effbench.errors import ConfigError, DataError, unknown_name
from effbench.escaping import for_terminal

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

LABEL_COLUMN = "label"
TARGETS = ("class", "values")
LARGEST = 1000  # features; more come from a column of names or numbers that is taken for categories


class Tables(Rows):
    """Feature rows that come from the columns of a table. `predict` reads tables with the same columns."""

    columns: Columns

    @classmethod
    def fit(cls, data: Splits, settings: Settings) -> Self:
        return super().fit(data, settings)._of(data.facts, settings)

    @classmethod
    def restored(cls, data: Mapping[str, Any], settings: Settings) -> Self:
        return super().restored(data, settings)._of(data, settings)

    def _of(self, facts: Mapping[str, Any], settings: Settings) -> Self:
        self.columns = Columns.restored(facts.get("columns"))
        self._encoding = str(settings.data.get("encoding") or ENCODING)
        return self

    @classmethod
    def check_same(cls, recorded: Mapping[str, Any], data: Splits) -> None:
        """Check also that the columns become the same features."""
        if data.facts.get("columns") != recorded.get("columns"):
            raise ConfigError(
                "the table's columns are not the run's: its train split has other columns, categories or means. Leave "
                "data.split_seed and the fractions as in training; `effbench predict` takes other tables."
            )
        super().check_same(recorded, data)

    def read_files(
        self, paths: Sequence[str], options: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield {'file': path, 'row': number from 1} for each row. A file with a bad cell is omitted entirely."""
        for path in files_of(paths):
            try:
                rows = read_columns(path, [column.name for column in self.columns.columns], self._encoding)
                features, odd = self.columns.encode(for_terminal(str(path)), rows)
            except DataError as error:
                problems.append(str(error))
                continue
            _tell_odd(for_terminal(str(path)), odd)
            for first, chunk in zip(range(0, len(features), ROWS), features.split(ROWS), strict=True):
                yield [{"file": str(path), "row": first + place + 1} for place in range(len(chunk))], chunk


def table_csv(
    file: str | None = None,
    label_column: str = LABEL_COLUMN,
    categorical: Sequence[str] = (),
    ignore: Sequence[str] = (),
    encoding: str = ENCODING,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    targets: str = "class",
) -> Splits:
    """Read a table; each row is a sample.

    A column of which most cells are numbers becomes one feature; a missing number becomes the mean of train, and one
    more feature says so. Any other column becomes one feature a category of train; another category is 0 in all.

    Args:
        file: .csv, .tsv, .jsonl or .parquet.
        label_column: column with the class, or with the number to predict.
        categorical: columns of categories whose cells are numbers.
        ignore: columns to leave out.
        encoding: of a text file.
        val_fraction, test_fraction: parts of the rows of each class.
        split_seed: seed of the draw.
        targets: 'class': the label column holds classes; 'values': numbers, for task=regression.

    Raises:
        ConfigError: an option is missing or out of range, or names a column that the file lacks.
        DataError: the file cannot be read, a cell is no number in a column of numbers, or there is one class.
    """
    check_division(split_seed, val_fraction=val_fraction, test_fraction=test_fraction)
    if targets not in TARGETS:
        raise ConfigError(unknown_name("data.targets", str(targets), TARGETS))
    check_names(label_column=label_column, encoding=encoding)
    check_name_lists(categorical=categorical, ignore=ignore)
    path = given_file("file", file)
    if path is None:
        raise ConfigError("data=table_csv needs data.file=FILE, a .csv, .tsv, .jsonl or .parquet file.")
    names = _features(path, encoding, label_column, categorical, ignore)
    rows = read_columns(path, [*names, label_column], encoding)
    labels, classes = (_values if targets == "values" else _labels)(path, rows, label_column)
    # numbers have no classes to draw from in proportion
    strata = torch.zeros(len(labels), dtype=torch.int64) if targets == "values" else labels
    parts = _divided(strata, {"test": test_fraction, "val": val_fraction}, split_seed)
    return _splits(path, rows, labels, classes, parts, names, categorical)


def _features(
    path: Path, encoding: str, label_column: str, categorical: Sequence[str], ignore: Sequence[str]
) -> list[str]:
    """Return the columns that become features."""
    found = column_names(path, encoding)
    for key, wanted in (("label_column", [label_column]), ("categorical", categorical), ("ignore", ignore)):
        for name in wanted:
            if name not in found:
                raise ConfigError(unknown_name(f"data.{key}: the column", str(name), found))
    names = [name for name in found if name != label_column and name not in ignore]
    if not names:
        raise DataError(f"{for_terminal(str(path))} has no column beside {label_column!r} to predict it from.")
    return names


def _labels(path: Path, rows: Sequence[Row], column: str) -> tuple[Tensor, list[str]]:
    name = for_terminal(str(path))
    cells = [(line, row[column].strip()) for line, row in rows]
    if empty := [line for line, cell in cells if not cell]:
        raise DataError(f"{name} line {empty[0]}: the label is empty ({len(empty)} such lines). Remove those lines.")
    classes = sorted({cell for _, cell in cells}, key=natural_order)
    if len(classes) < 2:
        raise DataError(f"{name} has {len(classes)} classes in the column {column!r}: classification needs two.")
    if len(classes) > len(rows) / 2:
        raise DataError(
            f"{name} has {len(classes)} classes in {len(rows)} rows: the column {column!r} seems to hold numbers. For "
            "numbers write data.targets=values task=regression loss=mse."
        )
    numbers = {label: number for number, label in enumerate(classes)}
    return torch.tensor([numbers[cell] for _, cell in cells]), classes


def _values(path: Path, rows: Sequence[Row], column: str) -> tuple[Tensor, list[str]]:
    """Return the label column as float32 (N,), and its name as the only class."""
    numbers, odd = Columns([Column(column)]).encode(for_terminal(str(path)), rows)
    if odd:
        raise DataError(f"{for_terminal(str(path))}: {odd[column]} rows have no number in the column {column!r}.")
    return numbers.squeeze(1), [column]


def _divided(labels: Tensor, fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Return split -> indices (int64, ascending); each fraction is of all rows of a class, at least one if it can."""
    left = torch.arange(len(labels))
    parts: dict[str, Tensor] = {}
    whole = torch.bincount(labels).tolist()
    for which, fraction in fractions.items():
        if not fraction:
            continue
        there = torch.bincount(labels[left], minlength=len(whole)).tolist()
        per_class = {
            label: min(max(round(count * fraction), 1), rest - 1) if rest > 1 else 0
            for label, (count, rest) in enumerate(zip(whole, there, strict=True))
        }
        drawn = stratified(labels[left], per_class, seed)
        parts[which] = left[drawn]
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[drawn] = False
        left = left[keep]
    return {"train": left, **{which: rows for which, rows in parts.items() if len(rows)}}


def _splits(
    path: Path,
    rows: Sequence[Row],
    labels: Tensor,
    classes: Sequence[str],
    parts: Mapping[str, Tensor],
    names: Sequence[str],
    categorical: Sequence[str],
) -> Splits:
    name = for_terminal(str(path))
    of_split = {which: [rows[place] for place in places.tolist()] for which, places in parts.items()}
    columns = Columns.fit(name, of_split["train"], names, categorical)
    if len(columns.features) > LARGEST:
        widest = max(columns.columns, key=lambda column: len(column.features))
        raise DataError(
            f"{name} gives {len(columns.features)} features, {len(widest.features)} of them from the column "
            f"{widest.name!r}: texts or numbers of rows are no categories. Leave it out: data.ignore=[{widest.name}]."
        )
    made, odd = dict[str, Split](), dict[str, dict[str, int]]()
    for which, places in parts.items():
        features, odd[which] = columns.encode(name, of_split[which])
        made[which] = Split(features, labels[places])
        _tell_odd(f"{path.name} {which}", odd[which])
    constant = [
        feature
        for feature, spread in zip(columns.features, made["train"].inputs.std(0, correction=0).tolist(), strict=True)
        if spread == 0
    ]
    if constant:
        log.info(f"{path.name}: {len(constant)} features have one value in train: {', '.join(constant[:5])}")
    facts = {"file": str(path), "features": columns.features, "columns": columns.record(), "missing": odd}
    sha256 = digest(*(part for split in made.values() for part in (split.inputs, split.labels)))
    return Splits(
        path.name, made["train"], made.get("val"), made.get("test"), tuple(classes), sha256, facts, modality=Tables
    )


def _tell_odd(name: str, odd: Mapping[str, int]) -> None:
    if odd:
        listed = ", ".join(f"{column} {count}" for column, count in list(odd.items())[:8])
        log.info(f"{name}: missing or unknown cells: {listed}")
