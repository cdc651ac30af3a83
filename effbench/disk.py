"""Differences between file systems: missing symbolic links, folders that cannot be fsynced, temporary errors.

exFAT and FAT have no symbolic links, SMB and FUSE often have none: there a small text file holds the target's name.
Network file systems may refuse a rename for a moment (ESTALE, EBUSY, EACCES): it is repeated.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

# 1.2 s in all: a longer wait would only delay the report of a true error
WAITS_S = (0.02, 0.1, 0.3, 0.8)  # before the next try
PASSING = frozenset({errno.ESTALE, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EIO, errno.EAGAIN, errno.ETXTBSY})
# what fsync answers on file systems without it, such as some FUSE and SMB mounts; anything else is a failed write
_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})
_NO_FOLDER_FSYNC = _NO_FSYNC | {errno.EACCES, errno.EPERM, errno.EISDIR}  # some cannot open a folder
_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_LONGEST_NAME = 255  # bytes, on all common file systems


def patiently(change: Callable[[], Result]) -> Result:
    """Call change(), and repeat it after temporary errors of network file systems; raise the last error."""
    for wait_s in WAITS_S:
        try:
            return change()
        except OSError as error:
            # anything else, such as a full disk, would fail again
            if error.errno not in PASSING:
                raise
        time.sleep(wait_s)
    return change()


def move(source: Path, target: Path) -> None:
    """Rename, also over an existing file; repeat after temporary errors.

    A server may do the rename and still report an error: if the source is gone after a retry, the rename succeeded.
    """
    tried = False

    def rename() -> None:
        nonlocal tried
        try:
            source.replace(target)
        except FileNotFoundError:
            if not (tried and target.exists()):
                raise
        finally:
            tried = True

    patiently(rename)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, if its file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_FOLDER_FSYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Make the content of a file durable, if its file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def point(link: Path, name: str) -> None:
    """Make `link` point to its sibling `name`: a symbolic link or a text file. It is never missing in between."""
    # made beside the link and renamed over it: a link cannot be changed in place
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(name + "\n")
            stream.flush()
            sync(stream.fileno())
    if link.is_dir() and not link.is_symlink():  # a copy of the run that followed its links
        shutil.rmtree(link)
    move(temporary, link)
    sync_folder(link.parent)


def pointed(link: Path) -> str | None:
    """Return the name that `link` points to; None if it is missing or something else."""
    with suppress(OSError, ValueError):
        if link.is_symlink():
            return link.readlink().name
        # a larger file, or one with a path, was not written by `point`
        if link.is_file() and link.stat().st_size <= _LONGEST_NAME + 1:
            name = link.read_text(encoding="utf-8").removesuffix("\n")
            return name if name.isprintable() and Path(name).name == name not in ("", "..") else None
    return None


def followed(link: Path) -> Path:
    """Return the target of `link`; `link` if it is a symbolic link, a folder or missing."""
    name = pointed(link)
    return link if name is None or link.is_symlink() else link.with_name(name)


def require_moves(folder: Path) -> None:
    """Raise OSError if files and folders cannot be created, renamed and removed in `folder`, as saving needs."""
    trial = folder / f".write-test-{os.getpid()}-{secrets.token_hex(4)}"
    moved = trial.with_name(trial.name + ".moved")
    try:
        trial.mkdir()
        # over an existing file, as a checkpoint replaces the one before
        for name in ("a", "b"):
            (trial / name).write_bytes(b"x")
        move(trial / "a", trial / "b")
        move(trial, moved)
    finally:
        for left in (trial, moved):
            shutil.rmtree(left, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Rename the folder of a failed job, so that nothing in it is overwritten; return its new path."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.failed-{number}")).exists():
        number += 1
    move(folder, aside)
    return aside
