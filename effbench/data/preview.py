"""Describe the samples of a dataset's function before it reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from effbench.data.modality import Modality, Settings

Function = TypeVar("Function", bound=Callable[..., Any])
Preview = Callable[[Mapping[str, Any], Settings], Modality]

_PREVIEWS: dict[Callable[..., Any], Preview] = {}
_SLOW: set[Callable[..., Any]] = set()


def previewed(preview: Preview, slow: bool = False) -> Callable[[Function], Function]:
    """Declare the samples of a dataset's function: a decorator.

    Without it `effbench recipe validate` reads the data.

    Args:
        preview: (options of the data group, settings) -> the modality, such as Modality.blank of the right shape.
        slow: reading may take minutes: the model is built for the preview first, to check the config.
    """

    def declare(function: Function) -> Function:
        _PREVIEWS[function] = preview
        if slow:
            _SLOW.add(function)
        return function  # unchanged, so that its signature still checks the options of the data group

    return declare


def preview_of(function: Callable[..., Any]) -> Preview | None:
    # None: the data are read to find out, as for a function without the decorator
    return _PREVIEWS.get(function)


def is_slow_to_read(function: Callable[..., Any]) -> bool:
    return function in _SLOW
