"""Files of the groups that only `effbench study` reads, conf/study and conf/search_space; words that change them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from effbench.cache_dir import expanded, is_file
from effbench.config.paths import conf_dir
from effbench.config.words import as_meant
from effbench.config.yaml_text import YamlError, read_yaml
from effbench.errors import ConfigError, first_line, unknown_name


def options(group: str, config_dir: str | None = None) -> dict[str, Path]:
    """Return name -> file of a group; a file of the user's folder replaces effbench's file of that name."""
    places = [conf_dir(), *([expanded(config_dir)] if config_dir else [])]
    return {
        path.stem: path
        for place in places
        for path in sorted((place / group).glob("*.yaml"))
        # _base.yaml holds keys that all files share.
        if not path.stem.startswith("_")
    }


def content_of(group: str, name: str, config_dir: str | None = None) -> dict[str, Any]:
    """Return the keys of a group's file, over those of the files that its defaults list names.

    Args:
        group: study or search_space.
        name: of the file, without .yaml.
        config_dir: folder with the user's groups.

    Raises:
        ConfigError: there is no such file, or it holds no keys.
    """
    found = options(group, config_dir)
    if name not in found:
        raise ConfigError(unknown_name(group, name, found))
    return _with_bases(found[name], depth=0)


def _with_bases(path: Path, depth: int) -> dict[str, Any]:
    try:
        content = read_yaml(path) or {}
    except YamlError as error:
        # PyYAML says so of [model.hidden=[64]], and the arms of a study are lists of such words.
        hint = " Quote overrides that hold brackets: 'model.hidden=[64]'." if "flow sequence" in str(error) else ""
        raise YamlError(f"{error}{hint}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values.")
    bases = content.pop("defaults", [])
    # A file that is among its own bases would never end.
    if depth > 10 or not isinstance(bases, list):
        raise ConfigError(f"{path}: defaults must be a short list of files of this folder, such as [_base, _self_].")
    merged: dict[str, Any] = {}
    for base in bases:
        if base != "_self_":
            merged |= _with_bases(_base(path, str(base)), depth + 1)
    return merged | {str(key): value for key, value in content.items()}


def _base(path: Path, name: str) -> Path:
    """Return the file that a defaults list names: beside it, or in effbench's folder of that group."""
    # The folder of the file comes first: a user's _base.yaml replaces effbench's.
    for place in (path.parent, conf_dir() / path.parent.name):
        # A plain name: a list of defaults must not lead to files elsewhere.
        if Path(name).name == name and is_file(place / f"{name}.yaml"):
            return place / f"{name}.yaml"
    raise ConfigError(f"{path}: defaults name {name!r}, and there is no {name}.yaml beside it.")


def assigned(word: str) -> tuple[str, Any]:
    """Return (key, value) of a word KEY=VALUE, read by Hydra's grammar. Raises ConfigError for any other word."""
    from hydra.errors import HydraException

    try:
        # Hydra's own grammar, so that a word means here what it means in `effbench train`.
        override = _parser().parse_override(as_meant(word))
    except HydraException as error:
        hint = " Put a word that holds '=' in quotes." if "=" in word.partition("=")[2] else ""
        raise ConfigError(f"cannot read {word!r}: it must be KEY=VALUE ({first_line(error)}).{hint}") from error
    if override.is_sweep_override() or override.is_delete() or override.is_add():
        raise ConfigError(f"{word!r} must be KEY=VALUE with one value; write several as a list, [a,b].")
    return str(override.key_or_group), _plain(override.value())


@cache
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def _plain(value: Any) -> Any:
    """Return plain containers for Hydra's values: quoted texts become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    # Hydra's QuotedString is what is left.
    return value if value is None or isinstance(value, bool | int | float) else str(value)
