"""JSON that every reader takes. Python would write NaN and Infinity, which are no JSON: they become null."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

log = logging.getLogger(__name__)
_MOST_NAMED = 5


def json_text(content: Any, ascii_only: bool = False, indent: int | None = 2) -> str:
    """Return plain content as JSON, with null for numbers that are not finite.

    Args:
        content: mappings, lists and plain values.
        ascii_only: write other characters as escapes.
        indent: spaces a level; None for one line.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False, ensure_ascii=ascii_only)


def print_json(content: Any) -> None:
    """Print plain content on stdout as JSON; a warning names the numbers that are not finite."""
    if absent := list(_not_finite(content)):
        more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
        log.warning(f"not finite, and so null in the JSON: {', '.join(absent[:_MOST_NAMED])}{more}")
    # Escapes, which JSON readers decode: names of a stranger's run may hold control characters, or halves of characters
    # that no encoding takes.
    print(json_text(content, ascii_only=True))


def _not_finite(content: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys of the numbers that are not finite."""
    if isinstance(content, Mapping | list | tuple):
        for name, item in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from _not_finite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(content, float) and not math.isfinite(content):
        yield key


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
