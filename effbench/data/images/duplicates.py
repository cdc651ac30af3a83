"""Find exact copies among image files by hash: within a split, across splits, under two classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effbench.data.images.decoding import on_all_cores


@dataclass(frozen=True)
class Copies:
    """Numbers of copies.

    Attributes:
        within: files with a copy earlier in the same split.
        across: files of val and test with a copy in an earlier split.
        two_classes: images that appear under several classes.
        examples: kind -> 'one file = another'.
    """

    within: int = 0
    across: int = 0
    two_classes: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return warnings about the copies."""
        said = {
            "two_classes": f"exact copies under two classes or more: {self.two_classes} pictures",
            "across": f"exact copies in val or test of files in another split, where results flatter: {self.across}",
            "within": f"exact copies of files in the same split: {self.within}",
        }
        return [f"{text} (such as {self.examples[name]})" for name, text in said.items() if getattr(self, name)]


def find_copies(
    files: Sequence[Path], names: Sequence[str], labels: Sequence[int], splits: Sequence[str], left_out: set[int]
) -> Copies:
    """Find copies; only files of equal size are read.

    Args:
        files: N paths.
        names: names for messages, one a file.
        labels: class numbers, one a file.
        splits: split names, one a file.
        left_out: rows that are not images.
    """
    counts = {"within": 0, "across": 0, "two_classes": 0}
    examples: dict[str, str] = {}

    def note(kind: str, one: int, other: int) -> None:
        counts[kind] += 1
        examples.setdefault(kind, f"{names[one]} = {names[other]}")

    for rows in _same(files, left_out):  # in the order train, val, test: a copy counts for the later split
        # split -> its first file with these bytes
        first_of: dict[str, int] = {}
        for row in rows:
            if splits[row] in first_of:
                note("within", first_of[splits[row]], row)
            elif first_of:
                note("across", rows[0], row)
            first_of.setdefault(splits[row], row)
        # once for each image, however many copies it has: the number is of images
        if other := next((row for row in rows if labels[row] != labels[rows[0]]), None):
            note("two_classes", rows[0], other)
    return Copies(**counts, examples=examples)


def _same(files: Sequence[Path], left_out: set[int]) -> Iterator[list[int]]:
    """Yield groups of rows with equal bytes, each in the order of rows."""
    by_size: dict[int, list[int]] = {}
    for row, path in enumerate(files):
        if row not in left_out:
            by_size.setdefault(path.stat().st_size, []).append(row)  # files of unequal size cannot be copies
    candidates = [row for rows in by_size.values() if len(rows) > 1 for row in rows]
    by_content: dict[bytes, list[int]] = {}
    for row, digest in zip(candidates, on_all_cores(_digest, (files[row] for row in candidates)), strict=True):
        by_content.setdefault(digest, []).append(row)
    return (sorted(rows) for rows in by_content.values() if len(rows) > 1)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        # blake2b: as safe from collisions as sha256, and faster in software
        return hashlib.file_digest(file, hashlib.blake2b).digest()
