"""A lock that keeps two processes out of one folder.

It is a lock of the operating system (POSIX, `fcntl`). The system releases it when the process ends, for any reason, so
no lock is ever stale. The file `.lock` names the holder for humans.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from effbench.cache_dir import is_there
from effbench.errors import ConfigError
from effbench.records import RUN_FOLDER, check_new_run, require_writable

log = logging.getLogger(__name__)

NAME = ".lock"
_SIGNING_S = 2.0  # longest time between taking the lock and writing its holder
_held: dict[Path, int] = {}  # folder -> process id: a forked process inherits this dictionary, but no locks


@contextmanager
def holding(folder: Path, elsewhere: str = RUN_FOLDER) -> Iterator[None]:
    """Lock `folder` for this process. It is created if missing, and removed again if it stays empty.

    Within another `holding` of the same folder this does nothing. Under torchrun rank 0 holds the lock for all ranks.

    Args:
        folder: the folder.
        elsewhere: option that selects another folder, for messages.

    Raises:
        ConfigError: another process holds the folder; the message names it.
    """
    place = folder.resolve()
    if _held.get(place) == os.getpid() or os.environ.get("RANK", "0") != "0":
        yield
        return
    # All folders that do not exist yet, innermost first: they are removed in this order if they stay empty.
    made = [path for path in (folder, *folder.parents) if not is_there(path)]
    require_writable(folder, elsewhere)
    descriptor = _acquire(folder / NAME, elsewhere)
    _held[place] = os.getpid()
    try:
        yield
    finally:
        del _held[place]
        with suppress(OSError):
            (folder / NAME).unlink(missing_ok=True)  # before the release: a process that waits for it then notices
            os.close(descriptor)
        for path in made:
            with suppress(OSError):  # not empty: files were written
                path.rmdir()


@contextmanager
def claimed(folder: Path, resumes: bool) -> Iterator[None]:
    """Lock a run's folder. resumes: True if the folder holds the run already; else it must be free for a new run."""
    with holding(folder):
        if not resumes and os.environ.get("RANK", "0") == "0":
            check_new_run(folder)
        yield


def _acquire(path: Path, elsewhere: str) -> int:
    """Lock the file and sign it; return its descriptor, which holds the lock until it is closed."""
    import fcntl

    while True:
        descriptor = _opened(path)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = _signature(descriptor)
            os.close(descriptor)
            raise ConfigError(
                f"{path.parent} is in use by {_who(holder)}. Wait for it or stop it, or choose another folder: "
                f"{elsewhere}."
            ) from error
        except OSError as error:  # the file system has no locks
            log.warning(
                f"{path.parent} cannot be locked ({error.strerror}), so a second run there would not be refused: "
                "start none"
            )
        # The holder may have removed the file between our open and our lock: that lock would keep nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                break
        os.close(descriptor)
    if left := _text(descriptor):
        log.info(f"note: {_who(left)} used {path.parent} and was killed; its lock is released")
    _sign(descriptor)
    return descriptor


def _opened(path: Path) -> int:
    """Open the lock file. A link is refused (an untrusted run could point it at another file), and so is a pipe."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EACCES):
            raise
        raise ConfigError(
            f"{path} cannot be a lock ({error.strerror}). Remove it if no process uses that folder."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path} cannot be a lock: it must be a regular file. Remove it.")
    return descriptor


def _sign(descriptor: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with suppress(OSError):  # a full disk: the lock is valid without its signature
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)


def _signature(descriptor: int) -> str:
    """Read the holder's signature; wait for a holder that has just taken the lock and not yet signed."""
    deadline = time.monotonic() + _SIGNING_S
    while not _signer_lives(text := _text(descriptor)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return text


def _signer_lives(text: str) -> bool:
    """Return False for an unsigned lock, or one signed by a process of this machine that has ended."""
    try:
        holder = json.loads(text)
        if holder["host"] == socket.gethostname():
            os.kill(int(holder["pid"]), 0)  # signal 0 only checks that the process exists
    except PermissionError:  # a process of another user: it exists
        return True
    except (ValueError, KeyError, TypeError, OverflowError, ProcessLookupError):
        return False
    return True


def _text(descriptor: int) -> str:
    return os.pread(descriptor, 4096, 0).decode("utf-8", errors="replace").strip()


def _who(text: str) -> str:
    """Describe the holder in plain ASCII: the file may be written by anyone."""
    try:
        holder = json.loads(text)
        return f"process {int(holder['pid'])} on {ascii(holder['host'])[1:-1]} (since {ascii(holder['since'])[1:-1]})"
    except (ValueError, KeyError, TypeError):
        return "another process"
