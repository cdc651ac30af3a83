"""An exported file with the record beside it, read with care: both may come from others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError
from effbench.guarded import MissingFileError, checked_version, read_bytes, require_regular
from effbench.records import sha256_of

_SCHEMA = 1  # of the records that effbench.run.export writes
_KEYS = {"format": str, "input": dict, "model": dict, "run": str, "checkpoint": dict, "sha256": str}


@dataclass(frozen=True)
class ExportedFile:
    """An exported file.

    Attributes:
        path: of the file.
        record: content of the .json file beside it.
    """

    path: Path
    record: dict[str, Any]

    @property
    def format(self) -> str:
        """The format, such as onnx."""
        return str(self.record["format"])


def read_exported(path: Path) -> ExportedFile:
    """Read the record of an exported file and check that it is the file's.

    Raises:
        ConfigError: one of the two cannot be read, or they do not belong together.
    """
    require_regular(path)
    beside = path.with_name(f"{path.name}.json")
    try:
        record = json.loads(read_bytes(beside).decode("utf-8"))
    except MissingFileError as error:
        raise ConfigError(
            f"{path} has no record {beside.name} beside it, which says what the file takes. Copy it there, or export "
            "again: effbench export RUN"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{beside} is not valid JSON ({error}).") from error
    checked_version(record.get("schema_version") if isinstance(record, dict) else None, _SCHEMA, str(beside))
    if wrong := [key for key, kind in _KEYS.items() if not isinstance(record.get(key), kind)]:
        raise ConfigError(f"{beside} is damaged: it lacks {', '.join(wrong)}. Export the run again.")
    if not isinstance(record["input"].get("shape"), list) or not isinstance(record["input"].get("name"), str):
        raise ConfigError(f"{beside} is damaged: input needs name and shape. Export the run again.")
    if record["sha256"] != sha256_of(path):
        raise ConfigError(f"{path} is not the file that {beside.name} describes (its sha256 differs). Export again.")
    return ExportedFile(path, record)
