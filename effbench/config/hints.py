"""Suggestions for unknown names, from the tables of other tools' names (hint_tables.py).

A hint is the last sentence of an error message; it never changes what is accepted. This module does not import torch,
torchvision or timm.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache

from effbench.config.hint_tables import ARCHS, CHOICES, KEYS, MISSING, TIMM, VALUES, VERBS
from effbench.errors import unknown_name

# What other command lines, and YAML 1.1, take for false.
_FALSE = ("false", "no", "0", "none", "null", "off")


def unknown_choice(group: str, name: str, options: Iterable[str]) -> str:
    """Return the message for an unknown choice of a group, with a suggestion.

    Args:
        group: config group.
        name: the unknown choice.
        options: the group's choices.
    """
    known = list(options)
    hint = for_choice(group, name, known)
    listed = unknown_name(group, name, known)
    advice = f"Write {hint}." if hint else _by_name(group, missing=True).get(_plain(name))
    # A known name of another tool beats the nearest spelling, which then would mislead.
    return f"{listed.rpartition(' Did you mean')[0] or listed} {advice}" if advice else listed


def for_choice(group: str, name: str, options: Iterable[str]) -> str | None:
    """Return the override to suggest for group=name.

    Args:
        group: config group.
        name: the unknown choice.
        options: the group's choices.

    Returns:
        An override; None if no suggestion is known.
    """
    known = {_plain(option): option for option in options}
    plain = _plain(name)
    if plain in known:
        return f"{group}={known[plain]}"
    if found := _by_name(group).get(plain):
        return found
    if group != "model":
        return None
    arch = name.lower().replace("-", "_")
    for pattern, override in ARCHS:
        if re.fullmatch(pattern, arch):
            return override.format(arch)
    # A name such as 'swin_mirco' looks like timm's, but is a mistyped choice of ours.
    # 0.85: only a typing error is as near as that; difflib's usual 0.6 would catch names of other models.
    slip = difflib.get_close_matches(plain, known, n=1, cutoff=0.85)
    return f"model=timm model.name={arch}" if TIMM.fullmatch(arch) and not slip else None


def for_key(key: str, value: str | None, known: Collection[str], options: Mapping[str, Sequence[str]]) -> str | None:
    """Return a sentence that says what to write instead of key=value.

    Args:
        key: the unknown key.
        value: its value; None if it has none.
        known: keys of the config.
        options: group -> its choices.

    Returns:
        The sentence; None if no suggestion is known.
    """
    plain_keys = {_plain_key(name): name for name in (*known, *options)}
    plain = _plain_key(key)
    # The key itself in another spelling: batchSize, batch-sizes.
    if same := plain_keys.get(plain) or plain_keys.get(plain.removesuffix("s")) or plain_keys.get(f"{plain}s"):
        return _with_value(f"{same}={{}}", value, options)
    section, _, last = _plain_key(key).rpartition(".")
    keys = _by_name("")
    name = f"{section}.{last}" if f"{section}.{last}" in keys else last
    found = keys.get(name)
    if found is None:
        return None
    # amp=false asks for what is the default, and so does enable_checkpointing=true: the suggestion would turn it over.
    if value is not None and "{}" not in found and (value.lower() in _FALSE) != ("enable" in name):
        return "Leave it out: it is so by default."
    target = found.partition("=")[0]
    # A key that this config does not have, such as optimizer.momentum with optimizer=adamw, does not help.
    if "." in target and target not in known and not target.startswith("hydra."):
        return None
    return _with_value(found, value, options)


def _with_value(override: str, value: str | None, options: Mapping[str, Sequence[str]]) -> str:
    """Return 'Write OVERRIDE.' with the value inserted; the value is replaced by our name for it if it has one."""
    key = override.partition("=")[0]
    if value and override == f"{key}={{}}":
        # --optimizer nadam: neither the key nor its value is ours.
        if key in options and value not in options[key]:
            return f"Write {for_choice(key, value, options[key]) or f'{key}={value}'}."
        value = for_value(key, value) or value
    return f"Write {override.replace('{}', value or 'VALUE')}."


def for_value(key: str, value: object) -> str | None:
    """Return the value to suggest for a key whose values are words."""
    names = {_plain(name): word for word, names in VALUES.get(key, {}).items() for name in (word, *names.split())}
    # YAML may give a number or a boolean: precision=16, amp=true.
    return names.get(_plain(str(value)))


def for_word(word: str, options: Mapping[str, Sequence[str]]) -> str | None:
    """Return the override that a word without '=' may mean."""
    # `off` is a choice of debug, and `cpu` of device, but both mean other things more often.
    groups = [group for group, names in options.items() if word in names and group not in ("debug", "device")]
    return f"{groups[0]}={word}" if len(groups) == 1 else None


def for_verb(word: str) -> str | None:
    """Return the verb of our command line with another tool's name."""
    return next((verb for verb, names in VERBS.items() if word.lower() in names.split()), None)


@cache
def _by_name(group: str, missing: bool = False) -> dict[str, str]:
    """Return another tool's name -> override to suggest, for a group's choices; for keys if the group is ''.

    missing: return why there is no such choice instead of an override.
    """
    table = (MISSING if missing else CHOICES).get(group, {}) if group else KEYS
    return {name: override for override, names in table.items() for name in names.split()}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _plain_key(key: str) -> str:
    return ".".join(map(_plain, key.split(".")))
