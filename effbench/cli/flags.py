"""Splits a verb's words into Hydra's flags and overrides; flags may stand anywhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from effbench.errors import ConfigError

WITH_VALUE = {
    "--cfg": "cfg", "-c": "cfg",
    "--config-dir": "config_dir", "-cd": "config_dir",
    "--package": "package", "-p": "package",
    "--shell-completion": "completion", "-sc": "completion",
}  # fmt: skip
PLAIN = {
    "--multirun": "multirun", "-m": "multirun",
    "--resolve": "resolve",
    "--help": "help", "-h": "help",
    "--json": "json",
    "--info": "info", "-i": "info",
}  # fmt: skip
VERBOSITY = {"--quiet": logging.WARNING, "-q": logging.WARNING, "--verbose": logging.DEBUG, "-v": logging.DEBUG}
VERB_FLAGS = {  # beside --help and VERBOSITY, which every verb takes
    "train": ("cfg", "config_dir", "package", "completion", "multirun", "resolve", "info", "json"),
    "summary": ("json", "config_dir", "multirun"),
    "verify": ("json", "config_dir"),
    "recipe": ("json", "config_dir"),
    **dict.fromkeys(("eval", "predict", "export", "report", "env"), ("json",)),
}
COMMON_HELP = """Every verb takes -q, --quiet: only warnings and errors on stderr, no progress bar; and -v, --verbose:
debugging lines too, each line with its logger's name. The last of them counts."""
INFO_PAGES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass(frozen=True)
class Arguments:
    """overrides: the words that are not flags, in order. The rest: Hydra's flags of those names."""

    overrides: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def has(self, flag: str) -> bool:
        return flag in self.values

    def get(self, flag: str) -> str | None:
        return self.values.get(flag)


def take_verbosity(words: Sequence[str]) -> tuple[list[str], int | None]:
    """(the words without -q and -v, wherever they stand; the logging level that the last of them asks for)."""
    levels = [VERBOSITY[word] for word in words if word in VERBOSITY]
    return [word for word in words if word not in VERBOSITY], levels[-1] if levels else None


def show_help(text: str, asked: bool) -> int:
    """The verb's help on stdout; on stderr, as a mistake, where it was called without what it needs."""
    print(f"{text}\n\n{COMMON_HELP}", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def flags_of(verb: str) -> list[str]:
    """The long flags of a verb."""
    own = [word for word, name in {**WITH_VALUE, **PLAIN}.items() if name in ("help", *VERB_FLAGS[verb])]
    return sorted(word for word in (*own, *VERBOSITY) if word.startswith("--"))


def parse_flags(words: Sequence[str], flags: Sequence[str] = ()) -> Arguments:
    """Raises ConfigError for a flag that is neither --help nor one of `flags`, or has no value where it needs one."""
    taken = {word: name for word, name in {**WITH_VALUE, **PLAIN}.items() if name in ("help", *flags)}
    overrides: list[str] = []
    values: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag in taken and flag in WITH_VALUE:
            if not equals and not rest:
                raise ConfigError(f"{flag} needs a value.")
            values[taken[flag]] = value if equals else rest.pop(0)
        elif flag in taken:
            page = value or (rest.pop(0) if taken[flag] == "info" and rest and rest[0] in INFO_PAGES else "")
            values[taken[flag]] = page
        elif word.startswith("-") and len(word) > 1:
            known = ", ".join(sorted(name for name in (*taken, *VERBOSITY) if name.startswith("--")))
            raise ConfigError(
                f"there is no flag {word} here. Flags: {known}.{_as_option(word, rest, 'config_dir' in flags)}"
            )
        else:
            overrides.append(word)
    return Arguments(overrides, values)


def _as_option(word: str, rest: Sequence[str], of_config: bool) -> str:
    """For --epochs 5 what to write: options have no dashes here. of_config: the verb takes a config's overrides."""
    key, equals, value = word.lstrip("-").partition("=")
    if not equals:
        value = rest[0] if rest and not rest[0].startswith("-") and "=" not in rest[0] else ""
    key = key.replace("-", "_")
    if not of_config:
        return f" Options have no dashes: {key}={value or 'VALUE'}."
    from effbench.config import hints, names

    groups = names.group_options()
    hint = hints.for_key(key, value or None, names.all_keys(names.composed((), groups)), groups)
    return f" {hint}" if hint else ""


def partition_words(words: Sequence[str], options: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """(folders, values of data.* by their keys) among a verb's words; what sets one of `options` goes into them.

    An option's name tells it from a folder, which may hold a '=' too.
    """
    folders, data_overrides = [], {}
    for word in words:
        key, equals, value = word.partition("=")
        if key.startswith("data.") and equals:
            data_overrides[key.removeprefix("data.")] = value
        elif key in options and equals:
            options[key] = value
        else:
            folders.append(word)
    return folders, data_overrides
