"""YAML with the meaning of the command line, and of limited size.

Text without quotes is read by the rules of Hydra's overrides, so that `trainer.max_time: 1:12:00:00` and
`trainer.max_time=1:12:00:00` mean the same. YAML 1.1, as PyYAML reads it, would see numbers of base 60, octal numbers
and yes/no/on/off instead. Aliases are counted at their expanded size before they are expanded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from effbench.errors import ConfigError
from effbench.guarded import read_text

MOST_NODES, DEEPEST = 10_000, 30  # limits of a file, aliases expanded; Hydra composes 3,000 nodes a second
MOST_RECORDED_NODES = 100_000  # limit of a file written by effbench, which Hydra does not read
MOST_REFERENCES, LONGEST_REFERENCE = 500, 2_000  # ${...} in a file; characters of a text with some
# Hydra's grammar for numbers: 1_000 is one, 0777 and 1:30 are texts.
_DIGITS = r"(?:0|[1-9](?:_?[0-9])*)"
_POINT = rf"(?:{_DIGITS}\.|{_DIGITS}?\.[0-9](?:_?[0-9])*)"
INTEGER = re.compile(rf"[+-]?{_DIGITS}", re.ASCII)
FLOAT = re.compile(rf"[+-]?(?:{_POINT}|(?:{_DIGITS}|{_POINT})[eE][+-]?[0-9](?:_?[0-9])*|(?i:inf|nan))", re.ASCII)
DOTTED = re.compile(r"[+-]?\.(?i:inf|nan)", re.ASCII)  # numbers in YAML, text on the command line
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
# `! 3` and `!!str 3` are the text '3'.
_TEXT_TAGS = ("!", "tag:yaml.org,2002:str")
_MERGE = "<<"


class YamlError(ConfigError):
    """A text is not YAML, or uses a feature that is not supported here."""


def read_yaml(path: Path) -> Any:
    """Read a file written by a user. Raises UnreadableError or YamlError that names the file."""
    return parse_yaml(read_text(path), str(path))


def read_record(path: Path) -> dict[str, Any]:
    """Read a mapping from a file written by effbench, such as config.yaml. Raises like `read_yaml`."""
    content = parse_yaml(read_text(path), str(path), recorded=True)
    if not isinstance(content, dict):
        raise YamlError(f"{path} is not a config: it must hold keys and values.")
    return content


def parse_yaml(text: str, name: str, recorded: bool = False) -> Any:
    """Parse a YAML text.

    Args:
        text: the YAML text.
        name: its name in messages.
        recorded: the text was written by effbench: .inf and .nan are numbers, and the size limit is higher.

    Returns:
        Plain containers and scalars.

    Raises:
        YamlError: the text is no valid YAML, or too large. The message names the key or the line.
    """
    # Events, not yaml.load: a few aliases of aliases would expand to gigabytes before they could be counted.
    # libyaml's parser is an optional part of PyYAML.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = _Document(name, recorded)
    try:
        for event in yaml.parse(text, Loader=loader):
            document.take(event)
    except yaml.YAMLError as error:
        raise YamlError(f"{name} is no sound YAML: {' '.join(str(error).split())}.") from error
    return document.content


def scalar(text: str) -> Any:
    """Return the value of a text without quotes."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text


def write_yaml(content: Any) -> str:
    """Write plain containers as YAML that `parse_yaml` and any reader of YAML 1.1 read back equally."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that a reader of YAML 1.1 or `parse_yaml` would not read as text."""


for _tag, _pattern, _first in (
    ("int", INTEGER, "-+0123456789"),
    ("float", FLOAT, "-+.0123456789iInN"),
    ("bool", re.compile(r"(?i:true|false)"), "tTfF"),
    ("null", re.compile(r"(?i:null)"), "nN"),
):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern.pattern})$", _pattern.flags), list(_first)
    )


@dataclass
class _Node:
    """An open collection.

    Attributes:
        key: key of the next value; `...` if a key comes next.
        size: number of nodes, aliases expanded.
    """

    content: Any
    anchor: str | None
    is_mapping: bool
    key: Any = ...
    size: int = 1
    merged: dict[Any, Any] = field(default_factory=dict)


class _Document:
    """Builds a document from the events of a YAML parser."""

    def __init__(self, name: str, recorded: bool):
        self.content: Any = None
        self._name, self._recorded = name, recorded
        self._open: list[_Node] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._documents = self._nodes = self._references = 0

    def take(self, event: Any) -> None:
        """Process one event of yaml.parse; call it in order."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            # The second one would replace the first without a word.
            if self._documents > 1:
                self._refuse("it holds several documents")
        elif isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event), event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor is None or event.anchor not in self._anchors:
                self._refuse(f"the alias *{event.anchor} stands for nothing that is complete")
            value, size = self._anchors[event.anchor]
            self._add(value, None, size)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if event.tag is not None:
                self._refuse(f"the tag {event.tag} is not read here")
            if len(self._open) >= DEEPEST:
                self._refuse(f"it is nested deeper than {DEEPEST} levels")
            self._count(1)
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            self._open.append(_Node({} if is_mapping else [], event.anchor, is_mapping))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            node = self._open.pop()
            # A collection's own keys beat those merged by `<<`, in whatever order they stand.
            content = {**node.merged, **node.content} if node.is_mapping else node.content
            self._add(content, node.anchor, node.size, counted=True)

    def _add(self, value: Any, anchor: str | None, size: int, counted: bool = False) -> None:
        """Add a value to the innermost open collection. counted: its nodes were counted before."""
        if not counted:
            self._count(size)
        if anchor is not None:
            # Known only now that it is complete: an alias within its own collection would make it endless.
            self._anchors[anchor] = (value, size)
        if not self._open:
            self.content = value
            return
        node = self._open[-1]
        node.size += size
        if not node.is_mapping:
            node.content.append(value)
        elif node.key is ...:
            if isinstance(value, dict | list):
                self._refuse("a key is a collection")
            # YAML forbids it; PyYAML would keep the last value without a word.
            if value is not _MergeKey and value in node.content:
                self._refuse(f"found duplicate key {value}")
            node.key = value
        else:
            key, node.key = node.key, ...
            if key is not _MergeKey:
                node.content[key] = value
                return
            # `<<: *base`; of several bases the first has priority
            for other in reversed(value if isinstance(value, list) else [value]):
                if not isinstance(other, dict):
                    self._refuse("<< takes a mapping, or a list of them")
                node.merged |= other

    def _count(self, size: int) -> None:
        self._nodes += size
        # After each node, not at the end: a hostile file must not fill the memory first.
        most = MOST_RECORDED_NODES if self._recorded else MOST_NODES
        if self._nodes > most:
            self._refuse(f"it holds more than {most} values, aliases expanded")

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            self._refuse(f"the tag {event.tag} is not read here")
        if "${" in text:
            self._references += text.count("${")
            if self._references > MOST_REFERENCES or len(text) > LONGEST_REFERENCE:
                self._refuse(f"it holds more than {MOST_REFERENCES} references ${{...}}, or a long text of them")
        # implicit[0] is False for a text in quotes
        if not event.implicit[0] or event.tag is not None:
            return text
        is_key = bool(self._open) and self._open[-1].is_mapping and self._open[-1].key is ...
        if is_key and text == _MERGE:
            return _MergeKey
        if DOTTED.fullmatch(text):
            if not self._recorded:
                self._refuse(f"{text} is a number to YAML and text on the command line: write {text.replace('.', '')}")
            return float(text.replace(".", ""))
        try:
            return scalar(text)
        except ValueError:  # Python refuses to read integers of more than 4,300 digits
            self._refuse("a number has too many digits")

    def _refuse(self, why: str) -> NoReturn:
        """Raise YamlError with the dotted key, or the place in a list, at which the parser is."""
        path: list[str] = []
        for node in self._open:
            if node.is_mapping and node.key not in (..., _MergeKey):
                path.append(str(node.key))
            elif not node.is_mapping:
                path.append(str(len(node.content)))
        where = ".".join(path)
        raise YamlError(f"{self._name}{': ' if where else ''}{where} cannot be read: {why}.")


class _MergeKey:
    """Marks a `<<` without quotes."""


MOST_EXPANDED = 1_000_000  # most characters of a text with its ${KEY} replaced
_REFERENCE = re.compile(r"\$\{(?:oc\.[\w.]+:)?\s*(?P<key>[\w.\[\]-]+)")


def check_references(content: Any) -> None:
    """Refuse chains of references by which a few lines would expand to gigabytes.

    content: plain containers with unresolved references. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    _place(content, "", values)
    # Each key is measured once: without this cache the measuring itself would take exponential time.
    sizes: dict[str, int] = {}
    for key in values:
        _size(key, values, sizes, ())


def _place(value: Any, key: str, values: dict[str, Any]) -> None:
    values[key] = value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        _place(item, f"{key}.{name}" if key else str(name), values)


def _size(key: str, values: dict[str, Any], sizes: dict[str, int], above: tuple[str, ...]) -> int:
    """Return the expanded length of `key` in characters. A reference to itself counts 1: OmegaConf refuses it."""
    if key in sizes:
        return sizes[key]
    if key in above or key not in values:
        return 1
    if len(above) > DEEPEST:
        raise ConfigError(f"{key} comes at the end of more than {DEEPEST} references to references.")
    value = values[key]
    if isinstance(value, dict | list):
        names = value if isinstance(value, dict) else range(len(value))
        below = [f"{key}.{name}" if key else str(name) for name in names]
        size = sum(_size(item, values, sizes, (*above, key)) for item in below)
    else:
        text = value if isinstance(value, str) else ""
        found = [_absolute(match["key"], key) for match in _REFERENCE.finditer(text)]
        size = len(text) + sum(_size(item, values, sizes, (*above, key)) for item in found)
    if size > MOST_EXPANDED and key:
        raise ConfigError(f"{key} stands for more than {MOST_EXPANDED} characters once its references are replaced.")
    sizes[key] = size
    return size


def _absolute(reference: str, key: str) -> str:
    """Resolve `.a` and `..a`, which are relative to the collection that holds `key`."""
    reference = re.sub(r"\[(\w+)\]", r".\1", reference)
    dots = len(reference) - len(reference.lstrip("."))
    if not dots:
        return reference
    # OmegaConf's rule: one dot is the collection that holds the key, two are the one above it.
    above = key.split(".")[:-dots]
    return ".".join([*above, reference.lstrip(".")])
