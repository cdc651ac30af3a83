"""Rows of a folder of images: the label and the split of every file, from names only."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from effbench.data.images.folder_layout import ALL, SPLITS, ClassFiles, Scan, differing_in_case, listed
from effbench.data.images.image_files import printable, subfolders
from effbench.data.splits import Split, hold_out
from effbench.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Files to decode, in the order of the cache: train, val, test, so that a split is one slice.

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


def arrange(root: Path, scanned: Scan, val_fraction: float, test_fraction: float, split_seed: int) -> Rows:
    """Assign a label and a split to every file, from names only: no file is opened.

    Args:
        root: the given folder.
        scanned: its images.
        val_fraction: part of the whole for validation.
        test_fraction: part of the whole for the test.
        split_seed: determines the draws.
    """
    found = scanned.splits
    # Any split will do: `scan` has refused splits with different classes.
    classes = tuple(found[next(iter(found))])
    if len(classes) < 2:
        # The root may be a folder around the class folders, as in many archives: name the one inside.
        only = next(iter(subfolders(scanned.root)), root)
        inside = len(subfolders(only)) if ALL in found else 0
        wraps = f" If '{classes[0]}' only wraps the class folders, give data.root={printable(only)}."
        raise DataError(
            f"data.root={printable(root)} holds one class, '{classes[0]}'; telling classes apart takes two or more. "
            f"Name the folder that holds the class folders, or that holds train/.{wraps if inside > 1 else ''}"
        )

    # Images are not decoded yet: a split holds positions in `files` in their place, int64 (N,).
    files: list[Path] = []
    splits: dict[str, Split | None] = {}
    for which, members in found.items():
        labels = [label for label, paths in enumerate(members.values()) for _ in paths]
        splits[which] = Split(torch.arange(len(files), len(files) + len(labels)), torch.tensor(labels))
        files += [path for paths in members.values() for path in paths]
    whole, train = splits.pop(ALL, None), splits.get("train")
    if whole is not None:
        # The test first: another val_fraction then leaves the test images the same, and results comparable.
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
    _check_every_class(rows, f"data.val_fraction={val_fraction:g}, data.test_fraction={test_fraction:g}")
    return rows


def _held_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split | None]:
    # hold_out takes at least one image of each class: at 0, nothing must be taken.
    return hold_out(split, fraction, seed) if fraction > 0 else (split, None)


def _check_every_class(rows: Rows, fractions: str) -> None:
    """Refuse a class that is missing in a split."""
    for which, missing in _missing_classes(rows).items():
        if missing:
            total = int((rows.labels == missing[0]).sum())
            raise DataError(
                f"data.root={printable(rows.root)}: class '{rows.classes[missing[0]]}' has {total} images, too few "
                f"for one in each of {', '.join(rows.counts)}: none is left for {which} ({fractions}; "
                f"{len(missing)} such classes). Add images, remove the class, or set a fraction to 0."
            )


def _missing_classes(rows: Rows) -> dict[str, list[int]]:
    """Return for each split the labels without any image."""
    parts = torch.split(rows.labels, list(rows.counts.values()))
    seen = [torch.bincount(labels, minlength=len(rows.classes)) for labels in parts]
    return {which: (count == 0).nonzero().flatten().tolist() for which, count in zip(rows.counts, seen, strict=True)}


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


def without_bad(rows: Rows, bad: Mapping[int, str], on_corrupt: str) -> Rows:
    """Return the rows that could be decoded.

    Args:
        rows: all rows.
        bad: row that could not be decoded -> reason.
        on_corrupt: 'refuse' or 'skip'.

    Raises:
        DataError: there are bad rows, and on_corrupt is 'refuse'; or a class or split has no image left.
    """
    if not bad:
        return rows
    # Some reasons, not all: in a folder of another kind of files, every file is bad.
    share = f"{len(bad)} of {len(rows.files)} files cannot be decoded"
    shown = list(bad.values())[:5]
    more = [f"... and {len(bad) - len(shown)} more"] if len(bad) > len(shown) else []
    if on_corrupt == "refuse":
        listing = "".join(f"\n  {line}" for line in shown + more)
        raise DataError(
            f"data.root={printable(rows.root)}: {share}:{listing}\n"
            "Mend or remove them, or go on without them: data.on_corrupt=skip."
        )
    log.info(f"image_folder: skipped: {share}: {' | '.join(shown + more)}")

    left = [row for row in range(len(rows.files)) if row not in bad]
    counts, start = {}, 0
    for which, count in rows.counts.items():
        counts[which] = sum(start <= row < start + count for row in left)
        start += count
    kept = replace(rows, files=[rows.files[row] for row in left], labels=rows.labels[left], counts=counts)

    # val and test may lose a class, but train may not, and no split may be empty
    if missing := _missing_classes(kept).get("train"):
        names = listed(kept.classes[label] for label in missing)
        raise DataError(f"data.root={printable(kept.root)}: no image to train on is left of the classes {names}.")
    if empty := [which for which, count in counts.items() if count == 0]:
        raise DataError(f"data.root={printable(kept.root)}: no image is left in {', '.join(empty)}.")
    return kept
