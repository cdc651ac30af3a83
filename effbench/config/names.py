"""Refuse mistyped words and complete unfinished ones without importing Hydra.

The functions handle effbench's own files and plain words (key=value). For anything else they return None, and Hydra
decides.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from effbench.config import hints
from effbench.config.static_compose import (
    LATE_GROUPS,
    STUDY_GROUPS,
    all_keys,
    choices_in,
    composed,
    group_options,
    members,
)
from effbench.errors import ConfigError

_ITEM = r"[\w./+-]+"
_KEY = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_PLAIN = re.compile(rf"(?P<key>{_KEY})=(?P<value>{_ITEM}|\[(?:{_ITEM}(?:,{_ITEM})*)?\])", re.ASCII)
_NAME = re.compile(r"[A-Za-z][\w-]*", re.ASCII)  # names with a leading _ are base files
_LISTED = 8  # names in a message
_NO_NAMES = frozenset({"null", "true", "false", "nan", "inf"})  # words with another meaning in Hydra's grammar


def refuse_mistyped(overrides: Sequence[str]) -> None:
    """Raise ConfigError for the first unknown name or key; return if all are known, or if only Hydra can tell."""
    pairs = [_pair(word) for word in overrides]
    groups = group_options()
    if None in pairs or _has_other_groups(overrides):
        return
    given = [pair for pair in pairs if pair is not None]
    # Choices first: they determine which keys exist.
    for key, value in given:
        unknown = [name for name in choices_in(value) if name not in groups[key]] if key in groups else []
        for name in unknown:
            if _NAME.fullmatch(name) is None or name.lower() in _NO_NAMES:
                return
            raise ConfigError(hints.unknown_choice(key, name, groups[key]))
    keys: set[str] | None = None
    for key, value in given:
        if key in groups or key.startswith("hydra"):
            continue
        keys = keys or all_keys(composed(given, groups))
        if key in STUDY_GROUPS:
            raise ConfigError(
                f"{key} is a group of `effbench study`, not of a run. Write effbench study {key}={value}."
            )
        if key not in keys:
            raise ConfigError(nearest_key(key, keys, value, groups))


def completions(words: Sequence[str], word: str) -> list[str] | None:
    """Return the completions of `word` after the overrides `words`, as Hydra would; None if only Hydra can tell."""
    pairs = [_pair(one) for one in words]
    key, equals, value = word.partition("=")
    if None in pairs or _has_other_groups(words):
        return None
    if re.fullmatch(r"[\w.]*", key, re.ASCII) is None or value[:1] in (".", "/", "\\"):  # +key, ~key, a file
        return None
    given = [pair for pair in pairs if pair is not None]
    groups = group_options()
    chosen = {name: choices_in(choice) for name, choice in given if name in groups}
    if any(set(choices) - set(groups[name]) for name, choices in chosen.items()) or key.startswith("hydra"):
        return None
    if equals and key in groups:
        return [f"{key}={name}" for name in groups[key] if name.startswith(value)]
    content = composed(given, groups)

    if equals:
        # After `key=` the key's current value is offered for editing.
        current = _at(content, key)
        if value or current is None:
            return []
        if key in dict(given) or isinstance(current, dict | list) or "${" in str(current):
            return None  # an override or an interpolation determines it
        return [f"{key}={str(current).lower() if isinstance(current, bool) else current}"]  # in Hydra's notation

    # Keys that start with `word`, one level deep: 'optimizer.' or 'optimizer.lr='.
    above, dot, last = key.rpartition(".")
    here = _at(content, above) if dot else content
    if isinstance(here, list):
        here = {str(index): item for index, item in enumerate(here)}
    names = [f"{group}=" for group in groups if group.startswith(key)]
    if isinstance(here, Mapping):
        names += [
            f"{above}{dot}{name}{'.' if isinstance(item, dict | list) else '='}"
            for name, item in here.items()
            if name.startswith(last)
        ]
    return sorted([*names, *(["hydra", "hydra."] if "hydra".startswith(key) else [])])


def _has_other_groups(overrides: Sequence[str]) -> bool:
    """Return True if groups may come from outside effbench's files: another path, a plugin, Hydra's store."""
    from importlib.util import find_spec

    # sys.modules: importing Hydra to ask it would take the half second that this module saves.
    store = sys.modules.get("hydra.core.config_store")
    stored = set(store.ConfigStore.instance().repo) - {"hydra"} if store else set()
    return (
        any(word.startswith("hydra.searchpath") for word in overrides)
        or find_spec("hydra_plugins") is not None
        or any(not name.startswith("_") for name in stored)
    )


def _pair(word: str) -> tuple[str, str] | None:
    found = _PLAIN.fullmatch(word)
    return (found["key"], found["value"]) if found else None


def _at(content: Any, key: str) -> Any:
    """Return the value of a dotted key; None if there is none."""
    for part in key.split("."):
        if not isinstance(content, Mapping):
            return None
        content = content.get(part)
    return content


def _choices_with(key: str) -> list[str]:
    """Return the choices of effbench's own that have the key, in its own group; [] if there are none."""
    group, _, rest = key.partition(".")
    if not rest or group not in group_options() or group in LATE_GROUPS:
        return []
    return [name for name, content in members(group).items() if rest in all_keys(content)]


def nearest_key(
    key: str, known: set[str], value: str | None = None, groups: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return the message for an unknown key, with a suggestion or the nearest keys.

    Where other choices of the key's group have it, they are named. The nearest keys are similar dotted keys, or keys of
    other groups with the same last part.

    Args:
        key: the unknown key.
        known: keys of the config.
        value: its value; None if it has none.
        groups: group -> its choices.
    """
    import difflib
    import shlex

    if hint := hints.for_key(key, value, known, groups or {}):
        return f"there is no key '{key}'. {hint}"
    if choices := _choices_with(key):
        group, one = key.partition(".")[0], len(choices) == 1
        listed = ", ".join(choices[:_LISTED]) + ", ..." * (len(choices) > _LISTED)
        word = f"{group}={choices[0] if one else 'NAME'} {shlex.quote(f'{key}={value}') if value else f'{key}=VALUE'}"
        return (
            f"there is no key '{key}' here. It is a key of {group}={listed}. "
            f"Write {word}{'' if one else ' with one of these names'}."
        )
    # Most often the section is wrong (trainer.lr) or left out (lr).
    same_name = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    nearest = same_name or difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.6)
    if not nearest and "." in key:
        nearest = sorted(name for name in known if name.startswith(key.split(".")[0] + "."))
    listed = ", ".join(sorted(nearest)[:_LISTED])
    return (
        f"there is no key '{key}'. {f'The nearest: {listed}.' if nearest else '`effbench train --cfg job` shows all.'}"
    )
