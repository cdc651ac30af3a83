"""Composes effbench's own YAML files without Hydra, which takes half a second.

For what a person waits for at the prompt (completion, --help, the refusal of a mistyped word) and for backfilling
records. A run's config is always Hydra's; tests/config/test_static_compose.py proves that both compose the same
content for every file of conf/ and recipes/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from effbench.config.paths import conf_dir, recipes_dir
from effbench.config.yaml_text import read_yaml

ROOT = "config"
GROUP = "recipe"


def group_options(config_dir: Path | None = None) -> dict[str, list[str]]:
    """Group -> its names, as `effbench train --help` lists them; config_dir adds a user's own."""
    places = [conf_dir(), config_dir] if config_dir else [conf_dir()]
    found: dict[str, set[str]] = {GROUP: {path.stem for path in recipes_dir().glob("*.yaml")}}
    for place in places:
        for folder in place.iterdir():
            if folder.is_dir() and folder.name not in ("hydra", "__pycache__"):
                found.setdefault(folder.name, set()).update(path.stem for path in folder.glob("*.yaml"))
    return {group: sorted(name for name in found[group] if not name.startswith("_")) for group in sorted(found)}


def composed(
    choices: Iterable[tuple[str, str]] = (), groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """The config's content for these choices of groups, interpolations unresolved; other overrides are left out.

    Args:
        choices: (group, name), a name also as '[one,two]'.
        groups: `group_options()`, where the caller has it.
    """
    known = groups or group_options()
    wanted = {key: value for key, value in choices if key in known}
    root = read(conf_dir() / f"{ROOT}.yaml")
    chosen = {group: name for entry in root["defaults"] if isinstance(entry, dict) for group, name in entry.items()}
    late = {group: wanted.get(group, chosen[group]) for group in (GROUP, "debug")}  # their keys are the run's own
    for group, name in late.items():
        chosen |= _choices(group, name)
    content: dict[str, Any] = {}
    for group, name in (chosen | wanted).items():
        if group not in late:
            content[group] = {}
            for each in choices_in(name):
                _merge(content, {group: member(group, each)})
    _merge(content, {key: value for key, value in root.items() if key not in ("defaults", "hydra")})
    for group, name in late.items():
        _merge(content, member(group, name))
    return content


def choices_in(value: object) -> list[str]:
    """The names in GROUP=NAME and GROUP=[NAME,NAME], whose files are merged in that order."""
    if isinstance(value, list):
        return [str(name) for name in value]
    text = str(value)
    return [name for name in text[1:-1].split(",") if name] if text.startswith("[") else [text]


def choice_like(group: str, content: Mapping[str, Any]) -> str | None:
    """Of effbench's own choices that build this target, the one with the most values alike."""
    found = {name: member(group, name) for name in group_options()[group]}
    alike = {
        name: sum(key in content and content[key] == value for key, value in own.items())
        for name, own in found.items()
        if own.get("_target_") == content["_target_"]
    }
    return max(alike, key=lambda name: alike[name]) if alike else None


def _choices(group: str, name: str | None) -> dict[str, str]:
    """The groups that a recipe chooses, or another one that it starts from."""
    found: dict[str, str] = {}
    for entry in read(_path(group, name)).get("defaults", []) if name else []:
        if isinstance(entry, dict):
            found |= {key.removeprefix("override /"): value for key, value in entry.items()}
        elif entry != "_self_":
            found |= _choices(group, entry)
    return found


def member(group: str, name: str | None) -> dict[str, Any]:
    """A file of a group, over those of its group that it starts from."""
    own = read(_path(group, name)) if name else {}
    content: dict[str, Any] = {}
    for entry in own.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            _merge(content, member(group, entry))
    _merge(content, {key: value for key, value in own.items() if key != "defaults"})
    return content


def _path(group: str, name: str | None) -> Path:
    return (recipes_dir() if group == GROUP else conf_dir() / group) / f"{name}.yaml"


def read(path: Path) -> Mapping[str, Any]:
    """A YAML file's content, kept until the file changes; not to be written into."""
    return _read_at(path, path.stat().st_mtime_ns)


@cache
def _read_at(path: Path, _changed: int) -> Mapping[str, Any]:
    return read_yaml(path) or {}


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            below = into.setdefault(key, {})
            into[key] = below if isinstance(below, dict) else {}
            _merge(into[key], value)
        else:
            into[key] = value


def all_keys(content: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Every key of the tree, dotted, inner nodes included."""
    keys = set()
    for name, value in content.items():
        keys.add(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys |= all_keys(value, f"{prefix}{name}.")
    return keys
