"""Images in folders, one folder a class: decoded once into a memory-mapped cache."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effbench.data.folder_files import existing_folder, printable
from effbench.data.folder_layout import ALL, SPLITS, Scan, findings, scan
from effbench.data.folder_rows import Rows, arrange, divided_subfolders, labelled, measured_split
from effbench.data.images.bad_files import without_bad
from effbench.data.images.decoded_cache import CacheRecord
from effbench.data.images.folder_cache import decoded
from effbench.data.images.folder_options import White, check_arguments, given_levels
from effbench.data.images.image_files import IMAGES
from effbench.data.images.modality import square_images
from effbench.data.images.opening import MAX_PIXELS
from effbench.data.other_source import reads_other_source, same_place
from effbench.data.preview import previewed
from effbench.data.splits import Split, Splits
from effbench.errors import ConfigError, DataError, unknown_name
from effbench.units import counted

log = logging.getLogger(__name__)

NEEDS = ("image_folder", "*.jpg")  # for the message about a missing data.root


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

    A cache is valid while the files' names, sizes and times, the split, image_size and max_pixels stay the same, and,
    for files at another place, the content of some of them. Its tensors are read-only: writing to them crashes the
    process.

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
    check_arguments(image_size, val_fraction, test_fraction, split_seed, on_corrupt, max_pixels)
    levels = given_levels(white_level)
    folder = existing_folder(root, *NEEDS)
    found = scan(folder, IMAGES)
    # Rows are arranged by names before any file is opened: a wrong layout is refused at once.
    rows = arrange(folder, found, val_fraction, test_fraction, split_seed)
    pixels, record = decoded(rows, image_size, max_pixels, cache_dir, levels)
    kept = without_bad(rows, record.bad, on_corrupt)
    warnings = _log_findings(found, record, rows)
    return _splits(kept, pixels, found, record, warnings)


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of image_folder, with defaults for those that a user's data file omits."""
    return {name: options.get(name, word.default) for name, word in inspect.signature(image_folder).parameters.items()}


def split_sizes(options: dict[str, Any]) -> dict[str, int] | None:
    """Return the number of files in each split of image_folder(**options); None if it would refuse the folder."""
    options = with_defaults(options)
    checked = ("image_size", "val_fraction", "test_fraction", "split_seed", "on_corrupt", "max_pixels")
    check_arguments(*(options[key] for key in checked))
    try:
        folder = existing_folder(options["root"], *NEEDS)
        drawn = (options["val_fraction"], options["test_fraction"], options["split_seed"])
        return arrange(folder, scan(folder, IMAGES), *drawn).counts
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
    check_arguments(image_size, 0, 0, 0, on_corrupt, max_pixels)
    folder = existing_folder(root, *NEEDS)
    found = scan(folder, IMAGES, need_train=False)  # new test images alone will do
    name = measured_split(folder, found, which)
    rows = labelled(folder, found.splits[name], name, classes)
    pixels, record = decoded(rows, image_size, max_pixels, cache_dir, given_levels(white_level))
    kept = without_bad(rows, record.bad, on_corrupt)
    _log_findings(found, record, rows)
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
    root = options["root"]
    if not isinstance(root, str):  # image_folder reports what is wrong with it
        return None
    if same_place(before.get("root"), root):
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


def _log_findings(found: Scan, record: CacheRecord, rows: Rows) -> list[str]:
    """Log what was skipped, scaled, cropped or duplicated, with counts, at every load; return the warnings.

    Args:
        found: the files.
        record: of the decoded ones.
        rows: their splits.
    """
    for note in findings(found):
        log.info(f"image_folder: {note}")
    if levels := record.levels:
        # 4095 is 12 bits; a white level that the user gave may be none of 2^n - 1.
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
    warnings = [*found.warnings, *record.copies.lines()]
    if record.long:
        warnings.append(
            f"{record.long} of {len(rows.files)} pictures are more than twice as long as they are wide: the model sees "
            "their central square alone, less than half of them. Cut them into squares if the rest matters"
        )
    if apart := divided_subfolders(rows, found):
        warnings.append(
            f"{counted(len(apart), 'subfolder')} of a class, such as {apart[0]}, went into several splits: where its "
            "pictures belong together (one patient, one video), val and test flatter. Then divide them yourself into "
            "train/CLASS, val/CLASS and test/CLASS"
        )
    for line in warnings:
        log.warning(f"image_folder: {line}")
    return warnings


def _splits(rows: Rows, pixels: Tensor, found: Scan, record: CacheRecord, warnings: Sequence[str]) -> Splits:
    """Return the dataset, with the findings that are worth a place in the run's record.

    Args:
        rows: those that could be decoded.
        pixels: of the rows.
        found: the files.
        record: of the decoded ones.
        warnings: for the run's record.
    """
    counts = list(rows.counts.values())
    parts = zip(torch.split(pixels, counts), torch.split(rows.labels, counts), strict=True)
    # slices of the memory map: nothing is read here
    splits = {which: Split(*part) for which, part in zip(rows.counts, parts, strict=True)}
    # Without `examples`: they are names of files, which the record of a run does not need.
    copies = {key: getattr(record.copies, key) for key in ("within", "across", "two_classes")}
    facts = {
        "undecodable_files": len(record.bad),
        "skipped_files": dict(found.skipped),
        "copies": {key: count for key, count in copies.items() if count},
        "white_level": [record.levels.integers, record.levels.floats] if record.levels else None,
    }
    facts = {key: value for key, value in facts.items() if value}  # without findings, the record says nothing
    name = f"image_folder/{printable(rows.root.resolve().name)}"  # distinguishes folders in a report
    drawn = tuple(which for which in splits if which not in found.splits and which != "train")
    return Splits(
        name, splits["train"], splits.get("val"), splits.get("test"), rows.classes, record.sha256, facts, drawn=drawn,
        warnings=tuple(warnings),
    )  # fmt: skip
