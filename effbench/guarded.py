"""Files from elsewhere are read through here: regular ones of a bounded size, others are refused by name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from effbench.errors import ConfigError
from effbench.units import human_bytes

TEXT_BYTES, METRICS_BYTES = 4_000_000, 100_000_000  # larger ones are none of ours
_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


class UnreadableError(ConfigError):
    """A file that cannot be read, or is not one to be read."""


class MissingFileError(UnreadableError):
    """There is no such file."""


def read_bytes(path: Path, most: int = TEXT_BYTES, follow_links: bool = True) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises MissingFileError where there is none, UnreadableError for a pipe, a device, a folder, for what is too large
    (an endless file too) or may not be read, and for a link unless `follow_links`. Never waits for a writer.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | _nofollow(follow_links))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise MissingFileError(f"{path} cannot be read: there is no such file.") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {_why(path, error)}.") from error
    try:
        _check(path, os.fstat(descriptor), most)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(descriptor)
    if len(content) > most:  # it said less of itself, as files of /proc do, or it grows
        raise UnreadableError(f"{path} cannot be read: it has more than {human_bytes(most)}.")
    return content


def read_text(path: Path, most: int = TEXT_BYTES, follow_links: bool = True) -> str:
    """As read_bytes, of UTF-8."""
    try:
        return read_bytes(path, most, follow_links).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path} cannot be read: it is no text in UTF-8 ({error.reason}).") from error


def require_regular(path: Path) -> None:
    """Raises UnreadableError where there is something at `path` that is no regular file, MissingFileError where there
    is nothing: for what a library will open by its path.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise MissingFileError(f"{path} cannot be read: there is no such file.") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {_why(path, error)}.") from error
    _check(path, status, None)
    if not os.access(path, os.R_OK):
        raise UnreadableError(f"{path} cannot be read: {_NOT_PERMITTED}.") from PermissionError()


_NOT_PERMITTED = "Permission denied; ask its owner for chmod a+r, or run as its owner"


def _nofollow(follow_links: bool) -> int:
    return 0 if follow_links else os.O_NOFOLLOW


def _check(path: Path, status: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
        raise UnreadableError(f"{path} cannot be read: it is no regular file but {kind}.")
    if most is not None and status.st_size > most:
        had = human_bytes(status.st_size)
        raise UnreadableError(f"{path} cannot be read: it has {had}; at most {human_bytes(most)} are read.")


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return _NOT_PERMITTED
    return "it is a link, which is not followed here" if path.is_symlink() else error.strerror or repr(error)
