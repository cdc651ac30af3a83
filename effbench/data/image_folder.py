"""Images in folders, one folder a class: decoded once into a memory-mapped cache, read from there ever after."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from effbench.data.decoded_cache import Record, Rows, build_cache, read_cache, say
from effbench.data.images import (
    DECODER_VERSION,
    MAX_PIXELS,
    SUFFIXES,
    images_under,
    printable,
    subfolders,
)
from effbench.data.splits import Split, Splits, hold_out
from effbench.errors import ConfigError, DataError, unknown_name
from effbench.places import cache_home, expanded

_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SPLIT_NAMES = frozenset(name for names in _SPLIT_FOLDERS.values() for name in names)
_ALL = "all"  # the one split of ROOT/CLASS/*.jpg, before it is divided
ClassFiles = dict[str, list[Path]]


def image_folder(
    root: str | Path | None = None,
    image_size: int = 224,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    cache_dir: str | Path | None = None,
    on_corrupt: str = "refuse",
    max_pixels: int = MAX_PIXELS,
) -> Splits:
    """Memory-mapped uint8 (N, 3, image_size, image_size); a class is a folder, its images may lie deeper in it.

    root: ROOT/{train,val,test}/CLASS/..., where a missing val is held out of train and a missing test is None,
    or ROOT/CLASS/..., divided by the fractions; a fraction is of the whole, drawn from each class by split_seed,
    and 0 leaves that split out. Hidden names and files without an image's suffix are passed over.
    cache_dir: null is $XDG_CACHE_HOME/effbench, or ~/.cache/effbench. A cache serves as long as the files' names,
    sizes and times, the split, image_size and max_pixels stay. Its tensors are read-only: writing to them crashes.
    on_corrupt: 'refuse' lists the files that cannot be decoded and stops; 'skip' goes on without and counts them.
    Raises ConfigError for an argument, DataError for files, each naming the key or the path.
    """
    _check_arguments(image_size, val_fraction, test_fraction, on_corrupt, max_pixels)
    rows = arrange(_existing(root), val_fraction, test_fraction, split_seed)
    key = fingerprint(rows, image_size, max_pixels)
    folder = expanded(cache_dir).absolute() if cache_dir else cache_home()
    cache = folder / f"image_folder-{key[:32]}.npy"
    loaded = read_cache(cache, rows, image_size)
    if loaded is None:
        build_cache(cache, rows, image_size, max_pixels)
        loaded = read_cache(cache, rows, image_size)
        if loaded is None or fingerprint(rows, image_size, max_pixels) != key:
            raise DataError(f"data.root={printable(rows.root)} changed while it was decoded. Start again.")
    pixels, record = loaded
    return _splits(_without_bad(rows, record, on_corrupt), pixels, record.sha256)


image_folder.takes_time = True  # type: ignore[attr-defined]  # what the config asks for is checked before


def arrange(root: Path, val_fraction: float, test_fraction: float, split_seed: int) -> Rows:
    """Every file with its label and split, from the names alone: nothing is opened."""
    found = _scan(root)
    classes = tuple(found[next(iter(found))])
    if len(classes) < 2:
        raise DataError(
            f"data.root={printable(root)} holds one class, '{classes[0]}'; telling classes apart takes two or more. "
            "Name the folder that holds the class folders, or that holds train/."
        )
    files, splits = _flat(found)
    splits = _divided(splits, val_fraction, test_fraction, split_seed)
    labels = torch.cat([split.labels for split in splits.values()])
    order = torch.cat([split.images for split in splits.values()]).tolist()
    counts = {which: len(split) for which, split in splits.items()}
    rows = Rows(root, classes, [files[row] for row in order], labels, counts)
    _check_every_class(rows, f"data.val_fraction={val_fraction:g}, data.test_fraction={test_fraction:g}")
    return rows


def fingerprint(rows: Rows, image_size: int, max_pixels: int) -> str:
    """sha256 over what decides the cache: each file's name, size, time and row, and how it is decoded."""
    sha = hashlib.sha256(json.dumps([DECODER_VERSION, image_size, max_pixels, rows.counts]).encode())
    for row, (path, label) in enumerate(zip(rows.files, rows.labels.tolist(), strict=True)):
        try:
            status = path.stat()
        except OSError as error:  # a link to nothing, too
            raise DataError(f"{printable(path)} cannot be read: {error.strerror}. Mend or remove it.") from error
        sha.update(f"{label} {rows.relative(row)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def _check_arguments(
    image_size: int, val_fraction: float, test_fraction: float, on_corrupt: str, max_pixels: int
) -> None:
    for key, pixels in (("image_size", image_size), ("max_pixels", max_pixels)):
        if pixels < 1:
            raise ConfigError(f"data.{key} must be at least 1 pixel; got {pixels}.")
    for key, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise ConfigError(f"data.{key} must be in [0, 1); got {fraction}. For 10 % write 0.1.")
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            "data.val_fraction + data.test_fraction must be below 1, to leave images to train on; "
            f"got {val_fraction} + {test_fraction}."
        )
    if on_corrupt not in ("refuse", "skip"):
        raise ConfigError(unknown_name("data.on_corrupt", on_corrupt, ["refuse", "skip"]))


def _existing(root: str | Path | None) -> Path:
    if root is None or root == "":
        raise ConfigError(
            "data=image_folder needs data.root=DIR, a folder of DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg."
        )
    if not isinstance(root, str | os.PathLike):
        raise ConfigError(f"data.root must be a folder's path, as text; got {root!r}.")
    folder = expanded(root).absolute()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.root={printable(folder)} {what}. Name the folder that holds the class folders.")
    return folder


# --- from folders to rows -------------------------------------------------------------------------------------


def _scan(root: Path) -> dict[str, ClassFiles]:
    """{split: {class: files}} of ROOT/train/CLASS; {'all': {class: files}} of ROOT/CLASS.

    'train' alone does not decide: it may be a class (beside bus and car). It is the split if it holds folders
    itself, or if every folder beside it is named like a split, too.
    """
    names = {folder.name for folder in subfolders(root)}
    if not (names and names <= _SPLIT_NAMES) and not ("train" in names and subfolders(root / "train")):
        return {_ALL: _classes_in(root)}
    if "train" not in names:
        raise DataError(f"data.root={printable(root)} holds {_listed(sorted(names))} and no train.")
    found = {which: folder for which in _SPLIT_FOLDERS if (folder := _split_folder(root, which, names))}
    splits = {which: _classes_in(folder) for which, folder in found.items()}
    _check_same_classes(root, splits)
    return splits


def _split_folder(root: Path, which: str, names: set[str]) -> Path | None:
    there = [name for name in _SPLIT_FOLDERS[which] if name in names]
    if len(there) > 1:
        raise DataError(f"data.root={printable(root)} holds {_listed(there)}: which is {which}? Keep one.")
    return root / there[0] if there else None


def _classes_in(folder: Path) -> ClassFiles:
    """{class name, printable: its files}, both sorted."""
    folders = subfolders(folder)
    if not folders:
        loose = len(images_under(folder))
        raise DataError(
            f"{printable(folder)} holds no class folders ({loose} images without a class). "
            f"Put each class's images into {printable(folder)}/CLASS/."
        )
    classes = {printable(path.name): images_under(path) for path in folders}
    if empty := [name for name, files in classes.items() if not files]:
        raise DataError(
            f"{printable(folder)} holds {len(empty)} class folders without an image ({', '.join(SUFFIXES)}): "
            f"{_listed(empty)}. Fill or remove them."
        )
    return classes


def _check_same_classes(root: Path, splits: dict[str, ClassFiles]) -> None:
    for which, classes in splits.items():
        if classes.keys() != splits["train"].keys():
            only_here = _listed(sorted(classes.keys() - splits["train"].keys()))
            only_train = _listed(sorted(splits["train"].keys() - classes.keys()))
            raise DataError(
                f"data.root={printable(root)}: train and {which} must have the same classes; "
                f"only in train: {only_train}; only in {which}: {only_here}."
            )


def _flat(found: dict[str, ClassFiles]) -> tuple[list[Path], dict[str, Split]]:
    """All files in one list, and each split as positions in it: they stand in for images still undecoded."""
    files: list[Path] = []
    splits = {}
    for which, classes in found.items():
        labels = [label for label, members in enumerate(classes.values()) for _ in members]
        splits[which] = Split(torch.arange(len(files), len(files) + len(labels)), torch.tensor(labels))
        files += [path for members in classes.values() for path in members]
    return files, splits


def _divided(splits: dict[str, Split], val_fraction: float, test_fraction: float, seed: int) -> dict[str, Split]:
    """train, val and test, in that order, as far as there are folders or fractions for them."""
    given: dict[str, Split | None] = dict(splits)
    if _ALL in splits:
        rest, given["test"] = _held_out(splits[_ALL], test_fraction, seed)
        given["train"], given["val"] = _held_out(rest, val_fraction / (1 - test_fraction), seed)
    elif "val" not in splits:
        given["train"], given["val"] = _held_out(splits["train"], val_fraction, seed)
    return {which: split for which in _SPLIT_FOLDERS if (split := given.get(which)) is not None}


def _held_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split | None]:
    return hold_out(split, fraction, seed) if fraction > 0 else (split, None)


def _check_every_class(rows: Rows, fractions: str) -> None:
    for which, missing in _missing_classes(rows).items():
        if missing:
            total = int((rows.labels == missing[0]).sum())
            raise DataError(
                f"data.root={printable(rows.root)}: class '{rows.classes[missing[0]]}' has {total} images, too few "
                f"for one in each of {', '.join(rows.counts)}: none is left for {which} ({fractions}; "
                f"{len(missing)} such classes). Add images, remove the class, or set a fraction to 0."
            )


def _missing_classes(rows: Rows) -> dict[str, list[int]]:
    """The labels that a split has no image of, for each split."""
    parts = torch.split(rows.labels, list(rows.counts.values()))
    seen = [torch.bincount(labels, minlength=len(rows.classes)) for labels in parts]
    return {which: (count == 0).nonzero().flatten().tolist() for which, count in zip(rows.counts, seen, strict=True)}


def _listed(names: Iterable[str], at_most: int = 5) -> str:
    every = [f"'{name}'" for name in names]
    more = f" and {len(every) - at_most} more" if len(every) > at_most else ""
    return (", ".join(every[:at_most]) + more) or "none"


def _without_bad(rows: Rows, record: Record, on_corrupt: str) -> Rows:
    """The rows that the cache holds; DataError if some are missing and on_corrupt is 'refuse'."""
    if not record.bad:
        return rows
    share = f"{len(record.bad)} of {len(rows.files)} files cannot be decoded"
    shown = list(record.bad.values())[:5]
    more = [f"... and {len(record.bad) - len(shown)} more"] if len(record.bad) > len(shown) else []
    if on_corrupt == "refuse":
        listing = "".join(f"\n  {line}" for line in shown + more)
        raise DataError(
            f"data.root={printable(rows.root)}: {share}:{listing}\n"
            "Mend or remove them, or go on without them: data.on_corrupt=skip."
        )
    say(f"image_folder: skipped: {share}: {' | '.join(shown + more)}")
    kept = replace(
        rows,
        files=[path for row, path in enumerate(rows.files) if row not in record.bad],
        labels=rows.labels[[row for row in range(len(rows.files)) if row not in record.bad]],
        counts=_counts_without(rows.counts, record.bad),
    )
    _check_enough_left(kept)
    return kept


def _check_enough_left(rows: Rows) -> None:
    """Skipping may take a class's last image from val or test, but not from train, and not a whole split."""
    missing = _missing_classes(rows)
    if missing["train"]:
        names = _listed(rows.classes[label] for label in missing["train"])
        raise DataError(f"data.root={printable(rows.root)}: no image to train on is left of the classes {names}.")
    if empty := [which for which, count in rows.counts.items() if count == 0]:
        raise DataError(f"data.root={printable(rows.root)}: no image is left in {', '.join(empty)}.")


def _counts_without(counts: dict[str, int], bad: dict[int, str]) -> dict[str, int]:
    left, start = {}, 0
    for which, count in counts.items():
        left[which] = count - sum(start <= row < start + count for row in bad)
        start += count
    return left


def _splits(rows: Rows, pixels: Tensor, sha256: str) -> Splits:
    counts = list(rows.counts.values())
    parts = zip(torch.split(pixels, counts), torch.split(rows.labels, counts), strict=True)
    splits = {which: Split(*part) for which, part in zip(rows.counts, parts, strict=True)}
    return Splits("image_folder", splits["train"], splits.get("val"), splits.get("test"), rows.classes, sha256)
