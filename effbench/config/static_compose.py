"""Compose effbench's own YAML files without Hydra, which takes half a second.

It serves interactive commands (completion, --help, refusal of mistyped words) and fills in defaults of old records. A
run's config is always composed by Hydra; tests/config/test_static_compose.py proves that both compose the same content
for every file of conf/ and recipes/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from effbench.cache_dir import is_file
from effbench.config.paths import conf_dir, recipes_dir
from effbench.config.yaml_text import read_yaml

ROOT = "config"
GROUP = "recipe"
LATE_GROUPS = (GROUP, "debug")  # merged last, at the top level
STUDY_GROUPS = ("search_space", "study")  # of `effbench study`: no sections of a run's config


def group_options(config_dir: Path | None = None) -> dict[str, list[str]]:
    """Return group -> its choices, as `effbench train --help` lists them; config_dir adds the user's."""
    places = [conf_dir(), config_dir] if config_dir else [conf_dir()]
    found: dict[str, set[str]] = {GROUP: {path.stem for path in recipes_dir().glob("*.yaml")}}
    # conf/hydra configures Hydra itself; it is no group of the run's config.
    for place in places:
        for folder in place.iterdir():
            if folder.is_dir() and folder.name not in ("hydra", "__pycache__", *STUDY_GROUPS):
                found.setdefault(folder.name, set()).update(path.stem for path in folder.glob("*.yaml"))
    # _base.yaml holds the keys that a group's files share, and is no choice.
    return {group: sorted(name for name in found[group] if not name.startswith("_")) for group in sorted(found)}


def composed(
    choices: Iterable[tuple[str, str]] = (), groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Return the config's content for choices of groups, with interpolations unresolved. Other overrides are ignored.

    Args:
        choices: (group, name); a name may be a list '[one,two]'.
        groups: result of `group_options()`, if available.
    """
    known = groups or group_options()
    wanted = {key: value for key, value in choices if key in known}
    root = read(conf_dir() / f"{ROOT}.yaml")
    chosen = _all_choices(wanted)
    content: dict[str, Any] = {}
    # Hydra's order: the groups, then the root's own keys, then the files at the top level.
    for group, name in chosen.items():
        if group not in LATE_GROUPS:
            # Also for a file without keys, such as callbacks=none: the section must exist.
            content[group] = {}
            for each in choices_in(name):
                _merge(content, {group: member(group, each)})
    _merge(content, {key: value for key, value in root.items() if key not in ("defaults", "hydra")})
    for group in LATE_GROUPS:
        for each in choices_in(chosen[group]):
            _merge(content, member(group, each))
    return content


def _all_choices(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return group -> its choice: that of the command line, else of a file that chooses for it, else the default.

    A recipe, a debug setting or a dataset chooses for other groups; of several the last in the root's list wins.
    """
    chosen = default_choices()
    decided = dict(wanted)
    for group in reversed([*chosen]):
        for name in reversed(choices_in(decided.get(group, chosen[group]))):
            decided = _choices(group, name) | decided
    return chosen | decided


def chosen_by_data(words: Iterable[str]) -> dict[str, Any]:
    """Return group -> choice for the groups that a dataset's file of effbench's chooses, because no word does.

    words: overrides of a run. Nothing is returned for a recipe, which states its own choices.
    """
    given = {word.partition("=")[0].lstrip("+~"): word.partition("=")[2] for word in words}
    name = given.get("data", default_choices()["data"])
    if given.get(GROUP, "null") != "null" or not is_file(_path("data", name)):
        return {}
    return {group: choice for group, choice in _choices("data", name).items() if group not in given}


def default_choices() -> dict[str, Any]:
    """Return group -> its choice where the command line names none; None for the recipe."""
    entries = read(conf_dir() / f"{ROOT}.yaml")["defaults"]
    return {group: name for entry in entries if isinstance(entry, dict) for group, name in entry.items()}


def choices_in(value: object) -> list[str]:
    """Return the names in GROUP=NAME or GROUP=[NAME,NAME], in the order of their merging; null names none."""
    if value is None:
        return []
    if isinstance(value, list):
        return [str(name) for name in value]
    text = str(value)
    return [name for name in text[1:-1].split(",") if name] if text.startswith("[") else [text]


def members(group: str) -> dict[str, dict[str, Any]]:
    """Return choice -> content for all choices of a group in effbench's own files."""
    return {name: member(group, name) for name in group_options()[group]}


def choice_like(
    group: str, content: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]] | None = None
) -> str | None:
    """Return the choice in effbench's own files with this target and the most equal values.

    Args:
        group: config group.
        content: its section in a config; without a target, every choice of the group is compared.
        known: result of `members(group)`, if available.

    Returns:
        The choice; of several with as many equal values, the group's default, then the first by name. None if no
        choice has the target.
    """
    target, default = content.get("_target_"), default_choices().get(group)
    alike = {
        name: sum(key in content and content[key] == value for key, value in own.items())
        for name, own in (members(group) if known is None else known).items()
        if target in (None, own.get("_target_"))
    }
    # Several choices may share a target: cnn and ds_cnn, vit_b and vit_l.
    return max(alike, key=lambda name: (alike[name], name == default)) if alike else None


def _choices(group: str, name: str | None) -> dict[str, str]:
    """Return the choices for other groups in a file, including those of files that it extends."""
    found: dict[str, str] = {}
    for entry in read(_path(group, name)).get("defaults", []) if name else []:
        if isinstance(entry, dict):
            found |= overridden(entry)
        elif entry != "_self_":
            found |= _choices(group, entry)
    return found


def overridden(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return group -> choice of an entry of a defaults list.

    Hydra's form is 'override /model: cnn', and in the file of a group 'override /model@_global_.model: cnn'.
    """
    return {key.removeprefix("override /").partition("@")[0]: value for key, value in entry.items()}


def member(group: str, name: str | None) -> dict[str, Any]:
    """Return the content of a group's file, merged over the files of its group that it extends."""
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
    """Return a YAML file's content, cached until the file changes. Do not modify it."""
    return _read_at(path, path.stat().st_mtime_ns)


@cache
def _read_at(path: Path, _changed: int) -> Mapping[str, Any]:
    """Read a file. The time of its last change is a part of the cache's key."""
    return read_yaml(path) or {}


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            below = into.setdefault(key, {})
            # A mapping replaces a value of another kind.
            into[key] = below if isinstance(below, dict) else {}
            _merge(into[key], value)
        else:
            into[key] = value


def all_keys(content: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Return the dotted keys of all nodes, inner ones included."""
    keys = set()
    for name, value in content.items():
        keys.add(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys |= all_keys(value, f"{prefix}{name}.")
    return keys
