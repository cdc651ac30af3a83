"""Data files inside of the package: each has its sha256 in a file beside it, which is checked at each reading."""

from __future__ import annotations

import hashlib
from pathlib import Path

from effbench.errors import DataError


def read_shipped(path: Path) -> tuple[bytes, str]:
    """Return a file's bytes and their sha256 (hex). Raises DataError if either file is missing or damaged."""
    try:
        content = path.read_bytes()
        stated = _digest_file(path).read_text(errors="replace").partition(" ")[0]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Install effbench again.") from error
    # checked at each reading: a damaged file would give other results under the same name
    if hashlib.sha256(content).hexdigest() != stated:
        raise DataError(f"{path} is damaged: its sha256 is not {stated}. Install effbench again.")
    return content, stated


def write_shipped(path: Path, content: bytes) -> None:
    """Write a file and its sha256 beside it, and print both sizes."""
    sha256 = hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    _digest_file(path).write_text(f"{sha256}  {path.name}\n")
    print(f"{path.name}: {len(content)} bytes, sha256 {sha256}")


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
