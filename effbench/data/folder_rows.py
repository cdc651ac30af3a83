"""Rows of a folder with classes: the label and the split of every file, from names only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from effbench.data.folder_files import printable, subfolders
from effbench.data.folder_layout import ALL, SPLITS, ClassFiles, Scan, differing_in_case, listed
from effbench.data.splits import Split, hold_out
from effbench.errors import DataError
from effbench.units import counted


@dataclass(frozen=True)
class Rows:
    """Files in the order train, val, test, so that a split is one slice.

    Attributes:
        root: folder that holds the files.
        classes: names in label order.
        files: N paths below root.
        labels: int64 (N,).
        counts: split -> number of rows, in order.
    """

    root: Path
    classes: tuple[str, ...]
    files: list[Path]
    labels: Tensor
    counts: dict[str, int]

    def relative(self, row: int) -> str:
        return printable(os.fspath(self.files[row])[len(os.fspath(self.root)) :].lstrip(os.sep))


def class_names(root: Path, scanned: Scan) -> tuple[str, ...]:
    """Return the classes in label order. Raises DataError if there is one.

    Args:
        root: the given folder.
        scanned: its files.
    """
    # Any split will do: `scan` has refused splits with different classes.
    classes = tuple(scanned.splits[next(iter(scanned.splits))])
    if len(classes) < 2:
        # The root may be a folder around the class folders, as in many archives: name the one inside.
        only = next(iter(subfolders(scanned.root)), root)
        inside = len(subfolders(only)) if ALL in scanned.splits else 0
        wraps = f" If '{classes[0]}' only wraps the class folders, give data.root={printable(only)}."
        raise DataError(
            f"data.root={printable(root)} holds one class, '{classes[0]}'; telling classes apart takes two or more. "
            f"Name the folder that holds the class folders, or that holds train/.{wraps if inside > 1 else ''}"
        )
    return classes


def arrange(root: Path, scanned: Scan, val_fraction: float, test_fraction: float, split_seed: int) -> Rows:
    """Assign a label and a split to every file, from names only: no file is opened.

    Args:
        root: the given folder.
        scanned: its files.
        val_fraction: part of the whole for validation.
        test_fraction: part of the whole for the test.
        split_seed: determines the draws.
    """
    found = scanned.splits
    classes = class_names(root, scanned)

    # Files are not read yet: a split holds positions in `files` in their place, int64 (N,).
    files: list[Path] = []
    splits: dict[str, Split | None] = {}
    for which, members in found.items():
        labels = [label for label, paths in enumerate(members.values()) for _ in paths]
        splits[which] = Split(torch.arange(len(files), len(files) + len(labels)), torch.tensor(labels))
        files += [path for paths in members.values() for path in paths]
    whole, train = splits.pop(ALL, None), splits.get("train")
    if whole is not None:
        # The test first: another val_fraction then leaves the test samples the same, and results comparable.
        rest, splits["test"] = _held_out(whole, test_fraction, split_seed)
        # both fractions are of the whole, and this one is drawn from what the test has left
        splits["train"], splits["val"] = _held_out(rest, val_fraction / (1 - test_fraction), split_seed)
    elif train is not None and "val" not in splits:
        splits["train"], splits["val"] = _held_out(train, val_fraction, split_seed)

    # In the order train, val, test, whatever order the folders had: a split is then one slice of the cache.
    parts = {which: split for which in SPLITS if (split := splits.get(which)) is not None}
    order = torch.cat([split.inputs for split in parts.values()]).tolist()
    all_labels = torch.cat([split.labels for split in parts.values()])
    counts = {which: len(split) for which, split in parts.items()}
    rows = Rows(root, classes, [files[row] for row in order], all_labels, counts)
    check_every_class(rows, scanned, f"data.val_fraction={val_fraction:g}, data.test_fraction={test_fraction:g}")
    return rows


def _held_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split | None]:
    # hold_out takes at least one sample of each class: at 0, nothing must be taken.
    return hold_out(split, fraction, seed) if fraction > 0 else (split, None)


def check_every_class(rows: Rows, scanned: Scan, fractions: str) -> None:
    """Refuse a class that is missing in a split.

    Args:
        rows: labels and counts of the splits.
        scanned: the files.
        fractions: options that decided the draws, for the message.
    """
    noun = scanned.kind.noun
    # splits that are folders have every class: only those divided among them can lack one
    divided = [which for which in rows.counts if which == "train" or which not in scanned.splits]
    for which, missing in missing_classes(rows).items():
        if missing:
            parts = dict(zip(rows.counts, torch.split(rows.labels, list(rows.counts.values())), strict=True))
            total = sum(int((parts[each] == missing[0]).sum()) for each in divided)
            such = "1 such class" if len(missing) == 1 else f"{len(missing)} such classes"
            raise DataError(
                f"data.root={printable(rows.root)}: class '{rows.classes[missing[0]]}' has {counted(total, noun)}, too "
                f"few for one in each of {', '.join(divided)}: none is left for {which} ({fractions}; {such}). "
                f"{_remedy(noun, total, divided)}"
            )


def _remedy(noun: str, total: int, divided: Sequence[str]) -> str:
    """Return what helps a class that is missing in a split.

    Args:
        noun: of a file.
        total: files of the class.
        divided: splits that they are divided among.
    """
    lacking = len(divided) - total
    if lacking > 1:  # without one of the splits it would still be missing in another
        return f"Add {counted(lacking, noun)}, or remove the class."
    if lacking == 1:
        article = "an" if noun[0] in "aeiou" else "a"
        return f"Add {article} {noun}, remove the class, or set data.{divided[-1]}_fraction=0."
    return f"Add other {noun}s, or remove the class."  # equal ones stay in one split


def missing_classes(rows: Rows) -> dict[str, list[int]]:
    """Return for each split the labels without any file."""
    parts = torch.split(rows.labels, list(rows.counts.values()))
    seen = [torch.bincount(labels, minlength=len(rows.classes)) for labels in parts]
    return {which: (count == 0).nonzero().flatten().tolist() for which, count in zip(rows.counts, seen, strict=True)}


def divided_subfolders(rows: Rows, scanned: Scan) -> list[str]:
    """Return the subfolders of classes, below the given folder, whose files are in several splits.

    Args:
        rows: splits of the files.
        scanned: the files.
    """
    group_of: dict[str, str] = {}  # folder of a file -> the subfolder of its class that it is in
    for members in scanned.splits.values():
        for paths in members.values():
            folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 - a Path for each name is slow
            base = os.path.commonpath(folders)
            for folder in folders - {base}:
                group_of[folder] = os.path.join(base, folder[len(base) :].lstrip(os.sep).partition(os.sep)[0])  # noqa: PTH118
    if not group_of:
        return []
    seen: dict[str, set[str]] = {}
    splits = (which for which, count in rows.counts.items() for _ in range(count))
    for path, which in zip(rows.files, splits, strict=True):
        if (group := group_of.get(os.path.dirname(path))) is not None:  # noqa: PTH120
            seen.setdefault(group, set()).add(which)
    apart = sorted(group for group, found in seen.items() if len(found) > 1)
    return [printable(group[len(os.fspath(rows.root)) :].lstrip(os.sep)) for group in apart]


def labelled(root: Path, found: ClassFiles, which: str, classes: Sequence[str]) -> Rows:
    """Return the rows of one split, with labels by the position of class names in `classes`.

    Args:
        root: the given folder.
        found: class -> files.
        which: name of the split.
        classes: the run's classes in label order.

    Raises:
        DataError: a class is none of the run's.
    """
    label_of = {name: label for label, name in enumerate(classes)}
    if unknown := sorted(found.keys() - label_of.keys()):
        raise DataError(
            f"data.root={printable(root)}: {listed(unknown)} is no class of the run's: {listed(classes, 10)}. "
            f"The class folders must bear the run's names.{differing_in_case(unknown, classes)}"
        )
    # The position in the run's classes decides, not in this folder's: it may lack some.
    files = [path for members in found.values() for path in members]
    labels = torch.tensor([label_of[name] for name, members in found.items() for _ in members])
    return Rows(root, tuple(classes), files, labels, {which: len(files)})


def measured_split(root: Path, found: Scan, which: str | None) -> str:
    """Return the name of the split of another folder to evaluate.

    Args:
        root: the given folder.
        found: its files.
        which: name of a split; None for test, or the only one.

    Raises:
        DataError: there is no such split.
    """
    if ALL in found.splits:
        if which not in (None, "test"):  # the run's split names mean nothing in a folder without splits
            raise DataError(
                f"data.root={printable(root)} is another folder than the run's, without splits: it is measured whole. "
                f"Leave out split={which}, or name {printable(root)}/{which}/CLASS."
            )
        return ALL
    only = next(iter(found.splits)) if len(found.splits) == 1 else "test"
    name = which or only
    if name not in found.splits:
        there = ", ".join(found.splits)
        raise DataError(f"data.root={printable(root)} holds {there} and no {name}: choose one with split=NAME.")
    return name
