"""Whether a breast mass is malignant, from 30 measurements of its cell nuclei (UCI; CC BY 4.0): 569 rows, 2 classes."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from effbench.data.modality import Settings
from effbench.data.option_checks import check_division
from effbench.data.preview import previewed
from effbench.data.rows.modality import Rows
from effbench.data.shipped import read_shipped
from effbench.data.splits import Split, Splits, hold_out

FILE = Path(__file__).parent / "embedded" / "breast_cancer.csv.xz"
CLASSES = ("malignant", "benign")
FEATURES = 30


def _preview(options: Mapping[str, Any], settings: Settings) -> Rows:
    del options
    return Rows.blank((FEATURES,), settings)


@previewed(_preview)
def breast_cancer(val_fraction: float = 0.1, test_fraction: float = 0.2, split_seed: int = 0) -> Splits:
    """Return the table.

    Args:
        val_fraction, test_fraction: parts of the rows of each class; val is drawn from what the test leaves.
        split_seed: seed of the draws.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
        DataError: the file is missing or damaged.
    """
    check_division(split_seed, val_fraction=val_fraction, test_fraction=test_fraction)
    content, sha256 = read_shipped(FILE)
    header, *lines = lzma.decompress(content).decode().splitlines()
    cells = [line.split(",") for line in lines]
    rows = torch.tensor([[float(cell) for cell in row[:-1]] for row in cells])
    train = Split(rows, torch.tensor([CLASSES.index(row[-1]) for row in cells]))
    test = val = None
    if test_fraction:
        train, test = hold_out(train, test_fraction, split_seed)
    if val_fraction:
        train, val = hold_out(train, val_fraction, split_seed)
    facts = {"features": header.split(",")[:-1], "licence": "CC BY 4.0"}
    drawn = tuple(which for which, split in (("val", val), ("test", test)) if split is not None)
    return Splits("breast_cancer", train, val, test, CLASSES, sha256, facts, modality=Rows, drawn=drawn)
