"""effbench help train GROUP: the keys of a config with defaults and comments, read from the YAML files.

The pages show what the files contain: conf/ of the checkout or the wheel, and the user's --config-dir.
"""

from __future__ import annotations

import itertools
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.cache_dir import is_file
from effbench.config import hints, names
from effbench.config import static_compose as static
from effbench.config.paths import conf_dir, recipes_dir
from effbench.errors import ConfigError

WIDTH = 120  # columns without a terminal
_KEY_WIDTH = 34  # columns of 'section.key=default'; after a longer one the comment starts on the next line
_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<rest>.*)")
_BEHIND = re.compile(r"(?:'[^']*'|\"[^\"]*\"|(?<!\s)#|[^#'\"])*\s#\s*(?P<comment>.*)")  # not in quotes or words


@dataclass
class Choice:
    """A file of a group, merged with the files it is based on.

    Attributes:
        values: its keys.
        comments: dotted key -> comment.
        about: the comment at the top of the file.
        choices: group -> choice for groups of which nobody chooses one, such as the model for a dataset.
    """

    values: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    about: str = ""
    choices: dict[str, str] = field(default_factory=dict)


def overview(config_dir: str | None) -> str:
    """Return the keys of all groups with the defaults of `effbench train`."""
    top = _read(conf_dir() / f"{static.ROOT}.yaml")
    # null: a group without a choice by default, which is recipe
    parts = [choice_page(group, name, config_dir) for group, name in _defaults() if name is not None]
    own = [_entry(key, value, top.comments) for key, value in top.values.items() if key not in ("defaults", "hydra")]
    return "\n\n".join(["keys of no group:\n" + "\n".join(own), *filter(None, parts)])


def page(words: Sequence[str], config_dir: str | None) -> str:
    """Return the help for groups, choices and keys: 'optimizer', 'optimizer=lion', 'optimizer.lr'."""
    groups = static.group_options(Path(config_dir) if config_dir else None)
    parts = []
    for word in words:
        group, equals, name = word.partition("=")
        if group not in groups:
            parts.append(_key(group, groups, config_dir))
        elif not equals:
            parts.append(_group(group, groups[group], config_dir))
        elif name in groups[group]:
            parts.append(choice_page(group, name, config_dir))
        else:
            raise ConfigError(hints.unknown_choice(group, name, groups[group]))
    return "\n\n".join(parts)


def _group(group: str, options: Sequence[str], config_dir: str | None) -> str:
    """Return the choices of a group, one a line, and the keys of the default choice."""
    chosen = dict(_defaults()).get(group)
    width = max(map(len, options), default=0) + 3
    lines = [f"{group}=NAME, one of:"]
    for name in options:
        about = _choice(group, name, config_dir).about.partition(". ")[0].rstrip(".")
        lines += wrapped(f"  {name}{' (default)' if name == chosen else ''}", about, width + 12)
    keys = choice_page(group, chosen or options[0], config_dir) if group != static.GROUP and options else ""
    more = f"effbench help train {group}=NAME: the keys of another choice."
    return "\n".join([*lines, "", *([keys, ""] if keys else []), more])


def choice_page(group: str, name: str, config_dir: str | None) -> str:
    """Return the help for one choice: the comment at the top of its file, and its keys.

    Args:
        group: such as study.
        name: of the file, without .yaml; _base for the keys that all files of the group share.
        config_dir: folder with the user's groups.
    """
    choice = _choice(group, name, config_dir)
    full_keys = group in (static.GROUP, "debug")  # files that change several groups
    entries = [
        _entry(key if full_keys else f"{group}.{key}", value, choice.comments, key)
        for key, value in _leaves(choice.values)
        # the title shows it
        if key.rpartition(".")[2] != "_target_"
    ]
    if not entries and not choice.about:
        return ""
    # the class or function, so that its documentation can be found
    target = choice.values.get("_target_")
    title = f"{group}={name}" + (f"  ({target})" if target else "")
    about = textwrap.wrap(
        choice.about, _width() - 2, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    chosen = " ".join(f"{other}={choice.choices[other]}" for other in choice.choices if group != static.GROUP)
    default = [f"  where no other is chosen: {chosen}"] if chosen else []
    return "\n".join([title, *about, *default, *entries])


def _key(key: str, groups: Mapping[str, Sequence[str]], config_dir: str | None) -> str:
    """Return the help for one key, in each choice of its group that has it."""
    group, _, last = key.partition(".")
    found = []
    # a key such as optimizer.momentum exists in some choices only
    for name in groups.get(group, []):
        choice = _choice(group, name, config_dir)
        found += [
            f"{group}={name}:\n{_entry(key, value, choice.comments, each)}"
            for each, value in _leaves(choice.values)
            if each == last
        ]
    root = _read(conf_dir() / f"{static.ROOT}.yaml")
    if key in root.values and key not in ("defaults", "hydra"):
        found.append(_entry(key, root.values[key], root.comments))
    if not found:
        known = static.all_keys(static.composed())
        raise ConfigError(names.nearest_key(key, known, None, groups))
    return "\n".join(found)


def _defaults() -> list[tuple[str, str | None]]:
    """Return (group, choice) pairs in the order of the root's defaults list."""
    entries = static.read(conf_dir() / f"{static.ROOT}.yaml")["defaults"]
    return [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]


def _choice(group: str, name: str, config_dir: str | None) -> Choice:
    """Read a file of a group; a user's folder comes after effbench's, as in Hydra."""
    places = [recipes_dir() if group == static.GROUP else conf_dir() / group]
    if config_dir:
        places.append(Path(config_dir) / group)
    path = next((place / f"{name}.yaml" for place in places if is_file(place / f"{name}.yaml")), None)
    if path is None:
        return Choice()
    own = _read(path)
    whole = Choice(about=own.about)
    # files it is based on come first, so that its own values replace theirs
    for entry in own.values.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            base = _choice(group, entry, config_dir)
            whole.values |= base.values
            whole.comments |= base.comments
            whole.choices |= base.choices
        elif isinstance(entry, dict):
            whole.choices |= static.overridden(entry)
    whole.values |= own.values
    whole.comments |= own.comments
    return whole


def _read(path: Path) -> Choice:
    text = path.read_text(encoding="utf-8")
    values = static.read(path)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} holds no keys: a file of a group is 'key: value' lines.")
    top = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    about = (line.lstrip("# ") for line in top if not line.startswith("# @package"))  # Hydra's directive
    return Choice(
        {str(key): value for key, value in values.items()}, dict(_comments(text)), " ".join(filter(None, about))
    )


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, comment on its line, or else on the lines above it); the top comment is left out."""
    above: list[str] = []
    within: list[tuple[int, str]] = []  # (indent, key) of the parents of the line
    for line in itertools.dropwhile(lambda line: line.startswith("#"), text.splitlines()):
        found = _LINE.match(line)
        if line.lstrip().startswith("#"):
            above.append(line.lstrip("# "))
        elif found:
            indent = len(found["indent"])
            # a smaller or equal indent ends the parents
            within = [(depth, key) for depth, key in within if depth < indent] + [(indent, found["key"])]
            behind = _BEHIND.match(found["rest"])
            if comment := behind["comment"].strip() if behind else " ".join(above):
                yield ".".join(key for _, key in within), comment
            above = []


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _entry(key: str, value: Any, comments: Mapping[str, str], name: str | None = None) -> str:
    comment = comments.get(name if name is not None else key, "")
    return "\n".join(wrapped(f"  {key}={_written(value)}", comment, _KEY_WIDTH))


def _written(value: Any) -> str:
    """Return a default as it is written on the command line."""
    # as YAML writes them
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return "{}" if value == {} else str(value)


def wrapped(left: str, text: str, width: int) -> list[str]:
    """Return lines with `left` and, in a second column, `text`; after a long `left` the text starts on the next line.

    Args:
        left: text of the first column.
        text: text of the second column.
        width: width of the first column.
    """
    # narrower texts would be one word a line
    room = max(30, _width() - width - 2)
    lines = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    # a long key has a line of its own
    if len(left) > width:
        lines = ["", *lines] if text else [""]
    return [
        f"{start:<{width}}  {line}".rstrip()
        for start, line in zip([left, *[""] * (len(lines) - 1)], lines, strict=True)
    ]


def _width() -> int:
    return max(60, shutil.get_terminal_size((WIDTH, 24)).columns)
