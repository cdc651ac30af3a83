"""Checks of options that several datasets have. Each message names key, rule, value and remedy."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from effbench.cache_dir import expanded
from effbench.config.options import COUNT, FRACTION_BELOW_1, SEED
from effbench.errors import ConfigError, shown
from effbench.escaping import for_terminal
from effbench.guarded import kind_of
from effbench.processors import memory_limit
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
    # each is in [0, 1) by now, but all are parts of the whole
    if sum(map(float, fractions.values())) >= 1:  # type: ignore[arg-type]
        keys, values = (
            " + ".join(map(str, each)) for each in ([f"data.{key}" for key in fractions], fractions.values())
        )
        raise ConfigError(f"{keys} must be below 1, to leave samples to train on; got {values}.")
    SEED.check(split_seed, "data.split_seed", remedy="0 is usual.")


def check_memory(num_bytes: int, *keys: str, more: str = "") -> None:
    """Refuse a dataset that is larger than the memory of this machine. Raises ConfigError.

    Args:
        num_bytes: size of its samples in memory.
        keys: options of the data group that determine the size, the most likely cause first.
        more: another remedy, such as 'give fewer texts'; with the key `file` the only one.
    """
    lower = [f"lower {' or '.join(f'data.{key}' for key in keys)}"] if keys != ("file",) else []
    remedy = ", or ".join([*lower, *[more] * bool(more)])
    check_fits(num_bytes, f"data.{keys[0]}: the samples", f"{remedy[0].upper()}{remedy[1:]}.")


def check_fits(num_bytes: int, what: str, remedy: str) -> None:
    """Refuse what is larger than the memory that this process may use. Raises ConfigError.

    Args:
        num_bytes: that it takes.
        what: begins the message, with the key.
        remedy: last sentence of the message.
    """
    # Without the check, torch refuses with its own words, or the system ends the process without any.
    with suppress(ValueError, AttributeError):  # not every system tells
        # all memory, not what is free now: that changes from one second to the next
        memory, holder = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine has"
        # of a container or a batch job: the kernel ends a process that takes more
        if (limit := memory_limit()) is not None and limit < memory:
            memory, holder = limit, "the limit of its control group, such as a container, is"
        if num_bytes > memory:
            taken = f"{human_bytes(num_bytes)} of memory, and {holder} {human_bytes(memory)}"
            raise ConfigError(f"{what} would take {taken}. {remedy}")


def given_folder(key: str, value: object) -> Path | None:
    """Return the absolute path of a folder option; None if it is not set. Raises ConfigError."""
    if value is None or value == "":
        return None
    # a number from Python, say: Path() would raise a TypeError that names no key
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"data.{key} must be a folder's path, as text; got {shown(value)}.")
    return expanded(value).absolute()


def check_names(**names: object) -> None:
    """Check options that name something, such as a column or an encoding. Raises ConfigError.

    Args:
        names: option of the data group -> value.
    """
    for key, name in names.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"data.{key} must be a name, as text; got {shown(name)}.")


def check_name_lists(**lists: object) -> None:
    """Check options that list names, such as columns to leave out. Raises ConfigError.

    Args:
        lists: option of the data group -> value.
    """
    for key, names in lists.items():
        fits = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not fits:
            raise ConfigError(f"data.{key} must be a list of names, such as [id,date]; got {shown(names)}.")


def given_file(key: str, value: object) -> Path | None:
    """Return the path of a file option; None if it is not set.

    Args:
        key: option of the data group.
        value: its value.

    Raises:
        ConfigError: the value is no path, or there is no such file.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"data.{key} must be a file's path, as text; got {shown(value)}.")
    path = expanded(value)
    kind = kind_of(path, f"data.{key}")
    if kind == "a folder":
        raise ConfigError(f"data.{key} must be one file; {for_terminal(str(path))} is a folder. Name a file in it.")
    if kind != "a file":
        start = "" if path.is_absolute() else " (relative paths start in the folder that you call from)"
        raise ConfigError(
            f"data.{key}: there is no file {for_terminal(str(path.absolute()))}{start}. Name it with data.{key}=PATH."
        )
    return path
