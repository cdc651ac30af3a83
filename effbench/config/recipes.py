"""The value of `recipe=`, quoted for Hydra's grammar.

`recipe=NAME` is a file of recipes/ or of the user's --config-dir; `recipe=path/to/file.yaml` is that file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from effbench.cache_dir import is_file, refuse_url
from effbench.config.paths import recipes_dir
from effbench.config.static_compose import GROUP


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that ship with effbench."""
    return sorted(path.stem for path in recipes_dir().glob("*.yaml"))


def absolute_recipe(override: str) -> str:
    """Make the path in 'recipe=my.yaml' absolute, so that it is valid in any folder. Other overrides are unchanged."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") != GROUP or not equals:
        return override
    # A comma separates the values of a sweep, unless it belongs to the name of a file.
    whole = value[:1] in ("'", '"') or is_file(Path(value))
    parts = []
    for part in [value] if whole else value.split(","):
        path = unquoted(part)
        if path.endswith((".yaml", ".yml")) or "/" in path:
            refuse_url(path)
            absolute = Path(os.path.expanduser(path)).resolve()  # noqa: PTH111 - Path.expanduser may raise
            parts.append(quoted(absolute))  # Hydra's grammar allows few characters unquoted
        else:
            parts.append(part)  # the name of a recipe
    return f"{key}={','.join(parts)}"


def quoted(text: str | Path) -> str:
    """Quote a text for Hydra's grammar, in which a backslash is special only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), str(text))
    return f"'{escaped}'"


def unquoted(text: str) -> str:
    """Return the text that `quoted` was given; a text without quotes around it as it is."""
    quote = text[:1]
    if quote not in ("'", '"') or len(text) < 2 or text[-1] != quote:
        return text
    return re.sub(rf"(\\+)({quote}|$)", lambda match: match[1][: len(match[1]) // 2] + match[2], text[1:-1])
