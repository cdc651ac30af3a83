"""Read overrides as users mean them: a path is always text, and a recipe is a file or a name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from effbench.cache_dir import expanded
from effbench.config.recipes import absolute_recipe, quoted
from effbench.errors import ConfigError, shown

# section -> its keys that name a file or folder; "" for the config's top level
PATHS = {
    "": ("resume",),
    "data": ("root", "cache_dir", "file", "val_file", "test_file"),
    "model": ("pretrained",),
    "sweep": ("resume",),
    "hydra": ("run.dir", "sweep.dir"),
}
PATH_KEYS = frozenset(f"{section}.{key}".lstrip(".") for section, keys in PATHS.items() for key in keys)
_TEXT_KEYS = PATH_KEYS | {"data.tokenizer"}  # a kind of tokenizer, or a path
# texts that Hydra's grammar would read as a number or a boolean, or reject
_NOT_TEXT = re.compile(r"~.*|true|false|[+-]?(inf|nan|\.?[0-9][0-9_.]*(e[+-]?[0-9_]+)?)", re.IGNORECASE)


def as_meant(override: str) -> str:
    """Quote the value of a path's key if Hydra would misread it, such as a folder 2024 or ~/photos."""
    key, equals, value = override.partition("=")
    if not equals or key.lstrip("+") not in _TEXT_KEYS or value[:1] in ("'", '"', "[", "$"):
        return absolute_recipe(override)
    # A name that exists is one path, even with a comma in it; else a comma separates the values of a sweep.
    whole = bool(value) and value.lower() != "null" and os.path.lexists(os.path.expanduser(value))  # noqa: PTH111
    parts = [value] if whole else value.split(",")
    return f"{key}={','.join(quoted(part) if whole or _NOT_TEXT.fullmatch(part) else part for part in parts)}"


def boolean_word(value: object) -> str | None:
    """Return 'true' or 'false' for a text such as 'yes' or 'off', which YAML 1.2 and our command line read as text."""
    word = value.lower() if isinstance(value, str) else ""
    return "true" if word in ("true", "yes", "on", "y") else "false" if word in ("false", "no", "off", "n") else None


def with_paths_as_text(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with its paths as text: YAML reads a folder named 2024 as a number.

    Raises:
        ConfigError: the text is lost, because YAML reads 2024.10 as 2024.1 and true as a boolean.
    """
    whole = dict(content)
    for section, keys in PATHS.items():
        values = whole.get(section) if section else whole
        if not isinstance(values, Mapping):
            continue
        texts = dict[str, str]()
        for key in keys:
            value = values.get(key)
            if isinstance(value, bool | float):
                name = f"{section}.{key}".lstrip(".")
                raise ConfigError(f"{name} must be text; YAML reads it as {shown(value)}. Put it in quotes.")
            if isinstance(value, int):
                texts[key] = str(value)
        whole = {**whole, **texts} if not section else {**whole, section: {**values, **texts}}
    return whole


def expand_folders(raw: Any) -> None:
    """Expand ~ in hydra.run.dir and hydra.sweep.dir, in place: Hydra would create a folder named ~."""
    from omegaconf import OmegaConf, open_dict, read_write

    for part in ("run", "sweep"):
        node = OmegaConf.select(raw, f"hydra.{part}")
        # Not resolved: the name may hold ${now:…}, which Hydra resolves when it makes the folder.
        unresolved = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else None
        text = unresolved.get("dir") if isinstance(unresolved, dict) else None
        if isinstance(text, str) and text.startswith("~"):
            # Hydra hands over its node read-only, and closed to new keys.
            with read_write(raw), open_dict(raw):
                OmegaConf.update(raw, f"hydra.{part}.dir", str(expanded(text)))
