"""Random feature rows of any number and width, for throughput and smoke runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from effbench.config.options import AT_LEAST_2, COUNT, NON_NEGATIVE
from effbench.data.modality import Settings
from effbench.data.option_checks import check_counts, check_division, check_memory
from effbench.data.preview import previewed
from effbench.data.rows.modality import Rows
from effbench.data.splits import Split, Splits, digest
from effbench.data.synthetic_targets import targets_by_class
from effbench.summary_schema import GENERATED

FEATURES = 16


def _preview(options: Mapping[str, Any], settings: Settings) -> Rows:
    width = options.get("num_features", FEATURES)
    # An invalid value counts as the default here: `synthetic_rows` refuses it with a message.
    return Rows.blank((width if COUNT.holds(width) else FEATURES,), settings)


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
        ConfigError: an option is of the wrong type or out of range.
    """
    check_counts(num_train=num_train, num_val=num_val, num_test=num_test, num_features=num_features)
    AT_LEAST_2.check(num_classes, "data.num_classes")
    NON_NEGATIVE.check(noise, "data.noise", remedy="1 is as large as the differences between classes.")
    check_division(split_seed)
    check_memory(4 * (num_train + num_val + num_test + num_classes) * num_features, "num_features", "num_train")

    generator = torch.Generator().manual_seed(split_seed)
    prototypes = torch.randn(num_classes, num_features, generator=generator)
    # Without standardisation by the train split, features of 0.01 to 100 would train badly: a run shows that it works.
    scale = 10.0 ** torch.randint(-2, 3, (num_features,), generator=generator)
    offset = torch.randn(num_features, generator=generator) * scale
    of_class = targets_by_class(targets, num_classes)

    # classes take turns, so that a split has equal numbers of each; the order of an epoch is random anyway
    def draw(count: int) -> Split:
        labels = torch.arange(count) % num_classes
        rows = prototypes[labels] + noise * torch.randn(count, num_features, generator=generator)
        return Split(rows * scale + offset, labels if of_class is None else of_class[labels])

    train, val, test = draw(num_train), draw(num_val), draw(num_test)
    classes = tuple(f"class {label}" for label in range(num_classes))
    facts = {"features": [f"x{column}" for column in range(num_features)], "test_split": GENERATED}
    return Splits("synthetic_rows", train, val, test, classes, digest(train.inputs, train.labels), facts, Rows)
