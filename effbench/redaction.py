"""Redaction: secrets in everything a run writes become ***.

A secret is: the value of an environment variable with a secret name (HF_TOKEN, AWS_SECRET_ACCESS_KEY); the value of a
config key or override with a secret name (api_key=…); the user part of a URL (https://me:pass@host).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import quote

REDACTED = "***"
MIN_LENGTH = 6  # of a variable's value: values such as '1' or 'true' occur everywhere

# Whole words between separators or case changes; 'keyboard', 'author' and 'tokens' do not match.
_IN_KEYS = frozenset(
    {"token", "secret", "password", "passwd", "passphrase", "credential", "credentials", "auth", "authorization",
     "apikey", "cookie"}
)  # fmt: skip
_IN_VARIABLES = _IN_KEYS | {"tokens", "secrets", "passwords", "pwd", "private", "key", "keys", "pat"}
_PAIRS_IN_KEYS = (("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"))
_ENDINGS = ("token", "secret", "password", "passwd", "apikey")  # MYTOKEN, dbpassword
_NAMES_OF_TENSORS = frozenset(
    {"cls", "class", "mask", "pad", "eos", "bos", "sep", "unk", "dist", "reg"}
)  # cls_token: a tensor
_SIZES_OF_TOKENS = frozenset(
    {
        "dim",
        "dims",
        "dropout",
        "embed",
        "embedding",
        "length",
        "merging",
        "mixer",
        "mixing",
        "norm",
        "pool",
        "pooling",
        "ratio",
        "reduction",
        "shift",
        "size",
        "type",
    }
)  # token_dropout, token_dim: options of a model

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|[0-9]+")
_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"]+@")
_NAMED = re.compile(r"""([A-Za-z_][\w.\-]*)['"]?\s*[=:]\s*""")
_VALUE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\{[^}]*\}|[^\s'",;&)}\]]+""")
_HARMLESS = ("null", "None", "true", "false", "True", "False", "''", '""')
_OVERRIDE = re.compile(r"[+~]*(?P<key>[A-Za-z_][\w.\-/@]*)=(?!\s)")
_YAML_ESCAPES = {
    "\0": "0", "\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r", "\x1b": "e", '"': '"',
    "\\": "\\", "\x85": "N", "\xa0": "_", "\u2028": "L", "\u2029": "P",
}  # fmt: skip


def redact(value: Any) -> Any:
    """Return plain containers and text with *** for each secret; other values unchanged.

    In a mapping, a value under a secret name is replaced completely; texts lose the secrets in them.
    """
    return _redacted(value, _from_environment())


def redact_environment(text: str) -> str:
    """Replace only values of secret variables: for complete files, where `a: b` may mean anything."""
    return _without(text, _from_environment())


@lru_cache(maxsize=4096)  # thousands of configs share their keys
def is_secret_key(name: str) -> bool:
    """Return True if the last part of a config key is a secret name."""
    words = [word.lower() for word in _WORD.findall(name.rpartition(".")[2])]
    pairs = set(pairwise(words))
    # cls_token and such name tensors of a model
    if not words or (words[-1] == "token" and len(words) > 1 and words[-2] in _NAMES_OF_TENSORS):
        return False
    if words[0] == "token" and len(words) == 2 and words[1] in _SIZES_OF_TOKENS:
        return False
    return bool(_IN_KEYS & set(words)) or bool(pairs & set(_PAIRS_IN_KEYS)) or words[-1].endswith(_ENDINGS)


def is_secret_variable(name: str) -> bool:
    """Return True if an environment variable has a secret name."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    if name in ("PWD", "SSH_AUTH_SOCK"):  # these hold paths
        return False
    return bool(_IN_VARIABLES & set(words)) or any(word.endswith(_ENDINGS) for word in words)


def _from_environment() -> re.Pattern[str] | None:
    """Return a pattern for all secret values, also in the forms of JSON, YAML, repr and URLs; the longest first."""
    found: dict[str, str] = {}  # text -> its pattern
    for name, value in os.environ.items():
        if len(value) < MIN_LENGTH or not is_secret_variable(name):
            continue
        texts = {value, value.strip(), quote(value, safe=""), value.replace("'", "''"), repr(value)[1:-1]}
        texts |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
        # YAML folds long texts, so a space may be a line break
        found |= {text: r"\s+".join(map(re.escape, re.split(r"\s+", text))) for text in texts}
        if not all(" " <= character <= "~" for character in value):  # PyYAML then uses double quotes
            found |= _in_yaml(value)
    # the longest first: a shorter secret inside of it would leave the rest visible
    patterns = [found[text] for text in sorted(found, key=len, reverse=True) if len(text) >= MIN_LENGTH]
    return re.compile("|".join(patterns)) if patterns else None


def _in_yaml(value: str) -> dict[str, str]:
    """Return {text: pattern} of a value as PyYAML writes it in double quotes, where lines are folded after escapes."""
    text = pattern = ""
    for character in value:
        code = ord(character)
        if character in _YAML_ESCAPES:
            written = f"\\{_YAML_ESCAPES[character]}"
        elif " " <= character <= "~":
            written = character
        else:
            written = f"\\x{code:02X}" if code <= 0xFF else f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
        text += written
        pattern += rf"{re.escape(written)}(?:\\\n *\\?)?"
    return {text: pattern}


def _without(text: str, secrets: re.Pattern[str] | None) -> str:
    return text if secrets is None else secrets.sub(REDACTED, text)


def _redacted(value: Any, secrets: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _text(value, secrets)
    if isinstance(value, Mapping):
        return {
            (_without(key, secrets) if isinstance(key, str) else key): _value_of(key, item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(item, secrets) for item in value]
    return value


def _value_of(key: Any, item: Any, secrets: re.Pattern[str] | None) -> Any:
    """Return the value of `key`; empty values, flags and references to variables are not secret."""
    harmless = item is None or isinstance(item, bool) or item in ("", "???")
    if harmless or not is_secret_key(str(key)):
        return _redacted(item, secrets)
    # a reference names a variable, but does not show its value
    return item if isinstance(item, str) and re.fullmatch(r"\$\{oc\.env:\w+\}", item) else REDACTED


def _text(text: str, secrets: re.Pattern[str] | None) -> str:
    text = _without(text, secrets)
    whole = _OVERRIDE.match(text)
    # the whole rest: a value may hold spaces and quotes
    if whole and is_secret_key(whole["key"].replace("/", ".")) and text[whole.end() :] not in _HARMLESS:
        return text[: whole.end()] + REDACTED
    text = _ADDRESS.sub(f"{REDACTED}@", text)

    # values after secret names within a text, such as "refused: api_key='x', lr=0.1"
    parts, start = [], 0
    for named in _NAMED.finditer(text):
        value = _VALUE.match(text, named.end())
        # not within a value that is removed already
        secret = named.start() >= start and value is not None and is_secret_key(named[1])
        if secret and value is not None and value[0] not in _HARMLESS:
            parts += [text[start : value.start()], REDACTED]
            start = value.end()
    return "".join([*parts, text[start:]])
