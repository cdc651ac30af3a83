"""compression.json of a run that `effbench compress` made: what loading such a run needs. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.disk import pointed
from effbench.errors import ConfigError, first_line, shown
from effbench.guarded import MissingFileError, checked_version, read_bytes
from effbench.redaction import redact
from effbench.summary_schema import check_plain
from effbench.units import counted

NAME, SCHEMA = "compression.json", 1
PRUNED = "before"  # folder, in a result of `target=`, of the pruned run that its 8 bits were made of
FILES = "export"  # folder of a quantized run's file, as `effbench export` names it


def read_compression(folder: Path) -> dict[str, Any] | None:
    """Return compression.json of a run's folder; None if the run was not compressed.

    Raises:
        ConfigError: the record is damaged, or of a newer version.
    """
    path = folder / NAME
    try:
        record = json.loads(read_bytes(path, follow_links=False).decode("utf-8"))
        check_plain(record)
    except MissingFileError:
        return None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({first_line(error)}).") from error
    checked_version(record.get("schema_version") if isinstance(record, dict) else None, SCHEMA, str(path))
    if wrong := _wrong_field(record):
        raise ConfigError(f"{path} is damaged: {wrong}. Compress the run again.")
    return dict(record)


def applied(folder: Path) -> dict[str, Any]:
    """Return what was done to a run, by dotted keys such as compress.ratio, for tables of runs; {} if nothing."""
    try:
        record = read_compression(folder)
    except (ConfigError, OSError):
        return {}  # the section of the run's page says what is wrong
    if record is None:
        return {}
    options = record.get("options")
    source = record.get("source") or {}
    earlier = source.get("compression")
    found = {"method": record["method"], **(options if isinstance(options, dict) else {}), "after": earlier}
    return {f"compress.{key}": redact(value) for key, value in found.items() if value is not None}


def compressed_file(folder: Path) -> Path | None:
    """Return the file that answers for a quantized run; None for other runs."""
    record = read_compression(folder)
    return folder / FILES / record["file"] if record and record.get("file") else None


def judged_on(split: str | None, samples: int | None = None) -> str:
    """Return the samples that a bound was judged on, in words. Both are None of older records.

    Args:
        split: its name.
        samples: their number; None: it is not said.
    """
    one = "training sample" if split == "train" else "validation sample"
    return f"{one}s" if samples is None else counted(samples, one)


def best_or_last(folder: Path) -> str | None:
    """Return the name of a run's best checkpoint, without validation of its last; None if it has neither."""
    return pointed(folder / "checkpoints" / "best") or pointed(folder / "checkpoints" / "last")


def trained_since(folder: Path, record: Mapping[str, Any]) -> str | None:
    """Return the best checkpoint of a result that was trained further since it was measured; None if it was not.

    Args:
        folder: of the result.
        record: its compression.json.
    """
    measured, now = record.get("checkpoint"), best_or_last(folder)
    return None if measured is None or now == measured else now or "none"


def _wrong_field(record: Mapping[str, Any]) -> str | None:
    if not isinstance(record.get("method"), str):
        return f"method must be text; got {shown(record.get('method'))[:100]}"
    source = record.get("source")
    if source is not None and not (isinstance(source, dict) and isinstance(source.get("run"), str)):
        return f"source.run must be text; got {shown(source)[:100]}"
    name = record.get("file")
    # a path could lead out of the folder, which may be a stranger's
    if name is not None and not (isinstance(name, str) and name and Path(name).name == name):
        return f"file must be the name of a file; got {shown(name)[:100]}"
    if not isinstance(record.get("channels") or {}, dict):
        return f"channels must be a mapping; got {shown(record['channels'])[:100]}"
    zeros = record.get("zeros") or []
    if not (isinstance(zeros, list) and all(isinstance(each, str) for each in zeros)):
        return f"zeros must be a list of names; got {shown(zeros)[:100]}"
    return None
