"""An exported file and its record, put into place only after a check of the file as it lies on the disk."""

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

ELSEWHERE = "output=FOLDER"


def record_path(target: Path) -> Path:
    """name.onnx -> name.onnx.json."""
    return target.with_name(f"{target.name}.json")


def publish_file(target: Path, content: bytes, check: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """`content` at `target`, beside it `target`.json; returns what that holds.

    check(path) looks at the file under a temporary name and says what to record; what it raises leaves all as it was.
    Raises NoSpaceError where the disk is full. A record always tells of the file beside it: an older one goes before
    its file does, so a kill between the two leaves a whole file without a record.
    """
    forget_leftovers(target)
    record = record_path(target)
    with replacing(record, elsewhere=ELSEWHERE) as about, replacing(target, len(content), ELSEWHERE) as stream:
        _write(stream, content)
        facts = dict(check(Path(stream.name)))
        facts |= {"file": target.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _write(about, _text(facts))
        record.unlink(missing_ok=True)
    return facts


def forget_leftovers(target: Path) -> None:
    """Removes what killed exports of the same name left; whoever calls this holds the folder."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        left.unlink(missing_ok=True)


def _write(stream: IO[bytes], content: bytes) -> None:
    """Down to the disk, so that a full one is known before anything is renamed."""
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())


def _text(facts: Mapping[str, Any]) -> bytes:
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return redact_environment(text).encode("utf-8", errors="backslashreplace")
