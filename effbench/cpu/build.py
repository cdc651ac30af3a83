"""The compiled library on disk: looked for, checked, compiled where it is missing.

kernels/<key>-<digest>.so  key: of sources, flags, compiler and processor. digest: of the file's own content, without
                           which a cut or altered library would kill the process (SIGBUS, SIGSEGV, SIGILL).
kernels/<key>.lock         held by the one process that compiles; the others wait for it.

A folder or file that others could have written is never loaded from: loading runs the file's code.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from effbench.cache_dir import cache_homes, distrusted
from effbench.disk import move, sync

TIMEOUT_S = 300.0  # of the compiler, and of waiting for another process that runs it; a busy machine takes its time
_DIGITS = 24
_LOOK_S = 0.1

Note = Callable[[str], None]


class NotBuiltError(OSError):
    """There is no library, and why."""


def built(key: str, command: Sequence[str], tell: Note) -> Path:
    """The library of `key`; made by `command` + ["-o", PATH] where there is none that is whole.

    Raises NotBuiltError or subprocess.SubprocessError where there is none to be had.
    """
    for home in cache_homes():
        try:
            folder = _own_folder(home / "kernels", tell)
        except OSError:
            continue
        if found := _whole(folder, key, tell):
            return found
        if os.access(folder, os.W_OK):
            with _alone(folder / f"{key}.lock", tell):
                return _whole(folder, key, tell) or _compiled(folder, key, command, tell)
    folder = Path(tempfile.mkdtemp(prefix="effbench-kernels-"))  # for this process alone
    return _compiled(folder, key, command, tell)


def discard(library: Path) -> None:
    """Removes one that lies in a folder made for this process alone; once loaded it needs no name."""
    if library.parent.name.startswith("effbench-kernels-"):
        shutil.rmtree(library.parent, ignore_errors=True)


def _own_folder(folder: Path, tell: Note) -> Path:
    """The folder, made, with no one else's right to write in it. Raises OSError where it cannot be trusted."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for path in (folder, folder.parent):
        status = path.stat()
        if os.name == "posix" and status.st_uid == os.geteuid() and status.st_mode & 0o022:
            path.chmod(status.st_mode & ~0o022 & 0o7777)  # as a umask of 002 makes it
            status = path.stat()
        if why := distrusted(status):
            tell(f"{path} is not used for compiled code: {why}")
            raise NotBuiltError(f"{path}: {why}")
    return folder


def _whole(folder: Path, key: str, tell: Note) -> Path | None:
    """The library of `key` that is what was compiled; others are said, and removed where that is permitted."""
    for path in sorted(folder.glob(f"{key}-*.so")):
        try:
            with path.open("rb") as stream:
                why = distrusted(os.fstat(stream.fileno()))
                digest = _digest(stream.read())
        except OSError as error:
            why, digest = error.strerror, ""
        if why is None and path.name == f"{key}-{digest}.so" and not path.is_symlink():
            return path
        tell(f"{path} is not loaded: {why or 'it is damaged (its sha256 differs)'}; compiling again")
        with suppress(OSError):
            path.unlink()
    return None


def _compiled(folder: Path, key: str, command: Sequence[str], tell: Note) -> Path:
    for left in folder.glob(f"{key}.*.tmp"):  # of a compiler that was killed: who holds the lock is alone here
        shutil.rmtree(left, ignore_errors=True)
    tell("compiling its C functions, once for this machine")
    scratch = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".tmp", dir=folder))
    try:
        fresh = scratch / "fresh.so"
        subprocess.run(
            [*command, "-o", str(fresh)], check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=TIMEOUT_S,
        )  # fmt: skip
        fresh.chmod(0o755)
        with fresh.open("rb") as stream:
            target = folder / f"{key}-{_digest(stream.read())}.so"
            sync(stream.fileno())
        move(fresh, target)
        return target
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


@contextmanager
def _alone(path: Path, tell: Note) -> Iterator[None]:
    """One process at a time. Raises NotBuiltError when another has held the lock for TIMEOUT_S.

    Without locks (some network file systems) several compile; each puts a whole library into place.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline, told = time.monotonic() + TIMEOUT_S, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    tell("waiting for another process that compiles its C functions")
                    told = True
                if time.monotonic() > deadline:
                    raise NotBuiltError(f"another process has been compiling for {TIMEOUT_S:.0f} s") from None
                time.sleep(_LOOK_S)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)
