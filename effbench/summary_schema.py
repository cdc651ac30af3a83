"""The fields of summary.json and their types, for everyone who reads it.

A field that is absent or null is unknown, which is allowed. Fields that are not listed are not checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from effbench.errors import shown
from effbench.units import seen_key, throughput_key

_MAX_DEPTH = 20  # levels; a run's record and config have 4
LARGEST = 1e100  # a larger metric counts as not finite: means and squares could overflow
_MAX_COUNT = 10**15  # upper limit of a count
_MAX_SIDE = 100_000  # pixels

FieldRule = tuple[str, Callable[[Any], bool]]


def is_number(value: Any) -> bool:
    """Return True for a finite number of plausible size; bool is not a number."""
    # NaN fails every comparison
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT


def _is_side(value: Any) -> bool:
    return _is_count(value) and 1 <= value <= _MAX_SIDE


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(holds: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == (length or len(value)) and all(map(holds, value))


def _mapping_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(item is None or holds(item) for item in value.values())


NUMBER: FieldRule = ("a number", is_number)
COUNT: FieldRule = ("a whole number of at least 0", _is_count)
TEXT: FieldRule = ("text", _is_text)
MAPPING: FieldRule = ("a mapping", lambda value: isinstance(value, dict))
NUMBERS: FieldRule = ("a list of numbers", _list_of(is_number))
COUNTS: FieldRule = ("a mapping of whole numbers", _mapping_of(_is_count))

FIELDS: Mapping[str, FieldRule] = {
    "status": TEXT, "error": TEXT, "stop_reason": TEXT, "device": TEXT, "precision": TEXT,
    "epochs": ("a number of at least 0", lambda value: is_number(value) and 0 <= value <= _MAX_COUNT),
    "steps": COUNT, "skipped_steps": COUNT,
    "sessions": ("a list of mappings", _list_of(lambda value: isinstance(value, dict))),
    "argv": ("a list of texts", _list_of(_is_text)),
    "metrics": MAPPING, "best": MAPPING, "timing": MAPPING, "memory": MAPPING, "model": MAPPING, "data": MAPPING,
    "environment": MAPPING, "git": MAPPING, "program": MAPPING,
    "best.metric": TEXT, "best.value": NUMBER, "best.checkpoint": TEXT,
    "timing.training_s": NUMBER, "timing.elapsed_s": NUMBER, "timing.started": TEXT,
    "timing.seconds": ("a mapping of numbers", _mapping_of(is_number)),
    "memory.peak_rss_bytes": NUMBER, "memory.peak_cuda_bytes": NUMBER,
    "model.name": TEXT, "model.optimizer": TEXT, "model.parameters": COUNT, "model.trainable_parameters": COUNT,
    "model.macs": COUNT,
    "data.name": TEXT, "data.sha256": TEXT, "data.counts": COUNTS, "data.evaluated": COUNTS,
    "data.classes": ("a list of names", _list_of(_is_text)),
    "data.modality": TEXT, "data.unit": TEXT, "data.counted": TEXT, "data.mean": NUMBERS, "data.std": NUMBERS,
    "data.test_split": TEXT,
    "data.white_level": ("two numbers above 0", _list_of(lambda value: is_number(value) and value > 0, 2)),
}  # fmt: skip


IMAGE = "image"  # the unit of records that do not say
# data.test_split: how the test split follows data.split_seed; absent where it does not, or where nothing is known
DRAWN, GENERATED = "drawn", "generated"  # from the same samples as train and validation | new samples


def unit_of(summary: Mapping[str, Any]) -> str:
    """Return the word for one sample of a run: 'image'."""
    unit = _field(summary, "data.unit")
    # the unit becomes a part of field names
    return unit if isinstance(unit, str) and unit.isidentifier() else IMAGE


def speed_unit_of(summary: Mapping[str, Any]) -> str:
    """Return the word for what a run's throughput counts: 'token'; by default a sample."""
    counted = _field(summary, "data.counted")
    return counted if isinstance(counted, str) and counted.isidentifier() else unit_of(summary)


def throughput_of(summary: Mapping[str, Any]) -> float | None:
    """Return the samples, or what `speed_unit_of` says, a second; None if the record does not hold them."""
    value = _field(summary, f"timing.{throughput_key(speed_unit_of(summary))}")
    return float(value) if is_number(value) else None


def without_large_values(summary: dict[str, Any]) -> None:
    """Set metrics and the best value to None if they are finite, but too large to compare."""
    for name in ("metrics", "best"):
        part = summary.get(name)
        if not isinstance(part, dict):
            continue
        for key, value in part.items():
            is_value = isinstance(value, int | float) and (name == "metrics" or key == "value")
            if is_value and math.isfinite(value) and abs(value) >= LARGEST:
                part[key] = None


def wrong_fields(summary: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Return (dotted name, value, rule) of each field with a wrong type; collections come before their members."""
    unit, counted = unit_of(summary), speed_unit_of(summary)
    speed = f"timing.{throughput_key(counted)}"
    shape: FieldRule = ("a list of sizes", _list_of(_is_count))
    if unit == IMAGE:
        shape = ("channels, height and width", _list_of(_is_side, 3))
    fields = {
        **FIELDS,
        seen_key(counted): COUNT,
        speed: NUMBER,
        f"{speed}_excludes_first_steps": COUNT,
        "data.shape": shape,
    }
    wrong = [
        (name, value, rule)
        for name, (rule, holds) in fields.items()
        if (value := _field(summary, name)) is not None and not holds(value)
    ]
    metrics = summary.get("metrics")
    # metrics have names of the user, so they cannot be listed in FIELDS
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if value is not None and not is_number(value):
            wrong.append((f"metrics.{name}", value, NUMBER[0]))
    return wrong


def without_wrong_fields(summary: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """Set fields of a wrong type to None, and return them as `wrong_fields` does."""
    wrong = wrong_fields(summary)
    for name, _, _ in wrong:
        part, dot, key = name.partition(".")
        if not dot:
            summary[part] = None
        elif isinstance(summary[part], dict):
            summary[part][key] = None
    return wrong


def _field(summary: Mapping[str, Any], name: str) -> Any:
    part, dot, key = name.partition(".")
    value = summary.get(part)
    if not dot:
        return value
    return value.get(key) if isinstance(value, dict) else None


def check_plain(content: Any) -> None:
    """Raise ValueError for content that no run writes and that cannot be printed: too deep, or with huge numbers."""
    # level by level, not by recursion: the depth is what is checked
    level = [content]
    for _ in range(_MAX_DEPTH):
        # Python refuses to print very long integers
        if any(type(item) is int and item.bit_length() > 1000 for item in level):
            raise ValueError("it holds a number of more than 300 digits")
        inner = [outer.values() if type(outer) is dict else outer for outer in level if type(outer) in (dict, list)]
        level = [item for items in inner for item in items]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")


def complaints(wrong: Iterable[tuple[str, Any, str]]) -> Iterator[str]:
    """Yield each wrong field as a text with its rule and value."""
    for name, value, rule in wrong:
        text = shown(value)
        yield f"{name} must be {rule}; got {text if len(text) <= 100 else text[:99] + '…'}"
