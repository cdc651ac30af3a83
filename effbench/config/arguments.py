"""Checks of the arguments that a script or a notebook passes: the command line passes texts, Python anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from effbench.errors import ConfigError, shown


def check_path(name: str, value: object) -> None:
    """Raise ConfigError unless the argument `name` is a path."""
    if not (isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str)):
        raise _refusal(name, "a path, as text or pathlib.Path", value)


def check_text(name: str, value: object) -> None:
    """Raise ConfigError unless the argument `name` is a text."""
    if not isinstance(value, str):
        raise _refusal(name, "text", value)


def check_list(name: str, value: object, kinds: type | tuple[type, ...], what: str) -> None:
    """Raise ConfigError unless the argument `name` is a list or tuple of `kinds`.

    A text is refused too: as a list it would be its letters.

    Args:
        name: of the argument.
        value: its value.
        kinds: types of the items.
        what: the rule for the message, such as 'a list of modules, ["mylab.models"]'.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _refusal(name, what, value)
    for item in value:
        if not isinstance(item, kinds):
            raise _refusal(f"each item of {name}", f"as in {what}", item)


def check_texts_by_key(name: str, value: object, example: str) -> None:
    """Raise ConfigError unless the argument is None or maps texts to texts.

    Args:
        name: of the argument.
        value: its value.
        example: a right value, for the message.
    """
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for item in value.items() for text in item):
        raise _refusal(name, f"a mapping of texts, such as {example}", value)


def _refusal(name: str, rule: str, value: object) -> ConfigError:
    text = shown(value)
    return ConfigError(f"{name} must be {rule}; got {text if len(text) <= 100 else text[:99] + '…'}.")
