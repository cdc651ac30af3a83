"""What effbench raises for a person to read, and the exit code each kind ends with.

A message names the key, the rule, the value and the remedy; the command line prints it without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """Of its message; its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class EffbenchError(Exception):
    """The run failed (exit code 1)."""

    exit_code = 1


class ConfigError(EffbenchError):
    """The command, the config or the data it names is wrong (exit code 2)."""

    exit_code = 2


class OptionError(ConfigError, ValueError):
    """A constructor's option cannot be what was given: a ValueError, as torch's own classes raise."""


class GradientError(ConfigError, RuntimeError):
    """An optimizer cannot take a gradient of this kind: a RuntimeError, as torch's own raise."""


class DataError(ConfigError):
    """A file or a dataset cannot be used as it is (exit code 2)."""


class ThresholdError(EffbenchError):
    """Something was measured and falls short of what was asked (exit code 3)."""

    exit_code = 3


class MissingExtraError(EffbenchError):
    """An optional library is needed and absent (exit code 4)."""

    exit_code = 4

    def __init__(self, what: str, extra: str):
        super().__init__(f"{what} needs the extra '{extra}': pip install 'effbench[{extra}]'")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist: what there is, and the nearest of it."""
    options = sorted(known)
    nearest = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return f"{kind} '{name}' is not one of: {', '.join(options)}.{hint}"
