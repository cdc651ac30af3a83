"""Labelled texts in a file of the package: four columns (split, label, concept, text), tabs between, xz."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from effbench.data.reference import Reference
from effbench.data.shipped import read_shipped

SPLITS = ("train", "val", "test")


class Row(NamedTuple):
    """A text with its split, its label (a class name), and the concept that no two splits share."""

    split: str
    label: str
    concept: str
    text: str


@dataclass(frozen=True)
class LabelledSplit:
    """The texts of a split with their labels, which are indices into the classes."""

    texts: list[str]
    labels: list[int]


@dataclass(frozen=True)
class LabelledTexts:
    """Three splits of labelled texts.

    Attributes:
        train, val, test: the splits.
        classes: class names in label order.
        facts: source, version, licence, and sha256 of the file.
        reference: what a simple method reaches on test; None if unknown.
    """

    train: LabelledSplit
    val: LabelledSplit
    test: LabelledSplit
    classes: tuple[str, ...]
    facts: dict[str, str]
    reference: Reference | None = None


def packed(text: str) -> bytes:
    """Compress a text. Other versions of liblzma may return other bytes for it."""
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def unpacked(path: Path) -> tuple[str, str]:
    """Return a file's text and the sha256 (hex) of its bytes. Raises DataError if the file is missing or damaged."""
    content, sha256 = read_shipped(path)
    return lzma.decompress(content).decode(), sha256


def table(rows: Iterable[Row]) -> str:
    """Return the rows as lines."""
    return "".join("\t".join(row) + "\n" for row in rows)


def read_table(
    path: Path, classes: tuple[str, ...], facts: dict[str, str], reference: Reference | None = None
) -> LabelledTexts:
    """Read a table.

    Args:
        path: file of the package.
        classes: class names in label order.
        facts: what else to state beside the file's sha256.
        reference: what a simple method reaches on test; None if unknown.

    Raises:
        DataError: the file is missing or damaged.
    """
    text, sha256 = unpacked(path)
    label_of = {name: label for label, name in enumerate(classes)}
    splits = {which: LabelledSplit([], []) for which in SPLITS}
    for line in text.removesuffix("\n").split("\n"):  # not splitlines(): that divides at further characters
        row = Row(*line.split("\t"))
        splits[row.split].texts.append(row.text)
        splits[row.split].labels.append(label_of[row.label])
    return LabelledTexts(**splits, classes=classes, facts={**facts, "sha256": sha256}, reference=reference)
