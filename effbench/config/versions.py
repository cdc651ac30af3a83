"""Read recorded configs of this and older versions, with today's keys.

config.yaml and each checkpoint's manifest hold a schema_version. A record without one is of version 1 (effbench 0.1).
Increase SCHEMA with every group, key or target that is added, renamed or moved; tests/compat/ holds runs of versions 1,
4 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from effbench.config import static_compose as static
from effbench.errors import ConfigError
from effbench.guarded import checked_version

SCHEMA = 8
KEY = "schema_version"
_BUILT = ("model", "optimizer", "scheduler", "data")
_FIRST = (*_BUILT, "trainer", "augment", "early_stopping")  # sections that exist in every version
_MOVED = {  # module of a _target_ in version 1 -> module today
    f"effbench.data.{module}": f"effbench.data.images.{module}"
    for module in ("cifar10", "fashion_mnist", "image_folder", "synthetic")
}
_FASHION_MNIST = "effbench.data.images.fashion_mnist.fashion_mnist"
_RULES = (8, {"rules": 1})  # see effbench/data/rules.py
# Keys that change what a run computes: _target_ -> (first SCHEMA with them, key -> value by which older runs work), ...
_BEFORE: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]] = {
    "effbench.tasks.regression.Regression": [(5, {"standardise": False})],
    "effbench.data.rows.table_csv.table_csv": [(5, {"equal_rows_together": False}), _RULES],
    "effbench.data.text.text_csv.text_csv": [_RULES],
    "effbench.data.text.text_folder.text_folder": [_RULES],
    **{f"effbench.data.text.shipped.{name}": [_RULES] for name in ("language_id", "wordnet_gloss", "kjv_kinds")},
}


def stamped(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with its schema version, for the record."""
    return {KEY: SCHEMA, **content}


class Upgrade:
    """Upgrades recorded configs. It reads effbench's own files once: a report upgrades thousands of records."""

    def __init__(self) -> None:
        self.defaults = static.composed()
        self._members = cache(static.members)  # group -> its choices

    def section(self, name: str, part: Any, version: int) -> Any:
        """Return a section with today's target and keys.

        Args:
            name: of the section.
            part: its recorded content.
            version: schema version of the record.
        """
        if isinstance(part, Mapping) and isinstance(part.get("_target_"), str):
            module, dot, target = part["_target_"].rpartition(".")
            part = {**part, "_target_": f"{_MOVED.get(module, module)}{dot}{target}"}
            part = {**part, **_without_effect(part)}
        # A damaged section is left as it is: the schema refuses it, and names the key.
        if not (isinstance(part, Mapping) and isinstance(self.defaults.get(name), Mapping)):
            return part
        # Of a section with a class only the record knows the options: those of another class would be wrong, and in
        # this version a missing key was deleted. In older versions, later options of effbench's classes are filled in.
        if "_target_" in part and version == SCHEMA:
            return part
        choices = self._members(name)
        choice = static.choice_like(name, part, choices)
        return part if choice is None else {**choices[choice], **before(part.get("_target_"), version), **part}


def upgraded(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a recorded config with today's keys: missing ones get today's defaults for its choices.

    Args:
        content: the recorded config.
        where: path of the record, for messages.

    Raises:
        ConfigError: the record is of a newer version, or lacks a section that every version has.
    """
    version = version_of(content, where)
    if (lacking := lacking_section(content)) is not None:
        raise ConfigError(f"{where} is damaged: section {lacking} is missing or incomplete.")
    upgrade = Upgrade()
    sections = {name: upgrade.section(name, part, version) for name, part in content.items() if name != KEY}
    return {**sections, **{name: part for name, part in upgrade.defaults.items() if name not in sections}}


def before(target: object, version: int) -> Mapping[str, Any]:
    """Return key -> value of later keys by which runs of older versions work as they did; {} for most classes.

    Args:
        target: _target_ of a section.
        version: schema version of its record.
    """
    return {
        key: value for since, values in _BEFORE.get(str(target), ()) if version < since for key, value in values.items()
    }


def _without_effect(part: Mapping[str, Any]) -> dict[str, None]:
    """Return the options of a recorded section that had no effect then and would be refused today, as None."""
    embedded = part["_target_"] == _FASHION_MNIST and part.get("subset") == "embedded"
    return {"root": None} if embedded and part.get("root") else {}


def lacking_section(content: Mapping[str, Any]) -> str | None:
    """Return the first section that every version has and this record lacks; None if there is none."""
    for section in _FIRST:
        part = content.get(section)
        if not isinstance(part, Mapping) or (section in _BUILT and "_target_" not in part):
            return section
    return None


def version_of(content: Mapping[str, Any], where: str) -> int:
    """Return the record's schema version. Raises ConfigError if it is invalid or newer than SCHEMA."""
    return checked_version(content.get(KEY, 1), SCHEMA, where)
