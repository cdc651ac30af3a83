"""Images in folders, one folder a class: decoded once into a memory-mapped cache."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effbench.cache_dir import cache_home, expanded
from effbench.config.options import POSITIVE
from effbench.data.images.cache_budget import sweep
from effbench.data.images.decoded_cache import CacheRecord, Rows, build_cache, read_cache, serves
from effbench.data.images.decoding import DECODER_VERSION
from effbench.data.images.folder_layout import ALL, SPLITS, ClassFiles, Scan, counted, differing_in_case, listed, scan
from effbench.data.images.image_files import SUFFIXES, printable, subfolders
from effbench.data.images.modality import square_images
from effbench.data.images.opening import MAX_PIXELS
from effbench.data.images.white_levels import Levels
from effbench.data.option_checks import check_counts, check_division, given_folder
from effbench.data.other_source import reads_other_source
from effbench.data.preview import previewed
from effbench.data.splits import Split, Splits, hold_out
from effbench.errors import ConfigError, DataError, unknown_name

log = logging.getLogger(__name__)

White = float | Sequence[float] | None


@previewed(square_images(3, 224), slow=True)
def image_folder(
    root: str | Path | None = None,
    image_size: int = 224,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    cache_dir: str | Path | None = None,
    on_corrupt: str = "refuse",
    max_pixels: int = MAX_PIXELS,
    white_level: White = None,
) -> Splits:
    """Read a folder of images: memory-mapped uint8 (N, 3, image_size, image_size).

    A class is a folder; its images may be in deeper folders. Splits are found by the usual names (Training, test_set,
    valid, dev; see folder_layout.py). Hidden names are skipped; files without an image suffix, folders of no split and
    exact copies are reported with counts.

    A cache is valid while the files' names, sizes and times, the split, image_size and max_pixels stay the same. Its
    tensors are read-only: writing to them crashes the process.

    Args:
        root: ROOT/{train,val,test}/CLASS/..., where a missing val is held out of train and a missing test is None; or
            ROOT/CLASS/..., divided by the fractions.
        image_size: pixels a side.
        val_fraction: part of the whole for validation, drawn from each class; 0 for none.
        test_fraction: likewise for the test.
        split_seed: determines the draws.
        cache_dir: None for $XDG_CACHE_HOME/effbench, or ~/.cache/effbench.
        on_corrupt: 'refuse' lists files that cannot be decoded, and stops; 'skip' omits and counts them.
        max_pixels: larger files count as corrupt.
        white_level: value that becomes 255 in images of more than 8 bits, or two, for integers and floats; None for the
            smallest of 8, 10, 12, 14, 16, ... bits that holds the train split's largest value.

    Raises:
        ConfigError: an argument is wrong; the message names the key.
        DataError: files are missing or damaged; the message names the path.
    """
    _check_arguments(image_size, val_fraction, test_fraction, split_seed, on_corrupt, max_pixels)
    levels = _levels(white_level)
    folder = _existing(root)
    found = scan(folder)
    # Rows are arranged by names before any file is opened: a wrong layout is refused at once.
    rows = arrange(folder, found, val_fraction, test_fraction, split_seed)
    pixels, record = _decoded(rows, image_size, max_pixels, cache_dir, levels)
    kept = _without_bad(rows, record, on_corrupt)
    _log_findings(found, record)
    return _splits(kept, pixels, found, record)


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of image_folder, with defaults for those that a user's data file omits."""
    return {name: options.get(name, word.default) for name, word in inspect.signature(image_folder).parameters.items()}


def split_sizes(options: dict[str, Any]) -> dict[str, int] | None:
    """Return the number of files in each split of image_folder(**options); None if it would refuse the folder."""
    options = with_defaults(options)
    checked = ("image_size", "val_fraction", "test_fraction", "split_seed", "on_corrupt", "max_pixels")
    _check_arguments(*(options[key] for key in checked))
    try:
        folder = _existing(options["root"])
        drawn = (options["val_fraction"], options["test_fraction"], options["split_seed"])
        return arrange(folder, scan(folder), *drawn).counts
    except DataError:
        return None


def one_split(
    which: str | None,
    classes: Sequence[str],
    root: str | Path | None = None,
    image_size: int = 224,
    cache_dir: str | Path | None = None,
    on_corrupt: str = "refuse",
    max_pixels: int = MAX_PIXELS,
    white_level: White = None,
    **_: Any,
) -> tuple[str, Split, str]:
    """Read one split of a folder for evaluation, with the labels of a trained run.

    The folder may lack classes, but must not have others.

    Args:
        which: split to read if there are several; None for test, or the only one. ROOT/CLASS is read whole.
        classes: class names in label order.
        root: folder of images.
        image_size: as in `image_folder`.
        cache_dir: likewise.
        on_corrupt: likewise.
        max_pixels: likewise.
        white_level: likewise.
        _: options that divide the folder, which do not apply.

    Returns:
        (name of the split, its images, sha256).
    """
    _check_arguments(image_size, 0, 0, 0, on_corrupt, max_pixels)
    folder = _existing(root)
    found = scan(folder, need_train=False)
    name = _measured(folder, found, which)
    rows = _labelled(folder, found.splits[name], name, classes)
    pixels, record = _decoded(rows, image_size, max_pixels, cache_dir, _levels(white_level))
    kept = _without_bad(rows, record, on_corrupt)
    _log_findings(found, record)
    if len(found.splits[name]) < len(classes):
        log.info(f"note: {printable(folder)} holds {len(found.splits[name])} of the run's {len(classes)} classes")
    return ("test" if name == ALL else name), Split(pixels, kept.labels), record.sha256


@reads_other_source(image_folder)
def other_folder(
    before: Mapping[str, Any], now: Mapping[str, Any], recorded: Mapping[str, Any], which: str
) -> tuple[str, Split] | None:
    """Read one split of another folder than the run's, for evaluation.

    Args:
        before: options of image_folder in training.
        now: its options for the evaluation.
        recorded: `data` of the run's summary.
        which: split to read; '' for the test, or the only one.

    Returns:
        (name of the split, its images); None if the folder holds the run's images (by sha256), perhaps moved.
    """
    options = with_defaults(now)
    root, old_root = options["root"], before.get("root")
    if not isinstance(root, str):  # image_folder reports what is wrong with it
        return None
    if isinstance(old_root, str) and os.path.realpath(expanded(old_root)) == os.path.realpath(expanded(root)):
        return None
    # names are counted first: they are quick to read; with on_corrupt=skip the run may have fewer images than files
    counts = split_sizes(options)
    may_be_moved = counts is not None and (options["on_corrupt"] == "skip" or counts == recorded.get("counts"))
    if may_be_moved and image_folder(**options).sha256 == recorded["sha256"]:
        return None
    size = recorded["shape"][-1]
    if options["image_size"] != size:
        raise ConfigError(f"data.image_size={options['image_size']}, the run's model takes {size}.")
    if which not in ("", *SPLITS):
        raise ConfigError(unknown_name("split", which, SPLITS))
    name, split, _ = one_split(which or None, recorded["classes"], **options)
    log.info(f"note: {root} is not the run's dataset: {len(split)} of its images are evaluated")
    return name, split


def _measured(root: Path, found: Scan, which: str | None) -> str:
    """Return the name of the split to evaluate."""
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


def _labelled(root: Path, found: ClassFiles, which: str, classes: Sequence[str]) -> Rows:
    """Return rows with labels by the position of class names in `classes`."""
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


def _decoded(
    rows: Rows, image_size: int, max_pixels: int, cache_dir: str | Path | None, levels: Levels | None
) -> tuple[Tensor, CacheRecord]:
    """Return the pixels of the rows and their record, from the cache or decoded into it."""
    folder = given_folder("cache_dir", cache_dir) or cache_home()

    def place(chosen: Levels | None) -> Path:
        return folder / f"image_folder-{fingerprint(rows, image_size, max_pixels, chosen)[:32]}.npy"

    # Levels that the user gives and the automatic ones often agree: then one cache serves both.
    key = None if levels is None or serves(place(None), levels) else levels
    cache = place(key)
    sweep(folder)  # before the space is counted
    loaded = read_cache(cache, rows, image_size)
    if loaded is None:
        build_cache(cache, rows, image_size, max_pixels, key)
        loaded = read_cache(cache, rows, image_size, made_here=True)
        if loaded is None or cache != place(key):  # taken again: files may change while they are read
            raise DataError(f"data.root={printable(rows.root)} changed while it was decoded. Start again.")
    return loaded


def _log_findings(found: Scan, record: CacheRecord) -> None:
    """Log what was skipped, scaled or duplicated, with counts, at every load."""
    for note in found.notes:
        log.info(f"image_folder: {note}")
    if found.skipped:
        total = sum(found.skipped.values())
        log.info(
            f"image_folder: skipped {total} files that are no images by their suffix: {counted(found.skipped)} "
            f"(read are {' '.join(SUFFIXES)})"
        )
    if levels := record.levels:
        bits = math.log2(levels.integers + 1)
        whole_bits = f" ({bits:.0f} bits)" if bits.is_integer() else ""
        shown = {
            "integers": f"integers from 0 to {levels.integers:.0f}{whole_bits}",
            "floats": f"floats from 0 to {levels.floats:g}",
        }
        scaled = " and ".join(shown[kind] for kind in shown if kind in record.deep)
        above = f"; in {record.clipped} of them larger values, which become 255 too" if record.clipped else ""
        deep = sum(record.deep.values())
        log.info(f"image_folder: {deep} pictures hold more than 8 bits: {scaled} become 0 to 255{above}")
    for line in record.copies.lines():
        log.info(f"image_folder: {line}")


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
    classes = tuple(found[next(iter(found))])
    if len(classes) < 2:
        only = next(iter(subfolders(scanned.root)), root)
        inside = len(subfolders(only)) if ALL in found else 0
        wraps = f" If '{classes[0]}' only wraps the class folders, give data.root={printable(only)}."
        raise DataError(
            f"data.root={printable(root)} holds one class, '{classes[0]}'; telling classes apart takes two or more. "
            f"Name the folder that holds the class folders, or that holds train/.{wraps if inside > 1 else ''}"
        )

    # Images are not decoded yet: a split holds positions in `files` in their place.
    files: list[Path] = []
    splits: dict[str, Split | None] = {}
    for which, members in found.items():
        labels = [label for label, paths in enumerate(members.values()) for _ in paths]
        splits[which] = Split(torch.arange(len(files), len(files) + len(labels)), torch.tensor(labels))
        files += [path for paths in members.values() for path in paths]
    whole, train = splits.pop(ALL, None), splits.get("train")
    if whole is not None:
        rest, splits["test"] = _held_out(whole, test_fraction, split_seed)
        # both fractions are of the whole, and this one is drawn from what the test has left
        splits["train"], splits["val"] = _held_out(rest, val_fraction / (1 - test_fraction), split_seed)
    elif train is not None and "val" not in splits:
        splits["train"], splits["val"] = _held_out(train, val_fraction, split_seed)

    parts = {which: split for which in SPLITS if (split := splits.get(which)) is not None}
    order = torch.cat([split.inputs for split in parts.values()]).tolist()
    all_labels = torch.cat([split.labels for split in parts.values()])
    counts = {which: len(split) for which, split in parts.items()}
    rows = Rows(root, classes, [files[row] for row in order], all_labels, counts)
    _check_every_class(rows, f"data.val_fraction={val_fraction:g}, data.test_fraction={test_fraction:g}")
    return rows


def _held_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split | None]:
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


def fingerprint(rows: Rows, image_size: int, max_pixels: int, levels: Levels | None) -> str:
    """Return the sha256 of everything that determines the cache.

    Args:
        rows: files, of which name, size, time and row are hashed.
        image_size: side of the images in pixels.
        max_pixels: limit of a file's size.
        levels: white levels of images of more than 8 bits; None if they are chosen automatically.
    """
    scaling = None if levels is None else [levels.integers, levels.floats]
    # Size and time stand for the content, as in make and rsync: hashing all files would take as long as reading them.
    sha = hashlib.sha256(json.dumps([DECODER_VERSION, image_size, max_pixels, scaling, rows.counts]).encode())
    for row, (path, label) in enumerate(zip(rows.files, rows.labels.tolist(), strict=True)):
        try:
            status = path.stat()
        except OSError as error:  # also for a broken link
            raise DataError(f"{printable(path)} cannot be read: {error.strerror}. Mend or remove it.") from error
        sha.update(f"{label} {rows.relative(row)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def _check_arguments(
    image_size: int, val_fraction: float, test_fraction: float, split_seed: int, on_corrupt: str, max_pixels: int
) -> None:
    check_counts("pixel", image_size=image_size, max_pixels=max_pixels)
    check_division(split_seed, val_fraction=val_fraction, test_fraction=test_fraction)
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            "data.val_fraction + data.test_fraction must be below 1, to leave images to train on; "
            f"got {val_fraction} + {test_fraction}."
        )
    if on_corrupt not in ("refuse", "skip"):
        raise ConfigError(unknown_name("data.on_corrupt", on_corrupt, ["refuse", "skip"]))


def _levels(white_level: White) -> Levels | None:
    if white_level is None:
        return None
    values = list(white_level) if isinstance(white_level, Sequence) else [white_level] * 2
    if len(values) != 2 or not all(map(POSITIVE.holds, values)):
        raise ConfigError(
            f"data.white_level must be a number above 0, or two: for integers and for floats; got {white_level!r}. "
            "For 12 bits write 4095."
        )
    return Levels(float(values[0]), float(values[1]))


def _existing(root: str | Path | None) -> Path:
    folder = given_folder("root", root)
    if folder is None:
        raise ConfigError(
            "data=image_folder needs data.root=DIR, a folder of DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg."
        )
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.root={printable(folder)} {what}. Name the folder that holds the class folders.")
    return folder


def _without_bad(rows: Rows, record: CacheRecord, on_corrupt: str) -> Rows:
    """Return the rows in the cache. Raises DataError if some are missing and on_corrupt is 'refuse'."""
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
    log.info(f"image_folder: skipped: {share}: {' | '.join(shown + more)}")

    left = [row for row in range(len(rows.files)) if row not in record.bad]
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


def _splits(rows: Rows, pixels: Tensor, found: Scan, record: CacheRecord) -> Splits:
    """Return the dataset, with the findings that are worth a place in the run's record."""
    counts = list(rows.counts.values())
    parts = zip(torch.split(pixels, counts), torch.split(rows.labels, counts), strict=True)
    splits = {which: Split(*part) for which, part in zip(rows.counts, parts, strict=True)}
    # Without `examples`: they are names of files, which the record of a run does not need.
    copies = {key: getattr(record.copies, key) for key in ("within", "across", "two_classes")}
    facts = {
        "undecodable_files": len(record.bad),
        "skipped_files": dict(found.skipped),
        "copies": {key: count for key, count in copies.items() if count},
        "white_level": [record.levels.integers, record.levels.floats] if record.levels else None,
    }
    facts = {key: value for key, value in facts.items() if value}
    name = f"image_folder/{printable(rows.root.resolve().name)}"  # distinguishes folders in a report
    return Splits(name, splits["train"], splits.get("val"), splits.get("test"), rows.classes, record.sha256, facts)
