"""Splits a verb's words into Hydra's flags and overrides; flags may stand anywhere."""

from __future__ import annotations

import re
import shlex
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
CONFIG_FLAGS = ("cfg", "config_dir", "package", "completion", "multirun", "resolve", "info")
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


def split(words: Sequence[str], flags: Sequence[str] = ()) -> Arguments:
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
            known = ", ".join(sorted(name for name in taken if name.startswith("--")))
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
    hint = hints.for_key(key, value or None, names.leaves(names.composed((), groups)), groups)
    return f" {hint}" if hint else ""


def sorted_out(words: Sequence[str], options: dict[str, str]) -> tuple[list[str], dict[str, str]]:
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


def go_on_with(words: Sequence[str], config_dir: str | None, allow_targets: Sequence[str]) -> str:
    """The command line that goes on, as a shell takes it: with what no run's folder may say."""
    folder = ["--config-dir", config_dir] if config_dir else []
    allowed = [f"allow_targets=[{','.join(allow_targets)}]"] if allow_targets else []
    return shlex.join(["effbench", "train", *words, *folder, *allowed])


PASSING = ("resume", "allow_targets", "hydra")  # keys of one sitting


def override_key(word: str) -> str:
    """'optimizer.lr' of '+optimizer.lr=3e-4'."""
    return word.partition("=")[0].lstrip("+~")


def passing(word: str) -> bool:
    """Whether an override is of one sitting alone: where things lie, and what may be built, which no folder may say."""
    return re.split("[./@]", override_key(word))[0] in PASSING


_RECORDED = re.compile(r"(?:\+\+|\+|~)?(?P<key>[A-Za-z_$][\w.$/-]*)(?:=.*)?", re.ASCII | re.DOTALL)
LONGEST_RECORDED = 100_000  # characters of all words: Hydra takes a second to read 20,000


def recorded(words: Sequence[str], where: str) -> list[str]:
    """Words read from a run's or a sweep's record, without those of one sitting. Raises ConfigError for what no record
    may say: a stranger's could put a file in another place by it (`group@package=...`).
    """
    if sum(map(len, words)) > LONGEST_RECORDED:
        raise ConfigError(f"{where} holds more than {LONGEST_RECORDED} characters of overrides.")
    for word in words:
        if _RECORDED.fullmatch(word) is None:
            raise ConfigError(
                f"{where} holds the override {word[:200]!r}, which is not read from a record: only KEY=VALUE is. "
                "Start a new run with the words that you want."
            )
    return [word for word in words if not passing(word)]


def merged(earlier: Sequence[str], now: Sequence[str]) -> list[str]:
    """The overrides of before and those given now, which stand for earlier ones of the same key."""
    keys = {override_key(word) for word in now}
    return [*(word for word in earlier if override_key(word) not in keys), *now]
