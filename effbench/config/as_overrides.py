"""Express a config as overrides, so that the command line can resume a run that was started in Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from effbench.config import static_compose as static
from effbench.config.compare import EPHEMERAL_KEYS
from effbench.config.compose import compose_raw, plain
from effbench.config.recipes import quoted

_NOTHING = object()  # stands for a missing key: null is a value


def words_for(content: Mapping[str, Any]) -> list[str]:
    """Return overrides that compose to `content`: the nearest choice of each group, then single values."""
    groups, choices = static.group_options(), list[str]()
    for group, names in groups.items():
        if group not in content:
            continue
        # The nearest choice differs in the fewest keys.
        distances: dict[str, int] = {}
        for choice in names:
            usual = static.composed([(group, choice)], groups)[group]
            keys = {**usual, **content[group]}
            distances[choice] = sum(usual.get(key, _NOTHING) != content[group].get(key, _NOTHING) for key in keys)
        choices.append(f"{group}={min(distances, key=distances.__getitem__)}")

    wanted, defaults = _values(content), _values(plain(compose_raw(choices)))
    shared = wanted.keys() & defaults.keys()
    # 1 == True == 1.0 in Python, but not in a config.
    same = {key for key in shared if wanted[key] == defaults[key] and type(wanted[key]) is type(defaults[key])}
    changed = [key for key in wanted if key not in same]
    gone = [key for key in defaults if key not in wanted]
    return [*choices, *(f"~{key}" for key in gone), *(f"++{key}={_text(wanted[key])}" for key in changed)]


def _values(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return section.key -> value, without the keys of one session. Deeper mappings are values: keys can hold dots."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": item for key, item in value.items()}
        elif name not in EPHEMERAL_KEYS:
            found[name] = value
    return found


def _text(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):  # before int: True is an int in Python
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    # ${…} in a text would be resolved.
    return str(value) if isinstance(value, int) else quoted(str(value).replace("${", "\\${"))
