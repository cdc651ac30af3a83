"""Datasets that may take minutes to read: the rest of the config is checked first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
_SLOW: list[Callable[..., Any]] = []


def slow_to_read(function: Function) -> Function:
    """Declare that a dataset's function may take minutes: a decorator."""
    _SLOW.append(function)
    return function


def is_slow_to_read(function: Callable[..., Any]) -> bool:
    return function in _SLOW
