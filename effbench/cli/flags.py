"""Split a verb's words into flags and overrides. Flags may be anywhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from effbench.errors import ConfigError

WITH_VALUE = {
    "--cfg": "cfg", "-c": "cfg",
    "--config-dir": "config_dir", "-cd": "config_dir",
    "--package": "package", "-p": "package",
    "--shell-completion": "completion", "-sc": "completion",
}  # fmt: skip
WITHOUT_VALUE = {
    "--multirun": "multirun", "-m": "multirun",
    "--resolve": "resolve",
    "--help": "help", "-h": "help",
    "--json": "json",
    "--info": "info", "-i": "info",
    "--plan": "plan",
    "--costs": "costs",
    "--no-data": "no_data",
}  # fmt: skip
# taken out before a verb sees its words
VERBOSITY = {"--quiet": logging.WARNING, "-q": logging.WARNING, "--verbose": logging.DEBUG, "-v": logging.DEBUG}
VERB_FLAGS = {  # in addition to --help and VERBOSITY, which every verb takes
    "train": ("cfg", "config_dir", "package", "completion", "multirun", "resolve", "info", "json"),
    "summary": ("json", "config_dir", "multirun"),
    "verify": ("json", "config_dir"),
    "bench": ("json", "config_dir"),
    "compress": ("json",),
    "recipe": ("json", "config_dir"),
    "study": ("json", "config_dir", "plan", "costs"),
    "export": ("json", "no_data"),
    **dict.fromkeys(("eval", "predict", "explain", "report", "env"), ("json",)),
}
RECIPE_ACTIONS = {"ls": 0, "show": 1, "cp": 2, "validate": 1}  # action -> number of its arguments
COMMON_HELP = """Every verb takes -q, --quiet: only warnings and errors on stderr, no progress bar
                 -v, --verbose: also debugging lines, and the logger's name on each line
If both are given, the last one counts."""
INFO_PAGES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass(frozen=True)
class Arguments:
    """Parsed words.

    Attributes:
        overrides: words that are not flags, in order.
        values: flag name -> value.
    """

    overrides: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def has(self, flag: str) -> bool:
        return flag in self.values

    def get(self, flag: str) -> str | None:
        return self.values.get(flag)


def take_verbosity(words: Sequence[str]) -> tuple[list[str], int | None]:
    """Return (the words without -q and -v, the logging level of the last one or None)."""
    levels = [VERBOSITY[word] for word in words if word in VERBOSITY]
    return [word for word in words if word not in VERBOSITY], levels[-1] if levels else None


def show_help(text: str, asked: bool) -> int:
    """Print the help of a verb and return the exit code: to stdout if asked for; to stderr after a mistake."""
    print(f"{text}\n\n{COMMON_HELP}", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def flags_of(verb: str) -> list[str]:
    """Return the long flags of a verb."""
    # --help is offered for every verb
    own = [word for word, name in {**WITH_VALUE, **WITHOUT_VALUE}.items() if name in ("help", *VERB_FLAGS[verb])]
    return sorted(word for word in (*own, *VERBOSITY) if word.startswith("--"))


def parse_flags(words: Sequence[str], flags: Sequence[str] = (), options: Mapping[str, str] | None = None) -> Arguments:
    """Parse the words.

    Args:
        words: after the verb.
        flags: names of the verb's flags.
        options: word -> the option that `--word VALUE` stands for: `option=VALUE`, as an override.

    Raises:
        ConfigError: a flag is not one of these, or lacks its value.
    """
    options = options or {}
    # Only the flags of this verb: one without effect here gets a message.
    taken = {word: name for word, name in {**WITH_VALUE, **WITHOUT_VALUE}.items() if name in ("help", *flags)}
    overrides: list[str] = []
    values: dict[str, str] = {}
    # A queue, because a flag may take the word after it.
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        option = options.get(flag.removeprefix("--")) if flag.startswith("--") else None
        if option or (flag in taken and flag in WITH_VALUE):
            if not equals and not rest:
                raise ConfigError(f"{flag} needs a value.")
            value = value if equals else rest.pop(0)
            if option:
                overrides.append(f"{option}={value}")
            else:
                values[taken[flag]] = value
        elif flag in taken:
            # --info takes an optional page; any other next word is an override
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
    """Return how to write '--epochs 5' here: options have no dashes. For a flag of other verbs, name these.

    of_config: the verb takes config overrides.
    """
    key, equals, value = word.lstrip("-").partition("=")
    if flag := {**WITH_VALUE, **WITHOUT_VALUE}.get(word.partition("=")[0]):
        return f" Verbs that have it: {', '.join(verb for verb, flags in VERB_FLAGS.items() if flag in flags)}."
    if not equals:
        # `--epochs 5`: the next word is the value, unless it is a flag or an override.
        value = rest[0] if rest and not rest[0].startswith("-") and "=" not in rest[0] else ""
    # as other tools write it: --weight-decay
    key = key.replace("-", "_")
    # verbs with a fixed set of options; the key is not checked here
    if not of_config:
        return f" Options have no dashes: {key}={value or 'VALUE'}."
    from effbench.config import hints
    from effbench.config.static_compose import all_keys, composed, group_options

    groups = group_options()
    hint = hints.for_key(key, value or None, all_keys(composed()), groups)
    return f" {hint}" if hint else ""


def partition_words(words: Sequence[str], options: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Split words into folders and data overrides; a word that sets one of `options` changes `options`.

    A folder's name may contain '=' too; only known option names make a word an option.

    Returns:
        (folders, data key -> value).

    Raises:
        ConfigError: an option has no value.
    """
    folders, data_overrides = [], {}
    for word in words:
        key, equals, value = word.partition("=")
        if key.startswith("data.") and equals:
            data_overrides[key.removeprefix("data.")] = value
        elif key in options and equals:
            options[key] = given_value(key, value)
        else:
            folders.append(word)
    return folders, data_overrides


def given_value(key: str, value: str) -> str:
    """Return the value of an option. Raise ConfigError for none, such as that of a shell variable that is not set."""
    if not value.strip():
        raise ConfigError(f"{key}= has no value. Write one, or leave it out.")
    return value


def refuse_config_dir(arguments: Arguments, what: str) -> None:
    """Raise ConfigError for a --config-dir from which nothing would be read. what: what was given, not overrides."""
    if arguments.has("config_dir"):
        raise ConfigError(
            f"--config-dir holds groups for overrides such as model=NAME, and {what} takes none. Leave it out. Modules "
            "of your own (allow_targets=[MODULE]) are found in the current folder or in PYTHONPATH."
        )


def truth(key: str, text: str) -> bool:
    """Return the value of a yes-or-no option. Raises ConfigError."""
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{key} must be true or false; got {text!r}.")
    return text.lower() == "true"
