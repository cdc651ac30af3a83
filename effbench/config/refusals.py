"""What is wrong with each of many sets of overrides that differ in a few values, as a sweep's do.

Hydra takes a third of a second to compose one. Here it composes each choice of groups once; a plain value (key=value of
a key that is there) is then put into a copy. Whatever is more than that, or is refused, is composed in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from effbench.config.compose import compose_raw, parse, plain
from effbench.config.static_compose import group_options
from effbench.config.words import as_meant
from effbench.errors import ConfigError

_Value = tuple[str, Any]  # a key and what it is set to


class Refusals:
    def __init__(self, config_dir: str | Path | None = None):
        self._config_dir = config_dir
        self._groups = set(group_options(Path(config_dir) if config_dir else None))
        self._bases: dict[tuple[str, ...], dict[str, Any] | None] = {}
        self._value = cache(self._read_value)

    @cached_property
    def _parser(self) -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        return OverridesParser.create()

    def of(self, words: Sequence[str]) -> str | None:
        """The message of the ConfigError that composing `words` raises; None where it raises none."""
        content = self._quickly(words)
        try:
            if content is not None:
                parse(content)
                return None
        except ConfigError:
            pass  # the whole composition tells it best
        try:
            parse(plain(compose_raw(words, self._config_dir)))
        except ConfigError as error:
            return str(error)
        return None

    def _quickly(self, words: Sequence[str]) -> dict[str, Any] | None:
        """The plain config of `words`; None where only Hydra can tell it."""
        if any(word.lstrip("+~").startswith("hydra") and "${" in word for word in words):
            return None  # a name made of the other overrides
        values = {word: self._value(word) for word in words}
        base = self._base(tuple(word for word, value in values.items() if value is None))
        if base is None:
            return None
        content = deepcopy(base)
        for value in values.values():
            if value is not None and not _set(content, *value):
                return None
        return content

    def _base(self, words: tuple[str, ...]) -> dict[str, Any] | None:
        """What the words compose to that are no plain values; None where that depends on the values."""
        if words not in self._bases:
            try:
                raw = compose_raw(words, self._config_dir)
                self._bases[words] = None if _interpolates(raw) else plain(raw)
            except ConfigError:
                self._bases[words] = None
        return self._bases[words]

    def _read_value(self, word: str) -> _Value | None:
        """What a word sets; None for a choice of a group, and for what is more than key=value."""
        from hydra.errors import HydraException

        key, equals, text = word.partition("=")
        if not equals or "${" in text or not key.replace(".", "").isidentifier() or key in self._groups:
            return None
        if key.partition(".")[0] in ("hydra", "resume", "allow_targets"):
            return None
        try:
            override = self._parser.parse_override(as_meant(word))
        except (HydraException, ConfigError):
            return None
        if override.is_sweep_override():
            return None
        value = override.value()
        return (key, value) if _is_plain(value) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _set(content: dict[str, Any], key: str, value: Any) -> bool:
    """Whether there is such a key, which then holds `value`."""
    *above, last = key.split(".")
    place: Any = content
    for part in above:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place or isinstance(place[last], Mapping):
        return False
    place[last] = value
    return True


def _interpolates(raw: Any) -> bool:
    """Whether some value follows from another one."""
    from omegaconf import OmegaConf

    task = OmegaConf.masked_copy(raw, [str(key) for key in raw if key != "hydra"])
    return "${" in str(OmegaConf.to_container(task, resolve=False))
