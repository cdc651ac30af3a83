"""Publish an exported file with its record, after a check of the file on disk."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from effbench.records import replacing
from effbench.redaction import redact_environment

ELSEWHERE = "output=FOLDER"  # the remedy in messages about a full disk


def record_path(target: Path) -> Path:
    """Return the record's path: name.onnx -> name.onnx.json."""
    return target.with_name(f"{target.name}.json")


def publish_file(target: Path, content: bytes, check: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """Write `content` to `target` and a record to `target`.json, after a check.

    The record always describes the file next to it: an old record is removed before its file is replaced. If the
    process is killed between the two, a complete file without a record remains. The caller must hold the folder's lock.

    Args:
        target: path of the exported file.
        content: its bytes.
        check: gets the temporary file and returns what to record. If it raises, nothing is changed.

    Returns:
        The content of the record.

    Raises:
        NoSpaceError: the disk is full.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):  # of killed exports of the same name
        left.unlink(missing_ok=True)
    record = record_path(target)
    with replacing(record, elsewhere=ELSEWHERE) as about, replacing(target, len(content), ELSEWHERE) as stream:
        _write(stream, content)
        # the check reads the file that will be published, not the bytes in memory
        facts = dict(check(Path(stream.name)))
        facts |= {"file": target.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        # allow_nan: NaN is not JSON, and a reader in another language would refuse the record
        text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _write(about, redact_environment(text).encode("utf-8", errors="backslashreplace"))
        # the file is renamed at the end of the inner block, the record after it
        record.unlink(missing_ok=True)
    return facts


def _write(stream: IO[bytes], content: bytes) -> None:
    """Write through to the disk, so that a full disk is noticed before anything is renamed."""
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())
