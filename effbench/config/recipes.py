"""The value of `recipe=`, quoted for Hydra's grammar.

`recipe=NAME` is a file of recipes/ (or of the user's --config-dir); `recipe=path/to/file.yaml` is that very file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from effbench.cache_dir import refuse_url
from effbench.config.static_compose import GROUP


def absolute_recipe(override: str) -> str:
    """'recipe=my.yaml' with the file's absolute path, which holds from any folder; the rest as it is."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") != GROUP or not equals:
        return override
    whole = value[:1] in ("'", '"') or Path(value).is_file()
    return f"{key}={','.join(map(_absolute, [value] if whole else value.split(',')))}"


def _absolute(value: str) -> str:
    """A path made absolute and quoted, since Hydra's grammar allows few characters bare; a name as it is."""
    is_quoted = value[:1] in ("'", '"') and value[-1:] == value[:1]
    path = (
        re.sub(r"(\\+)('|$)", lambda match: match[1][: len(match[1]) // 2] + match[2], value[1:-1])
        if is_quoted
        else value
    )
    if not (path.endswith((".yaml", ".yml")) or "/" in path):
        return value
    refuse_url(path)
    return quoted(Path(os.path.expanduser(path)).resolve())  # noqa: PTH111 - Path's raises where there is no such user


def quoted(text: str | Path) -> str:
    r"""As Hydra's grammar takes any text: bare, it allows few characters. Backslashes count before a quote alone."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), str(text))
    return f"'{escaped}'"
