"""Checks of options that several datasets have. Each message names key, rule, value and remedy."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from effbench.cache_dir import expanded
from effbench.config.options import COUNT, FRACTION_BELOW_1, SEED
from effbench.errors import ConfigError, shown
from effbench.units import human_bytes


def check_counts(unit: str = "", **counts: object) -> None:
    """Check numbers of samples, classes or pixels, by option. Raises ConfigError.

    Args:
        unit: what is counted, such as 'pixel'.
        counts: option of the data group -> value.
    """
    for key, count in counts.items():
        COUNT.check(count, f"data.{key}", f"a whole number, at least 1 {unit}".rstrip())


def check_division(split_seed: object, **fractions: object) -> None:
    """Check how samples are divided into splits. Raises ConfigError.

    Args:
        split_seed: seed of the draws.
        fractions: option of the data group -> part of the samples.
    """
    for key, fraction in fractions.items():
        FRACTION_BELOW_1.check(fraction, f"data.{key}", "a number in [0, 1)", "For 10 % write 0.1.")
    SEED.check(split_seed, "data.split_seed", remedy="0 is usual.")


def check_memory(num_bytes: int, *keys: str) -> None:
    """Refuse a dataset that is larger than the memory of this machine. Raises ConfigError.

    Args:
        num_bytes: size of its samples in memory.
        keys: options of the data group that determine the size, the most likely cause first.
    """
    # Without the check, torch refuses with its own words, or the system ends the process without any.
    with suppress(ValueError, AttributeError):  # not every system tells
        # all memory, not what is free now: that changes from one second to the next
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if num_bytes > memory:
            raise ConfigError(
                f"data.{keys[0]}: the samples would take {human_bytes(num_bytes)} of memory, and this machine has "
                f"{human_bytes(memory)}. Lower {' or '.join(f'data.{key}' for key in keys)}."
            )


def given_folder(key: str, value: object) -> Path | None:
    """Return the absolute path of a folder option; None if it is not set. Raises ConfigError."""
    if value is None or value == "":
        return None
    # a number from Python, say: Path() would raise a TypeError that names no key
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"data.{key} must be a folder's path, as text; got {shown(value)}.")
    return expanded(value).absolute()
