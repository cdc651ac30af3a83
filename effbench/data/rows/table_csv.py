"""Tables of your own: columns of numbers and of categories, and a column with the class."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from effbench.config.options import BOOL
from effbench.data.modality import Settings
from effbench.data.option_checks import check_division, check_name_lists, check_names, given_file
from effbench.data.other_source import check_split, keep_options, measured_whole, reads_other_source, same_place
from effbench.data.preview import previewed
from effbench.data.rows.columns import Columns, Missing, Row, listing
from effbench.data.rows.division import Division
from effbench.data.rows.modality import ROWS, Rows
from effbench.data.rules import RULES, check_rules
from effbench.data.splits import Split, Splits, digest
from effbench.data.table_files import ENCODING, column_names, each_row, files_of, read_columns
from effbench.data.target_columns import (
    LABEL_COLUMN,
    SEPARATOR,
    SHOWN,
    Target,
    TargetColumns,
    holds_numbers,
    tell_coarse,
    tell_unmeasured,
)
from effbench.errors import ConfigError, DataError, EffbenchError, unknown_name
from effbench.escaping import for_terminal
from effbench.units import counted

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

FEATURES = 16  # of a table that cannot be read
RULE = (  # for users of an exported file
    "`columns` in order; cells are stripped, and those of `missing` count as empty. Of a column with `categories`: for "
    "each of them one feature, 1 where the cell is that category and 0 elsewhere, also in an empty or unknown cell. Of "
    "others: the number, or `fill` where the cell is empty, minus `centre` (absent: 0), computed in float64; with "
    "`tells_missing` one more feature, 1 where the cell is empty and 0 elsewhere"
)
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
        self._missing = Missing(settings.data.get("missing") or ())
        return self

    @classmethod
    def check_same(cls, recorded: Mapping[str, Any], data: Splits) -> None:
        """Check also that the columns become the same features."""
        if data.facts.get("columns") != recorded.get("columns"):
            raise ConfigError(
                "the table's columns are not the run's: its train split has other columns, categories or means. Leave "
                "data.split_seed and the fractions as in training; data.file=FILE, another file, is read with the "
                "run's columns."
            )
        super().check_same(recorded, data)

    def read_files(
        self, paths: Sequence[str], options: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield {'file': path, 'row': number from 1} for each row. A file with a bad cell is omitted entirely."""
        for path in files_of(paths):
            try:
                features = self._features(path)
            except DataError as error:
                problems.append(str(error))
                continue
            for first, chunk in zip(range(0, len(features), ROWS), features.split(ROWS), strict=True):
                yield [{"file": str(path), "row": first + place + 1} for place in range(len(chunk))], chunk

    def given(self, inputs: Any) -> Iterator[Tensor]:
        """Accept a table with the run's columns, a folder or list of such, or features (F,) or (N, F)."""
        if (paths := self.paths_in(inputs)) is None:
            yield from super().given(inputs)
            return
        for path in files_of(paths):
            yield self._features(path)

    def export_facts(self) -> dict[str, Any]:
        about = super().export_facts()
        about["preprocessing"] |= {"columns": self.columns.record(), "missing": self._missing.named, "rule": RULE}
        return about

    def _features(self, path: Path) -> Tensor:
        """Return the features of a file's rows, float32 (N, F). Raises DataError if a cell is bad, or it has no row."""
        name, names = for_terminal(str(path)), [column.name for column in self.columns.columns]
        rows = self._missing.emptied(read_columns(path, names, self._encoding), names)
        if not rows:
            raise DataError(f"{name} holds no rows.")
        features, odd = self.columns.encode(name, rows)
        _tell_odd(name, odd)
        return features


def _preview(options: Mapping[str, Any], settings: Settings) -> Tables:
    """Return the modality of the file's features; without a readable file, of as many as usual."""
    try:
        width = table_csv(**options).shape[0]
    except (EffbenchError, TypeError):  # the dataset's function refuses the options with a message
        width = FEATURES
    return Tables.blank((width,), settings)


@previewed(_preview)
def table_csv(
    file: str | None = None,
    label_column: str | Sequence[str] = LABEL_COLUMN,
    categorical: Sequence[str] = (),
    ignore: Sequence[str] = (),
    encoding: str = ENCODING,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    targets: str = "class",
    label_separator: str = SEPARATOR,
    equal_rows_together: bool = True,
    missing: Sequence[str | float] = (),
    rules: int = RULES,
) -> Splits:
    """Read a table; each row is a sample.

    A column of which most cells are numbers becomes one feature; a missing number becomes the mean of train, and one
    more feature says so. Any other column becomes one feature a category of train; another category is 0 in all.

    Args:
        file: .csv, .tsv, .jsonl or .parquet.
        label_column, targets, label_separator: see TargetColumns.
        categorical: columns of categories whose cells are numbers.
        ignore: columns to leave out.
        encoding: of a text file.
        val_fraction, test_fraction: parts of the rows of each class.
        split_seed: seed of the draw.
        equal_rows_together: rows with equal features are drawn into one split.
        missing: cells of features that count as empty, such as NA.
        rules: see effbench/data/rules.py.

    Raises:
        ConfigError: an option is missing or out of range, or names a column that the file lacks.
        DataError: the file cannot be read, a cell is no number in a column of numbers, or there is one class.
    """
    check_division(split_seed, val_fraction=val_fraction, test_fraction=test_fraction)
    check_names(encoding=encoding)
    columns = TargetColumns(targets, label_column, label_separator)
    check_name_lists(categorical=categorical, ignore=ignore)
    BOOL.check(equal_rows_together, "data.equal_rows_together")
    check_rules(rules)
    absent = Missing(missing)
    path = given_file("file", file)
    if path is None:
        raise ConfigError("data=table_csv needs data.file=FILE, a .csv, .tsv, .jsonl or .parquet file.")
    names = _features(path, encoding, columns.columns, categorical, ignore)
    whole = read_columns(path, [*names, *columns.columns], encoding)
    rows = absent.emptied(whole, names)
    if absent.named and rows == whole:
        log.warning(f"{path.name}: no cell of a feature is one of data.missing={absent.named}")
    labels, classes = _labels(path, rows, columns)
    division = Division({"test": test_fraction, "val": val_fraction}, split_seed, equal_rows_together, rules)
    parts = division.parts(path, rows, names, labels, columns)
    if columns.kind != "values":
        tell_unmeasured(path.name, {which: labels[places] for which, places in parts.items()}, classes, "row")
    train = [rows[place] for place in parts["train"].tolist()]
    features = Columns.fit(for_terminal(str(path)), train, names, categorical, rules)
    return _splits(path, rows, labels, classes, parts, features)


@reads_other_source(table_csv)
def other_table(
    before: Mapping[str, Any], now: Mapping[str, Any], recorded: Mapping[str, Any], which: str
) -> tuple[str, Split] | None:
    """Read a table other than the run's for evaluation, with the run's columns (categories and means) and classes.

    Args:
        before: options of table_csv in training.
        now: its options for the evaluation.
        recorded: `data` of the run's summary.
        which: '' or test, the name that it has.

    Returns:
        (name, all rows of the file); None if it is the run's file.
    """
    path = given_file("file", now.get("file"))
    if path is None or same_place(before.get("file"), now.get("file")):
        return None
    check_split(which)
    keep_options(before, now, ("categorical", "ignore"))
    targets = TargetColumns(
        now.get("targets", "class"), now.get("label_column", LABEL_COLUMN), now.get("label_separator", SEPARATOR)
    )
    columns, absent = Columns.restored(recorded.get("columns")), Missing(now.get("missing") or ())
    names = [column.name for column in columns.columns]
    encoding = now.get("encoding", ENCODING)
    check_names(encoding=encoding)
    keys = dict.fromkeys(targets.columns, "data.label_column=NAME")
    rows = absent.emptied(list(each_row(path, [*names, *targets.columns], encoding, keys)), names)
    found = _targets(path, rows, targets)
    if _are_the_runs(len(rows), before, now, recorded):
        return None
    name = measured_whole(which)
    log.info(
        f"note: data.file is not the run's file: all {len(rows):,} rows of it are evaluated, with the categories and "
        "means of the run's train split"
    )
    targets.check_same("data.file", recorded["classes"])
    labels = targets.encode("data.file", found, [str(each) for each in recorded["classes"]])
    features, odd = columns.encode(for_terminal(str(path)), rows)
    _tell_odd("data.file", odd)
    return name, Split(features, labels)


def _are_the_runs(count: int, before: Mapping[str, Any], now: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Return True if a file at another path holds the run's own rows: most of them were trained on.

    Args:
        count: rows of the file.
        before: options of table_csv in training.
        now: its options for the evaluation.
        recorded: `data` of the run's summary.
    """
    if sum((recorded.get("counts") or {}).values()) != count:  # known without another reading
        return False
    try:
        return bool(table_csv(**{**before, "file": now["file"]}).sha256 == recorded["sha256"])
    except ConfigError:  # the run's options or draws do not suit this file
        return False


def _features(
    path: Path, encoding: str, labels: Sequence[str], categorical: Sequence[str], ignore: Sequence[str]
) -> list[str]:
    """Return the columns that become features."""
    found = column_names(path, encoding)
    file = for_terminal(str(path))
    if not found:
        raise DataError(f"{file} is empty: its first line must name the columns.")
    for key, wanted in (("label_column", labels), ("categorical", categorical), ("ignore", ignore)):
        for name in wanted:
            if name not in found:
                why = unknown_name(f"data.{key}: the column", str(name), found)
                raise ConfigError(f"{why} These are the names in the first line of {file}.")
    names = [name for name in found if name not in labels and name not in ignore]
    if not names:
        listed = ", ".join(map(repr, labels))
        raise DataError(f"{file} has no column beside {listed} to predict it from.")
    return names


def _targets(path: Path, rows: Sequence[Row], columns: TargetColumns) -> list[Target]:
    """Return the targets of rows. Raises DataError if there is no row, or one has no target."""
    name = for_terminal(str(path))
    if not rows:
        raise DataError(f"{name} holds no rows: it has a line with the names of columns alone.")
    if problems := [(line, why) for line, row in rows if (why := columns.problem(row))]:
        line, why = problems[0]
        count = counted(len(problems), "such line")
        raise DataError(f"{name} line {line}: {why} ({count}).{columns.rule} Correct or remove what has no target.")
    return [columns.of(row) for _, row in rows]


def _labels(path: Path, rows: Sequence[Row], columns: TargetColumns) -> tuple[Tensor, Sequence[str]]:
    """Return the targets as a task takes them, and the names of classes, labels or numbers."""
    name, found = for_terminal(str(path)), _targets(path, rows, columns)
    names = columns.names(name, found)
    if columns.kind == "class" and len(names) > len(rows) / 2:
        many = f"{name} has {len(names)} classes in {len(rows)} rows: the column {columns.columns[0]!r}"
        if holds_numbers(names, len(rows)):
            raise DataError(f"{many} seems to hold numbers. For numbers write data.targets=values task=regression.")
        raise DataError(
            f"{many} has hardly two rows of a class, such as {names[0]!r}, and a class needs several to learn it "
            "from. Name another column (data.label_column), or give more rows."
        )
    labels = columns.encode(name, found, names)
    if columns.kind == "values":
        tell_coarse(path.name, names, labels, found)
    return labels, names


def _splits(
    path: Path,
    rows: Sequence[Row],
    labels: Tensor,
    classes: Sequence[str],
    parts: Mapping[str, Tensor],
    columns: Columns,
) -> Splits:
    name = for_terminal(str(path))
    if len(columns.features) > LARGEST:
        widest = max(columns.columns, key=lambda column: len(column.features))
        raise DataError(
            f"{name} gives {len(columns.features)} features, {len(widest.features)} of them from the column "
            f"{widest.name!r}: texts or numbers of rows are no categories. Leave it out: "
            f"{listing('data.ignore', widest.name)}."
        )
    made, odd = dict[str, Split](), dict[str, dict[str, int]]()
    for which, places in parts.items():
        features, odd[which] = columns.encode(name, [rows[place] for place in places.tolist()])
        made[which] = Split(features, labels[places])
        _tell_odd(f"{path.name} {which}", odd[which])
    constant = [
        feature
        for feature, spread in zip(columns.features, made["train"].inputs.std(0, correction=0).tolist(), strict=True)
        if spread == 0
    ]
    if constant:
        have = "feature has" if len(constant) == 1 else "features have"
        more = " …" * (len(constant) > SHOWN)
        log.info(f"{path.name}: {len(constant)} {have} one value in train: {', '.join(constant[:SHOWN])}{more}")
    facts = {"file": path.name, "features": columns.features, "columns": columns.record(), "missing": odd}
    sha256 = digest(*(part for split in made.values() for part in (split.inputs, split.labels)))
    return Splits(
        path.name, made["train"], made.get("val"), made.get("test"), tuple(classes), sha256, facts, modality=Tables,
        drawn=tuple(which for which in made if which != "train"),
    )  # fmt: skip


def _tell_odd(name: str, odd: Mapping[str, int]) -> None:
    if odd:
        listed = ", ".join(f"{column} {count}" for column, count in list(odd.items())[:8])
        log.info(f"{name}: missing or unknown cells: {listed}")
