"""Compare two configs: are they the same experiment, and which keys differ?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

EPHEMERAL_KEYS = ("resume", "allow_targets", "schema_version")  # of an invocation or of the record: no settings

# Paths, logging, which device and how many threads: they do not make another experiment. The other keys of device do:
# tf32 and channels_last change the numbers.
PLACES = ("device.name", "device.threads", "logger.", "checkpoint.background", "data.root", "data.cache_dir",
          "data.num_workers", "data.timeout_s")  # fmt: skip


def config_digest(content: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a config in plain containers; the order of keys does not matter."""
    lasting = {key: value for key, value in content.items() if key not in EPHEMERAL_KEYS}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True, default=str).encode()).hexdigest()


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (key, value before, value now) of each leaf that differs; a missing key has value None."""
    old, new = leaves(before), leaves(now)
    return [(key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def leaves(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of all leaves (empty mappings included), without EPHEMERAL_KEYS."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if not prefix and key in EPHEMERAL_KEYS:
            continue
        # An empty mapping is a leaf: else {} and a missing key would look the same.
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
