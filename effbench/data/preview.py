"""Describe the samples of a dataset's function before it reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from effbench.data.modality import Modality, Settings

Function = TypeVar("Function", bound=Callable[..., Any])
Preview = Callable[[Mapping[str, Any], Settings], Modality]

_PREVIEWS: dict[Callable[..., Any], Preview] = {}


def previewed(preview: Preview) -> Callable[[Function], Function]:
    """Declare the samples of a dataset's function: a decorator.

    Without it `effbench recipe validate` reads the data, and the model is checked only after a slow dataset was read.

    Args:
        preview: (options of the data group, settings) -> the modality, such as Modality.blank of the right shape.
    """

    def declare(function: Function) -> Function:
        _PREVIEWS[function] = preview
        return function

    return declare


def preview_of(function: Callable[..., Any]) -> Preview | None:
    return _PREVIEWS.get(function)
