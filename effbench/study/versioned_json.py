"""Dataclasses as strict JSON with a schema version."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from pydantic import TypeAdapter

from effbench.errors import DataError

T = TypeVar("T")
_MOST_DIGITS = 19  # with the sign; 2^63 has 19


def to_json(value: Any, version: int) -> str:
    """Return a dataclass as JSON; numbers that JSON lacks are written as 'inf', '-inf' or 'nan'."""
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    # allow_nan=False: Python would write NaN, which is no JSON
    return json.dumps({"schema_version": version, "value": _strict(plain)}, allow_nan=False)


def from_json(kind: type[T], text: str, version: int, what: str) -> T:
    """Read `to_json`'s JSON.

    Args:
        kind: the dataclass.
        text: JSON.
        version: newest schema version that this effbench reads.
        what: what the text should be, for the message.

    Raises:
        DataError: the text is something else, damaged, or of a newer version.
    """
    try:
        record = json.loads(text, parse_int=_whole)
        # before the fields: a newer version may have others, and "unknown field x" would not say what to do
        found = int(record["schema_version"])
        if found > version:
            raise DataError(
                f"{what} has schema_version {found}; this effbench reads up to {version}. "
                "Read it with the effbench that wrote it, or a newer one."
            )
        return TypeAdapter(kind).validate_python(record["value"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # whatever a damaged or hostile file gives
        raise DataError(f"not {what}: {error!r}") from error


def _whole(digits: str) -> int:
    """Return the number; refuse one that no counter holds and no float could take."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"the number {digits[:_MOST_DIGITS]}... is too large")
    return int(digits)


def _strict(value: Any) -> Any:
    """Return plain data with texts for numbers that JSON lacks; pydantic reads them as numbers."""
    # after pydantic's mode="json", so that only dictionaries, lists and plain values are left
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
