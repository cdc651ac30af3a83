"""Errors for people to read, and the exit code of each kind.

A message names the key, the rule, the value and the remedy. The command line prints it without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def first_line(error: BaseException) -> str:
    """Return the first line of the error's message, or its class if it has none."""
    # Some exceptions have no text, such as AssertionError and KeyboardInterrupt.
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class EffbenchError(Exception):
    """The run failed (exit code 1)."""

    exit_code = 1


class ConfigError(EffbenchError):
    """The command, the config or the data it names is wrong (exit code 2)."""

    exit_code = 2


class OptionError(ConfigError, ValueError):
    """A constructor's option is invalid. It is a ValueError, as raised by torch's classes."""


class GradientError(ConfigError, RuntimeError):
    """An optimizer does not support this kind of gradient. It is a RuntimeError, as raised by torch's classes."""


class DataError(ConfigError):
    """A file or a dataset cannot be used (exit code 2)."""


class ThresholdError(EffbenchError):
    """A measured value does not meet a threshold (exit code 3)."""

    exit_code = 3


class OutOfTimeError(ThresholdError):
    """The time that was allowed ended before a threshold was met: with more of it, it may be (exit code 3)."""


class MissingExtraError(EffbenchError):
    """An optional library is not installed (exit code 4).

    Args:
        what: what needs it, such as 'logger=wandb'.
        extra: name of the extra.
    """

    exit_code = 4

    def __init__(self, what: str, extra: str):
        super().__init__(f"{what} needs the extra '{extra}': pip install 'effbench[{extra}]'")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the known names and the nearest one.

    Args:
        kind: what is named, such as 'optimizer'.
        name: the unknown name.
        known: the known names.

    Example:
        unknown_name("optimizer", "lyon", ["adam", "lion"]) is
        "optimizer 'lyon' is not one of: adam, lion. Did you mean 'lion'?"
    """
    options = sorted(known)
    # 0.5 instead of difflib's 0.6: names are short, so one wrong letter weighs much.
    nearest = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)  # YAML may give a number
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return f"{kind} '{name}' is not one of: {', '.join(options)}.{hint}"


def shown(value: object, quotes: bool = True) -> str:
    """Return a config's value for a message, as a user writes it: null, true and false, also within lists and mappings.

    Args:
        value: of a key.
        quotes: put a text in quotes.
    """
    if value is None or isinstance(value, bool):
        # YAML's words: `None` on the command line would be a text of four letters
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return repr(value) if quotes else value
    if type(value) is list:
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{shown(key)}: {shown(item)}' for key, item in value.items())}}}"
    return repr(value)
