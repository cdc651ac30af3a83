"""Options of image_folder, checked before any folder is read."""

from __future__ import annotations

from collections.abc import Sequence

from effbench.config.options import POSITIVE
from effbench.data.images.white_levels import Levels
from effbench.data.option_checks import check_counts, check_division
from effbench.errors import ConfigError, shown, unknown_name

White = float | Sequence[float] | None


def check_arguments(
    image_size: int, val_fraction: float, test_fraction: float, split_seed: int, on_corrupt: str, max_pixels: int
) -> None:
    """Check the options that determine what is read. Arguments as in `image_folder`. Raises ConfigError.

    Args:
        image_size: pixels a side.
        val_fraction: part of the whole for validation.
        test_fraction: likewise for the test.
        split_seed: determines the draws.
        on_corrupt: 'refuse' or 'skip'.
        max_pixels: limit of a file's size.
    """
    check_counts("pixel", image_size=image_size, max_pixels=max_pixels)
    check_division(split_seed, val_fraction=val_fraction, test_fraction=test_fraction)
    # before decoding, which would take minutes to find the first bad file
    if on_corrupt not in ("refuse", "skip"):
        raise ConfigError(unknown_name("data.on_corrupt", on_corrupt, ["refuse", "skip"]))


def given_levels(white_level: White) -> Levels | None:
    """Return the white levels of data.white_level; None if they are chosen automatically. Raises ConfigError."""
    if white_level is None:
        return None
    values = list(white_level) if isinstance(white_level, Sequence) else [white_level] * 2
    if len(values) != 2 or not all(map(POSITIVE.holds, values)):
        raise ConfigError(
            f"data.white_level must be a number above 0, or two: for integers and for floats; got "
            f"{shown(white_level)}. For 12 bits write 4095."
        )
    return Levels(float(values[0]), float(values[1]))
