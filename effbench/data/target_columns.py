"""Targets in the columns of a table: a class, any number of labels, or numbers."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from effbench.data.rules import compared
from effbench.data.table_files import NUMBER_RULE, cell_problem, finite_number, is_coarse, natural_order, number_in
from effbench.errors import ConfigError, DataError, shown, unknown_name
from effbench.units import counted

log = logging.getLogger(__name__)

KINDS = ("class", "labels", "values")
LABEL_COLUMN, SEPARATOR = "label", ";"
SHOWN, _LETTERS = 5, 50  # labels in a message; letters of a text
_PRESENT = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}

Target = str | tuple[str, ...] | tuple[float, ...]  # a class, the labels of a sample in order, or its numbers


class TargetColumns:
    """How columns hold the targets of samples.

    Args:
        kind: 'class': one column with the class; 'labels': one column with labels and a separator between them, or
            several columns of 0 and 1; 'values': columns of numbers.
        columns: name of the column, or a list of names.
        separator: between the labels of a cell.

    Raises:
        ConfigError: an argument is of the wrong type, or kind and columns do not fit.
    """

    def __init__(self, kind: str = "class", columns: str | Sequence[str] = LABEL_COLUMN, separator: str = SEPARATOR):
        names = [columns] if isinstance(columns, str) else columns
        if not (isinstance(names, list | tuple) and names and all(isinstance(name, str) and name for name in names)):
            raise ConfigError(
                f"data.label_column must be a name, or a list of names such as [length,width]; got {shown(columns)}."
            )
        if len(set(names)) < len(names):
            raise ConfigError(f"data.label_column must name each column once; got {shown(columns)}.")
        if not isinstance(separator, str) or not separator.strip():
            raise ConfigError(f"data.label_separator must be a sign between labels, such as ';'; got {separator!r}.")
        if not isinstance(kind, str) or kind not in KINDS:
            raise ConfigError(unknown_name("data.targets", str(kind), KINDS))
        if kind == "class" and len(names) > 1:
            raise ConfigError(
                f"data.label_column must be one column for data.targets=class; got {shown(columns)}. For several "
                "labels write data.targets=labels task=multilabel, for numbers data.targets=values task=regression."
            )
        self.kind, self.columns, self.separator = kind, tuple(names), separator

    @property
    def listed(self) -> bool:
        """True if the labels of a sample are listed in one cell."""
        return self.kind == "labels" and len(self.columns) == 1

    @property
    def rule(self) -> str:
        """How to write the cells, for the end of a message: empty, or with a space in front."""
        return f" {NUMBER_RULE}" if self.kind == "values" else ""

    def problem(self, row: Mapping[str, str]) -> str | None:
        """Return why the cells of a row are no target, or None. An empty list of labels is one."""
        for column in self.columns:
            if why := cell_problem(row[column]):
                return f"the column {column!r} {why}"
        for column in () if self.listed else self.columns:
            cell = row[column].strip()
            if not cell:
                return "the label is empty" if self.kind == "class" else f"the column {column!r} is empty"
            if self.kind == "labels" and cell.lower() not in _PRESENT:
                return f"{cell[:50]!r} in the column {column!r} is not 0 or 1"
            if self.kind == "values" and finite_number(cell) is None:
                return f"{cell[:50]!r} in the column {column!r} is no finite number of float32"
        return None

    def of(self, row: Mapping[str, str]) -> Target:
        """Return the target of a row without a problem."""
        cells = [row[column].strip() for column in self.columns]
        if self.kind == "class":
            return cells[0]
        if self.kind == "values":
            return tuple(map(float, cells))
        if self.listed:
            return tuple(sorted({label.strip() for label in cells[0].split(self.separator) if label.strip()}))
        return tuple(name for name, cell in zip(self.columns, cells, strict=True) if _PRESENT[cell.lower()])

    def check_same(self, name: str, names: Sequence[str]) -> None:
        """Refuse columns of numbers that are not as many as a run's, or are in another order.

        Args:
            name: of the data, for messages.
            names: of the run's numbers, in the order of the model's outputs. Columns of other names are taken in turn.

        Raises:
            ConfigError: names the run's columns.
        """
        ordered = list(self.columns) == list(names) or set(self.columns) != set(names)
        if self.kind == "values" and not (ordered and len(self.columns) == len(names)):
            raise ConfigError(
                f"data.label_column of {name} must name {len(names)} columns in the run's order, {', '.join(names)}; "
                f"got {', '.join(self.columns)}."
            )

    def names(self, name: str, targets: Iterable[Target]) -> tuple[str, ...]:
        """Return the names of classes, labels or numbers, in the order of the model's outputs.

        Args:
            name: of the data, for messages.
            targets: of the train split.

        Raises:
            DataError: there is one class, or no label.
        """
        if self.kind == "values" or (self.kind == "labels" and not self.listed):
            return self.columns
        found = sorted(self._labels(targets), key=natural_order)
        _tell_alike(name, found)
        if self.kind == "labels" and not found:
            raise DataError(f"{name} has no labels: every cell of the column {self.columns[0]!r} is empty.")
        if self.kind == "class" and len(found) < 2:
            raise DataError(
                f"{name} has one class, {found[0]!r}: classification needs two." if found else f"{name} has no rows."
            )
        return tuple(found)

    def encode(self, name: str, targets: Sequence[Target], names: Sequence[str]) -> Tensor:
        """Return the targets as a task takes them: int64 (N,), float32 (N, K) of 0 and 1, or numbers (N,) or (N, D).

        Args:
            name: of the split, for messages.
            targets: N targets.
            names: as `names` returned them for the train split.

        Raises:
            DataError: a class or label is not in `names`.
        """
        if self.kind == "values":
            values = torch.tensor(targets, dtype=torch.float32).view(len(targets), len(names))
            return values.squeeze(1)
        numbers = {label: number for number, label in enumerate(names)}
        if unseen := sorted(self._labels(targets) - numbers.keys(), key=natural_order):
            raise DataError(
                f"{name} has the label {', '.join(map(repr, unseen[:SHOWN]))}, which train does not have. "
                f"Labels of train: {', '.join(map(repr, names[:SHOWN]))}{' …' * (len(names) > SHOWN)}."
            )
        if self.kind == "class":
            return torch.tensor([numbers[str(target)] for target in targets], dtype=torch.int64)
        found = torch.zeros(len(targets), len(names))
        for place, labels in enumerate(targets):
            found[place, [numbers[str(label)] for label in labels]] = 1
        return found

    def _labels(self, targets: Iterable[Target]) -> set[str]:
        """Return the classes or labels that occur."""
        if self.kind == "class":
            return set(map(str, targets))
        return {str(label) for labels in targets for label in labels}


def holds_numbers(classes: Sequence[str], rows: int) -> bool:
    """Return True if a column of classes seems to hold numbers to predict: most of its rows have their own number."""
    return len(classes) > rows / 2 and all(number_in(name) is not None for name in classes)


def tell_unmeasured(name: str, labels: Mapping[str, Tensor], classes: Sequence[str], unit: str) -> None:
    """Log which classes no split measures, and warn of those that train lacks.

    Args:
        name: of the data.
        labels: split -> classes int64 (N,), or 0 and 1 float (N, K).
        classes: K names.
        unit: the word for a sample.
    """
    counts = {
        which: torch.bincount(each, minlength=len(classes)) if each.dim() == 1 else each.sum(0).long()
        for which, each in labels.items()
    }
    train, total = counts["train"], torch.stack(list(counts.values())).sum(0)
    if unseen := _named(classes, train == 0):
        log.warning(f"{name}: no {unit} of train has {unseen}: a model cannot learn it. Give more {unit}s of it")
    if labels["train"].dim() > 1:
        return
    alone = train == total
    if single := int((alone & (total == 1)).sum()):
        listed, one = _listed(classes, alone & (total == 1)), single == 1
        what = f"the class {listed} has one {unit}, which is" if one else f"{single} classes have one {unit} each,"
        log.info(f"{name}: {what} in train alone, so that no split measures it{'' if one else f': {listed}'}")
    if len(labels) > 1 and (few := _named(classes, alone & (total > 1))):
        log.info(f"{name}: train alone has {few}, as there are too few different {unit}s: no split measures it")


def _named(classes: Sequence[str], which: Tensor) -> str:
    """Return 'the label 'a'' or '3 labels: 'a', 'b', 'c''; '' for none. which: bool (K,)."""
    count = int(which.sum())
    word = "the label" if count == 1 else f"{count} labels:"
    return f"{word} {_listed(classes, which)}" if count else ""


def _listed(classes: Sequence[str], which: Tensor) -> str:
    chosen = [classes[number] for number in which.nonzero().flatten().tolist()]
    return f"{', '.join(map(repr, chosen[:SHOWN]))}{' …' * (len(chosen) > SHOWN)}"


def tell_conflicts(name: str, samples: Iterable[tuple[Hashable, str | int, Target]], unit: str, kind: str) -> None:
    """Log how many samples are equal to one with another target, with an example.

    Args:
        name: of the data.
        samples: (what is compared, text or line, target) of each.
        unit: the word for a sample.
        kind: of the targets, as in TargetColumns.
    """
    first: dict[Hashable, Target] = {}
    conflicts: dict[Hashable, str] = {}
    for form, place, target in samples:
        if (other := first.setdefault(form, target)) != target and form not in conflicts:
            what = f"line {place}" if isinstance(place, int) else shown(place[:_LETTERS])
            conflicts[form] = f"{what} with {_shown_target(other)} and {_shown_target(target)}"
    if conflicts:
        count, word = len(conflicts), "values" if kind == "values" else "labels"
        level = logging.INFO if kind == "values" else logging.WARNING  # numbers that were measured differ
        log.log(
            level,
            f"{name}: {counted(count, unit)} occur{'s' * (count == 1)} with different {word}, such as "
            f"{next(iter(conflicts.values()))}: no model can answer both. Correct them, or keep one of each",
        )


def _shown_target(target: Target) -> str:
    """Return a target for a message."""
    return repr(target) if isinstance(target, str) else f"[{', '.join(map(str, target))}]"


def tell_coarse(name: str, columns: Sequence[str], labels: Tensor, targets: Sequence[Target]) -> None:
    """Warn of numbers to predict whose differences float32 does not hold.

    Args:
        name: of the data.
        columns: D names of the numbers.
        labels: float32 (N,) or (N, D), as they are trained on.
        targets: the numbers as they were read.
    """
    exact = torch.tensor(targets, dtype=torch.float64).view(len(targets), len(columns))
    for place, column in enumerate(columns):
        error = float((labels.view(exact.shape)[:, place] - exact[:, place]).abs().max())
        if is_coarse(error, float(exact[:, place].std(correction=0))):
            log.warning(
                f"{name}: float32 holds the numbers of {column!r} to within {error:.3g} only, which is much of their "
                f"differences. Subtract a number such as {float(exact[:, place].min()):.17g} from them"
            )


def _tell_alike(name: str, labels: Sequence[str]) -> None:
    """Warn of labels that look the same, such as a letter with its accent and a letter and an accent."""
    forms: dict[str, str] = {}
    for label in labels:
        if (other := forms.setdefault(compared(label), label)) != label:
            log.warning(
                f"{name}: the labels {other!a} and {label!a} differ in white space or in their Unicode form "
                "alone, and count as two. Write them the same way"
            )


def strata(targets: Tensor) -> Tensor:
    """Return int64 (N,), the groups from which splits are drawn in proportion: classes, or one group for all."""
    return torch.zeros(len(targets), dtype=torch.int64) if targets.is_floating_point() else targets
