"""Find and check the compiled library on disk, or compile it.

kernels/<key>-<digest>.so  key: hash of sources, flags, compiler and processor. digest: hash of the file's content. A
                           truncated or altered library would crash the process (SIGBUS, SIGSEGV, SIGILL).
kernels/<key>.lock         held by the compiling process; others wait for it.

Loading a library runs its code, so nothing is loaded from a folder or file that other users could write to.
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

TIMEOUT_S = 300.0  # limit for the compiler, and for waiting for another process that compiles
_DIGITS = 24  # of a hash in a file name: 96 bits
_POLL_S = 0.1

Note = Callable[[str], None]


class NotBuiltError(OSError):
    """There is no library; the message gives the reason."""


def find_or_build(key: str, command: Sequence[str], note: Note) -> Path:
    """Return the library of `key`; compile it if there is no intact one.

    Args:
        key: hash of everything that determines the library.
        command: the compiler's command line, without "-o PATH".
        note: prints a message.

    Raises:
        NotBuiltError: no folder can be used, or another process holds the lock too long.
        subprocess.SubprocessError: the compiler failed.
    """
    # the first folder that can be used: a compiled library in it, or one that it may be written to
    for home in cache_homes():
        try:
            folder = _private_folder(home / "kernels", note)
        except OSError:
            continue
        # before the lock: as a rule it is there, and a read-only cache has no lock
        if found := _verified(folder, key, note):
            return found
        if os.access(folder, os.W_OK):
            with _build_lock(folder / f"{key}.lock", note):
                # again: another process may have compiled it while this one waited
                return _verified(folder, key, note) or _compile(folder, key, command, note)
    folder = Path(tempfile.mkdtemp(prefix="effbench-kernels-"))  # for this process only
    return _compile(folder, key, command, note)


def discard(library: Path) -> None:
    """Remove a loaded library from a temporary folder of this process; it remains usable."""
    if library.parent.name.startswith("effbench-kernels-"):
        shutil.rmtree(library.parent, ignore_errors=True)


def _private_folder(folder: Path, note: Note) -> Path:
    """Create the folder, writable only by this user. Raises OSError if it cannot be trusted."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    # the parent, too: who may write to it may replace the folder
    for path in (folder, folder.parent):
        status = path.stat()
        if os.name == "posix" and status.st_uid == os.geteuid() and status.st_mode & 0o022:
            path.chmod(status.st_mode & ~0o022 & 0o7777)  # a umask of 002 allows the group to write
            status = path.stat()
        if why := distrusted(status):
            note(f"{path} is not used for compiled code: {why}")
            raise NotBuiltError(f"{path}: {why}")
    return folder


def _verified(folder: Path, key: str, note: Note) -> Path | None:
    """Return the intact library of `key`. Damaged ones are reported, and removed if permitted."""
    for path in sorted(folder.glob(f"{key}-*.so")):
        try:
            with path.open("rb") as stream:
                why = distrusted(os.fstat(stream.fileno()))
                digest = _digest(stream.read())
        except OSError as error:
            why, digest = error.strerror, ""
        if why is None and path.name == f"{key}-{digest}.so" and not path.is_symlink():
            return path
        note(f"{path} is not loaded: {why or 'it is damaged (its sha256 differs)'}; compiling again")
        with suppress(OSError):
            path.unlink()
    return None


def _compile(folder: Path, key: str, command: Sequence[str], note: Note) -> Path:
    for left in folder.glob(f"{key}.*.tmp"):  # left by a killed compiler: this process holds the lock
        shutil.rmtree(left, ignore_errors=True)
    note("compiling its C functions, once for this machine")
    # in the same folder: a rename across file systems would copy
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
            sync(stream.fileno())  # a file that is renamed but not written would be damaged after a power failure
        move(fresh, target)
        return target
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


@contextmanager
def _build_lock(path: Path, note: Note) -> Iterator[None]:
    """Let one process compile at a time. Raises NotBuiltError if another one holds the lock for TIMEOUT_S.

    If locks do not work (some network file systems), several processes compile, and each publishes a complete library.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # polled, not blocking, to give up after TIMEOUT_S
        deadline, told = time.monotonic() + TIMEOUT_S, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    note("waiting for another process that compiles its C functions")
                    told = True
                if time.monotonic() > deadline:
                    raise NotBuiltError(f"another process has been compiling for {TIMEOUT_S:.0f} s") from None
                time.sleep(_POLL_S)
            except OSError:  # no locks here
                break
        yield
    finally:
        os.close(descriptor)
