"""Check many sets of overrides that differ in a few values, such as those of a sweep.

One composition by Hydra takes a third of a second. Here Hydra composes each combination of group choices once; plain
values (key=value of an existing key) are then set in a copy. Everything else, and every set that is refused, is
composed in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.config.compose import compose_raw, parse, plain
from effbench.config.static_compose import group_options
from effbench.config.words import as_meant
from effbench.errors import ConfigError

if TYPE_CHECKING:
    from effbench.config.schema import Config

_Value = tuple[str, Any]  # a key and its value


class Refusals:
    """Composes sets of overrides and reports their errors.

    config_dir: folder with the user's config groups.
    """

    def __init__(self, config_dir: str | Path | None = None):
        self._config_dir = config_dir
        self._groups = set(group_options(Path(config_dir) if config_dir else None))
        # Words without plain values -> their composition; None: only Hydra can compose them.
        self._bases: dict[tuple[str, ...], dict[str, Any] | None] = {}
        self._value = cache(self._read_value)  # a sweep repeats each word in many jobs

    @cached_property
    def _parser(self) -> Any:
        # Hydra is imported here, not at the top: a refused word is found without it.
        from hydra.core.override_parser.overrides_parser import OverridesParser

        return OverridesParser.create()

    def checked(self, words: Sequence[str]) -> Config:
        """Return the config of the overrides `words`. Raises ConfigError as `compose` does."""
        content = self._quickly(words)
        try:
            if content is not None:
                return parse(content)
        except ConfigError:
            pass  # the full composition has the best message
        return parse(plain(compose_raw(words, self._config_dir)))

    def _quickly(self, words: Sequence[str]) -> dict[str, Any] | None:
        """Return the plain config of `words`; None if only Hydra can compose it."""
        if any(word.lstrip("+~").startswith("hydra") and "${" in word for word in words):
            return None  # a name derived from other overrides
        values = {word: self._value(word) for word in words}
        # The words of groups determine the base: it is composed once for all combinations of plain values.
        base = self._base(tuple(word for word, value in values.items() if value is None))
        if base is None:
            return None
        content = deepcopy(base)
        for pair in filter(None, values.values()):
            *above, last = pair[0].split(".")
            place: Any = content
            for part in above:
                place = place.get(part) if isinstance(place, dict) else None
            # A new key, or a whole section: only Hydra has the rules for these.
            if not isinstance(place, dict) or last not in place or isinstance(place[last], Mapping):
                return None
            place[last] = pair[1]
        return content

    def _base(self, words: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the composition of the words without plain values; None if it depends on the values."""
        from omegaconf import OmegaConf

        if words not in self._bases:
            try:
                raw = compose_raw(words, self._config_dir)
                task = OmegaConf.masked_copy(raw, [str(key) for key in raw if key != "hydra"])
                # With ${KEY} somewhere, setting KEY in a copy would not change the value that refers to it.
                refers = "${" in str(OmegaConf.to_container(task, resolve=False))
                self._bases[words] = None if refers else plain(raw)
            except ConfigError:
                self._bases[words] = None
        return self._bases[words]

    def _read_value(self, word: str) -> _Value | None:
        """Return the key and value of a word; None for a group's choice and for anything beyond key=value."""
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
