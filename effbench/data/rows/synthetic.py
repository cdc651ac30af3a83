"""Random feature rows of any number and width, for throughput and smoke runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from effbench.data.modality import Settings
from effbench.data.preview import previewed
from effbench.data.rows.modality import Rows
from effbench.data.splits import Split, Splits, digest
from effbench.data.synthetic_targets import targets_by_class
from effbench.errors import ConfigError

FEATURES = 16


def _preview(options: Mapping[str, Any], settings: Settings) -> Rows:
    width = options.get("num_features", FEATURES)
    usable = isinstance(width, int) and not isinstance(width, bool) and width >= 1  # the dataset reports errors
    return Rows.blank((width if usable else FEATURES,), settings)


@previewed(_preview)
def synthetic_rows(
    num_train: int = 1024,
    num_val: int = 256,
    num_test: int = 256,
    num_features: int = FEATURES,
    num_classes: int = 4,
    noise: float = 1.0,
    split_seed: int = 0,
    targets: str = "class",
) -> Splits:
    """Make rows around one random prototype a class; the features have different scales and offsets.

    Args:
        num_train, num_val, num_test: number of rows.
        num_features: F.
        num_classes: number of classes, at least 2; they take turns.
        noise: standard deviation around the prototypes, whose own is 1; >= 0.
        split_seed: draws prototypes and noise.
        targets: of class k: 'class' k; 'labels' k and the next one; 'values' cos(2 pi (k - j) / num_classes) at
            column j.

    Raises:
        ConfigError: a number is out of range.
    """
    if min(num_train, num_val, num_test, num_features, num_classes - 1) < 1 or not noise >= 0:
        raise ConfigError(
            "data.num_train, num_val, num_test and num_features must be at least 1, num_classes at least 2 and noise "
            f"at least 0; got {num_train}, {num_val}, {num_test}, {num_features}, {num_classes} and {noise}."
        )
    generator = torch.Generator().manual_seed(split_seed)
    prototypes = torch.randn(num_classes, num_features, generator=generator)
    scale = 10.0 ** torch.randint(-2, 3, (num_features,), generator=generator)
    offset = torch.randn(num_features, generator=generator) * scale
    of_class = targets_by_class(targets, num_classes)

    def draw(count: int) -> Split:
        labels = torch.arange(count) % num_classes
        rows = prototypes[labels] + noise * torch.randn(count, num_features, generator=generator)
        return Split(rows * scale + offset, labels if of_class is None else of_class[labels])

    train, val, test = draw(num_train), draw(num_val), draw(num_test)
    classes = tuple(f"class {label}" for label in range(num_classes))
    facts = {"features": [f"x{column}" for column in range(num_features)]}
    return Splits("synthetic_rows", train, val, test, classes, digest(train.inputs, train.labels), facts, Rows)
