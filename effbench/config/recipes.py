"""The value of `recipe=`, quoted for Hydra's grammar.

`recipe=NAME` is a file of recipes/ or of the user's --config-dir; `recipe=path/to/file.yaml` is that file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from effbench.cache_dir import refuse_url
from effbench.config.static_compose import GROUP


def absolute_recipe(override: str) -> str:
    """Make the path in 'recipe=my.yaml' absolute, so that it is valid in any folder. Other overrides are unchanged."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") != GROUP or not equals:
        return override
    whole = value[:1] in ("'", '"') or Path(value).is_file()
    return f"{key}={','.join(map(_absolute, [value] if whole else value.split(',')))}"


def _absolute(value: str) -> str:
    """Return a path as an absolute, quoted one: Hydra's grammar allows few characters unquoted. Names are unchanged."""
    is_quoted = value[:1] in ("'", '"') and value[-1:] == value[:1]
    path = (
        re.sub(r"(\\+)('|$)", lambda match: match[1][: len(match[1]) // 2] + match[2], value[1:-1])
        if is_quoted
        else value
    )
    if not (path.endswith((".yaml", ".yml")) or "/" in path):
        return value
    refuse_url(path)
    return quoted(Path(os.path.expanduser(path)).resolve())  # noqa: PTH111 - Path.expanduser raises for an unknown user


def quoted(text: str | Path) -> str:
    """Quote a text for Hydra's grammar, in which a backslash is special only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), str(text))
    return f"'{escaped}'"
