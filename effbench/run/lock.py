"""Keeps two processes out of one folder.

The lock is the operating system's own (POSIX, `fcntl`): it ends with its process, however that ends, so none is ever
stale. The file `.lock` says who holds it, for a person to read.
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

from effbench.errors import ConfigError
from effbench.records import RUN_FOLDER, check_new_run, require_writable

log = logging.getLogger(__name__)

NAME = ".lock"
_SIGNING_S = 2.0  # at most between taking the lock and writing who has it
_held: dict[Path, int] = {}  # folder -> process: a lock belongs to its process, and a forked one has none


@contextmanager
def holding(folder: Path, elsewhere: str = RUN_FOLDER) -> Iterator[None]:
    """`folder`, made where it is missing, for this process alone; removed again where nothing was put into it.

    Raises ConfigError naming the process that has it; `elsewhere` is the option that names another folder. Inside
    another `holding` of the same folder it does nothing, nor on torchrun's ranks other than 0, which holds it for all.
    """
    place = folder.resolve()
    if _held.get(place) == os.getpid() or _rank() > 0:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    require_writable(folder, elsewhere)
    descriptor = _acquire(folder / NAME, elsewhere)
    _held[place] = os.getpid()
    try:
        yield
    finally:
        del _held[place]
        with suppress(OSError):
            (folder / NAME).unlink(missing_ok=True)  # while it is held: who opened it meanwhile sees that it is gone
            os.close(descriptor)
        for path in made:
            with suppress(OSError):  # not empty: something was recorded
                path.rmdir()


@contextmanager
def claimed(folder: Path, resumes: bool) -> Iterator[None]:
    """`holding` of a run's folder that can hold the run; resumes: whether it holds that run already."""
    with holding(folder):
        if not resumes and _rank() == 0:
            check_new_run(folder)
        yield


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _acquire(path: Path, elsewhere: str) -> int:
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
        except OSError as error:  # a file system without locks
            log.warning(f"{path.parent} cannot be locked ({error.strerror}): start no second run there")
        if _is_still(path, descriptor):
            break
        os.close(descriptor)  # its holder ended and removed it between our two calls
    if left := _text(descriptor):
        log.info(f"note: taking over {path.parent} from {_who(left)}, which ended without a word")
    _sign(descriptor)
    return descriptor


def _opened(path: Path) -> int:
    """Of no link, which in a stranger's run would lead to a file of the reader's, and of no pipe."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EACCES):
            raise
        raise ConfigError(
            f"{path} cannot be a lock ({error.strerror}). Remove it if no run is at work there."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path} cannot be a lock: it is no regular file. Remove it.")
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)


def _signature(descriptor: int) -> str:
    """What the lock's holder wrote of itself; waits for one that has just taken the lock over."""
    deadline = time.monotonic() + _SIGNING_S
    while not _is_by_the_living(text := _text(descriptor)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return text


def _is_by_the_living(text: str) -> bool:
    """False for an unsigned lock, and for the signature of a process that no longer runs on this machine."""
    try:
        holder = json.loads(text)
        if holder["host"] == socket.gethostname():
            os.kill(int(holder["pid"]), 0)
    except PermissionError:  # another user's
        return True
    except (ValueError, KeyError, TypeError, OverflowError, ProcessLookupError):
        return False
    return True


def _text(descriptor: int) -> str:
    return os.pread(descriptor, 4096, 0).decode("utf-8", errors="replace").strip()


def _who(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {int(holder['pid'])} on {ascii(holder['host'])[1:-1]} (since {ascii(holder['since'])[1:-1]})"
    except (ValueError, KeyError, TypeError):
        return "another process"
