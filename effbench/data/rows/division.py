"""Draw the rows of a table into splits: from each class, rows with equal features together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from effbench.data.rows.columns import Row
from effbench.data.rules import RULES, compared
from effbench.data.splits import counts_to_draw, stratified, without_last_of_a_class
from effbench.data.table_files import finite_number
from effbench.data.target_columns import Target, TargetColumns, strata, tell_conflicts
from effbench.errors import DataError
from effbench.escaping import for_terminal

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Division:
    """How rows are divided.

    Attributes:
        fractions: split -> part of the rows, in the order in which they are drawn.
        seed: of the draws.
        together: rows with equal features are drawn into one split.
        rules: see effbench/data/rules.py.
    """

    fractions: Mapping[str, float]
    seed: int
    together: bool
    rules: int

    def parts(
        self, path: Path, rows: Sequence[Row], names: Sequence[str], labels: Tensor, columns: TargetColumns
    ) -> dict[str, Tensor]:
        """Return split -> places of its rows, int64, ascending.

        Args:
            path: of the table, for messages.
            rows: lines and cells.
            names: columns that become features.
            labels: targets of the rows.
            columns: how they were read.

        Raises:
            DataError: a wanted split has no rows, because equal ones stay together.
        """
        groups = _groups(rows, names, self.rules)
        tell_conflicts(path.name, _described(rows, groups, columns), "row", columns.kind)
        if self.together:
            _tell_repeated(path, groups)
        else:
            groups = torch.arange(len(rows))
        parts = _divided(strata(labels), groups, self.fractions, self.seed, self.rules)
        _check_parts(path, parts, groups, self.fractions, columns.kind == "class")
        return parts


def _groups(rows: Sequence[Row], names: Sequence[str], rules: int) -> Tensor:
    """Return int64 (N,), the number of each row's group, in the order of their first rows; equal rows share one.

    Numbers are compared as such: 1 and 1.0 become the same feature.

    Args:
        rows: lines and cells.
        names: columns that become features.
        rules: see effbench/data/rules.py.
    """
    numbers: dict[tuple[object, ...], int] = {}
    found = []
    for _, row in rows:
        cells = [row[name].strip() for name in names]
        values = tuple(compared(cell, rules) if (number := finite_number(cell)) is None else number for cell in cells)
        found.append(numbers.setdefault(values, len(numbers)))
    return torch.tensor(found)


def _described(rows: Sequence[Row], groups: Tensor, columns: TargetColumns) -> Iterator[tuple[int, int, Target]]:
    """Yield (group, line, target) of each row."""
    for (line, row), group in zip(rows, groups.tolist(), strict=True):
        yield group, line, columns.of(row)


def _tell_repeated(path: Path, groups: Tensor) -> None:
    if (different := int(groups.max()) + 1) < len(groups):
        log.info(
            f"{path.name}: {len(groups) - different:,} of {len(groups):,} rows repeat the features of another; equal "
            "rows are kept in one split (data.equal_rows_together)"
        )


def _divided(
    labels: Tensor, groups: Tensor, fractions: Mapping[str, float], seed: int, rules: int
) -> dict[str, Tensor]:
    """Return split -> indices (int64, ascending).

    Args:
        labels: int64 (N,), classes; each fraction is of the groups of a class, at least one if it can.
        groups: int64 (N,), number of each row's group, in the order of their first rows. The class of a group is that
            of its first row, but no class has all of its rows outside of train.
        fractions: split -> part.
        seed: of the draws.
        rules: see effbench/data/rules.py.
    """
    first = torch.full((int(groups.max()) + 1,), len(groups)).scatter_reduce_(
        0, groups, torch.arange(len(groups)), "amin"
    )
    drawn = _drawn(labels[first], fractions, seed, rules)
    if rules >= RULES:
        held = torch.cat([some for which, some in drawn.items() if which != "train"] or [first[:0]])
        kept = without_last_of_a_class(labels, groups, held)
        back = held[~torch.isin(held, kept)]
        drawn = {which: some[~torch.isin(some, back)] for which, some in drawn.items()}
        drawn["train"] = torch.cat([drawn["train"], back])
        drawn = {which: some for which, some in drawn.items() if len(some)}
    return {which: torch.isin(groups, some).nonzero().flatten() for which, some in drawn.items()}


def _check_parts(
    path: Path, parts: Mapping[str, Tensor], groups: Tensor, fractions: Mapping[str, float], by_class: bool
) -> None:
    """Refuse a table of too few different rows for the splits that are wanted, and warn of one of too few rows.

    Args:
        path: of the table.
        parts: split -> rows.
        groups: number of each row's group.
        fractions: split -> part that is wanted.
        by_class: parts are drawn from each class.

    Raises:
        DataError: a wanted split has no rows, because equal ones stay together.
    """
    absent = [which for which, fraction in fractions.items() if fraction and which not in parts]
    if not absent:
        return
    different = int(groups.max()) + 1
    what = f"{for_terminal(str(path))} has too few rows to draw {' and '.join(absent)} from"
    if different < len(groups):
        raise DataError(
            f"{what}: {different} different ones, and equal rows stay in one split. Draw each row by itself "
            "(data.equal_rows_together=false), or give more rows."
        )
    off = " ".join(f"data.{which}_fraction=0" for which in absent)
    off += " early_stopping=off checkpoint.save_top_k=0" * ("val" in absent)
    kept = "one of each class stays" if by_class else "one stays"
    log.warning(f"{what}: {len(groups)}, and {kept} in train. Give more rows, or go without: {off}")


def _drawn(labels: Tensor, fractions: Mapping[str, float], seed: int, rules: int) -> dict[str, Tensor]:
    """Return split -> indices (int64, ascending) of labels.

    Args:
        labels: int64 (N,), classes; each fraction is of a class, at least one if it can.
        fractions: split -> part.
        seed: of the draws.
        rules: see effbench/data/rules.py.
    """
    left = torch.arange(len(labels))
    parts: dict[str, Tensor] = {}
    whole = torch.bincount(labels).tolist()
    for which, fraction in fractions.items():
        if not fraction:
            continue
        there = torch.bincount(labels[left], minlength=len(whole)).tolist()
        counts = counts_to_draw(whole, there, fraction, seed, every_class=rules < RULES)
        drawn = stratified(labels[left], counts, seed)
        parts[which] = left[drawn]
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[drawn] = False
        left = left[keep]
    return {"train": left, **{which: rows for which, rows in parts.items() if len(rows)}}
