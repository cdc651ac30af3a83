"""Whether two configs are the same experiment, and where they are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

EPHEMERAL_KEYS = ("resume", "allow_targets", "schema_version")  # of an invocation or of the record, not settings

# Where data lie and what computes: none of it makes another experiment.
PLACES = ("device.", "logger.", "checkpoint.background", "data.root", "data.cache_dir", "data.num_workers",
          "data.timeout_s")  # fmt: skip


def config_digest(content: Mapping[str, Any]) -> str:
    """sha256 (hex) of a config's plain containers, whatever the order of their keys."""
    lasting = {key: value for key, value in content.items() if key not in EPHEMERAL_KEYS}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True, default=str).encode()).hexdigest()


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value before, value now) of each leaf that is not the same; None where there was no such key."""
    old, new = leaves(before), leaves(now)
    return [(key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def leaves(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of all that is no mapping, without EPHEMERAL_KEYS."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if not prefix and key in EPHEMERAL_KEYS:
            continue
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
