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
CARD_SUFFIX = ".md"  # of model cards


def record_path(target: Path) -> Path:
    """Return the record's path: name.onnx -> name.onnx.json."""
    return target.with_name(f"{target.name}.json")


Facts = dict[str, Any]


def publish_file(
    target: Path,
    content: bytes,
    check: Callable[[Path], Mapping[str, Any]],
    sides: Mapping[Path, Callable[[Facts], str | bytes | None]] | None = None,
) -> Facts:
    """Write `content` to `target`, a record to `target`.json after a check, and what else belongs to the file.

    Record and side files always describe the file next to them: old ones are removed before the file is replaced. If
    the process is killed in between, a complete file without them remains. Only a model card stays until the new one
    replaces it: the user may have written into it. The caller must hold the folder's lock.

    Args:
        target: path of the exported file.
        content: its bytes.
        check: gets the temporary file and returns what to record. If it raises, nothing is changed.
        sides: path of a side file -> function of the record that returns its content, or None for no such file.

    Returns:
        The content of the record.

    Raises:
        NoSpaceError: the disk is full.
    """
    sides = sides or {}
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):  # of killed exports of the same name
        left.unlink(missing_ok=True)
    record = record_path(target)
    with replacing(record, elsewhere=ELSEWHERE) as about, replacing(target, len(content), ELSEWHERE) as stream:
        _write(stream, content)
        # the check reads the file that will be published, not the bytes in memory
        facts = dict(check(Path(stream.name)))
        facts |= {"file": target.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        # allow_nan: NaN is not JSON, and a reader in another language would refuse the record
        _write(about, _encoded(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"))
        texts = {path: text for path, make in sides.items() if (text := make(facts)) is not None}
        # the file is renamed at the end of the inner block, the record after it
        for path in (record, *(side for side in sides if side.suffix != CARD_SUFFIX)):
            path.unlink(missing_ok=True)
    _write_sides(texts)
    return facts


def publish_sides(facts: Mapping[str, Any], sides: Mapping[Path, Callable[[Facts], str | bytes | None]]) -> None:
    """Write what belongs to a file that is there already; see `publish_file`.

    Args:
        facts: the file's record.
        sides: path of a side file -> function of the record that returns its content, or None for no such file.
    """
    texts = {path: make(dict(facts)) for path, make in sides.items()}
    for path, text in texts.items():
        if text is None:
            path.unlink(missing_ok=True)
    _write_sides({path: text for path, text in texts.items() if text is not None})


def _write_sides(texts: Mapping[Path, str | bytes]) -> None:
    for path, text in texts.items():
        with replacing(path, elsewhere=ELSEWHERE) as side:
            _write(side, text if isinstance(text, bytes) else _encoded(text))


def _encoded(text: str) -> bytes:
    return redact_environment(text).encode("utf-8", errors="backslashreplace")


def _write(stream: IO[bytes], content: bytes) -> None:
    """Write through to the disk, so that a full disk is noticed before anything is renamed."""
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())
