"""Random images of any shape and number, for throughput and smoke runs."""

from __future__ import annotations

import torch

from effbench.config.options import AT_LEAST_2, FRACTION
from effbench.data.images.modality import square_images
from effbench.data.option_checks import check_counts, check_division, check_memory
from effbench.data.preview import previewed
from effbench.data.splits import Split, Splits, digest
from effbench.data.synthetic_targets import targets_by_class
from effbench.errors import ConfigError, shown
from effbench.summary_schema import GENERATED

PART = 2**20  # pixels that are mixed at a time, in float32: 4 MB stay in the processor's caches


@previewed(square_images(3, 32))
def synthetic(
    num_train: int = 1024,
    num_val: int = 256,
    num_test: int = 256,
    channels: int = 3,
    image_size: int = 32,
    num_classes: int = 10,
    noise: float = 0.5,
    split_seed: int = 0,
    targets: str = "class",
) -> Splits:
    """Make images around one random prototype a class, mixed with uniform noise.

    Args:
        num_train: number of train images.
        num_val: number of validation images.
        num_test: number of test images.
        channels: C, 1 (gray) or 3 (RGB).
        image_size: side in pixels; images are uint8 (N, C, image_size, image_size).
        num_classes: number of classes, which take turns.
        noise: share of noise in [0, 1]; at 1 labels cannot be learnt.
        split_seed: draws prototypes and noise.
        targets: of class k: 'class' k; 'labels' k and the next one; 'values' cos(2 pi (k - j) / num_classes) at
            column j.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
    """
    check_counts(num_train=num_train, num_val=num_val, num_test=num_test)
    # Image files have one or three: `predict` could read none for a run with another number.
    if type(channels) is not int or channels not in (1, 3):  # True and 1.0 equal 1
        raise ConfigError(f"data.channels must be 1 (gray) or 3 (RGB); got {shown(channels)}. Write 3 for colours.")
    check_counts("pixel", image_size=image_size)
    AT_LEAST_2.check(num_classes, "data.num_classes")
    FRACTION.check(noise, "data.noise", remedy="0.5 mixes both evenly.")
    check_division(split_seed)
    count = num_train + num_val + num_test + num_classes  # a prototype a class
    check_memory(count * channels * image_size**2, "image_size", "num_train")

    of_class = targets_by_class(targets, num_classes)
    generator = torch.Generator().manual_seed(split_seed)
    shape = (channels, image_size, image_size)
    prototypes = torch.randint(0, 256, (num_classes, *shape), generator=generator, dtype=torch.uint8)

    part = max(1, PART // prototypes[0].numel())

    def draw(count: int) -> Split:
        labels = torch.arange(count) % num_classes
        images = torch.empty((count, *shape), dtype=torch.uint8)
        for start in range(0, count, part):
            rows = slice(start, min(start + part, count))
            random = torch.randint(0, 256, images[rows].shape, generator=generator, dtype=torch.uint8)
            images[rows] = torch.lerp(prototypes[labels[rows]].float(), random.float(), noise).round_()
        return Split(images, of_class[labels] if of_class is not None else labels)

    train, val, test = draw(num_train), draw(num_val), draw(num_test)
    classes = tuple(f"class {label}" for label in range(num_classes))
    # 64 images and all labels identify the content, for one option changes every image
    sha256 = digest(train.images[:64], train.labels)
    return Splits("synthetic", train, val, test, classes, sha256, {"test_split": GENERATED})
