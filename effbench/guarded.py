"""Safe reading of untrusted files: regular files of limited size, in a known version; others are refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from effbench.errors import ConfigError, shown
from effbench.escaping import for_terminal
from effbench.units import human_bytes

TEXT_BYTES, METRICS_BYTES = 4_000_000, 100_000_000  # effbench writes no larger files
_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


class UnreadableError(ConfigError):
    """The file cannot be read, or must not be read."""


class MissingFileError(UnreadableError):
    """The file does not exist."""


def read_bytes(path: Path, most: int = TEXT_BYTES, follow_links: bool = True) -> bytes:
    """Return the content of a regular file. It never waits for a writer.

    Args:
        path: the file.
        most: largest size in bytes.
        follow_links: False: refuse a symbolic link.

    Raises:
        MissingFileError: there is no such file.
        UnreadableError: a pipe, a device, a folder or a link; too large, or no permission.
    """
    try:
        # O_NONBLOCK: opening a pipe does not wait for a writer; O_NOCTTY: a terminal is not taken over
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: the name contains NUL
        raise MissingFileError(f"{path} cannot be read: there is no such file.") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {_why(path, error)}.") from error
    try:
        # of the open file, not of its name: another file could take its place in between
        _check(path, os.fstat(descriptor), most)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            content = stream.read(most + 1)  # one byte more shows that there is more
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(descriptor)
    if len(content) > most:  # it is growing, or its size was wrong, as for files in /proc
        raise UnreadableError(f"{path} cannot be read: it has more than {human_bytes(most)}.")
    return content


def read_text(path: Path, most: int = TEXT_BYTES, follow_links: bool = True) -> str:
    """Return the content of a UTF-8 file; see `read_bytes`.

    Args:
        path: the file.
        most: largest size in bytes.
        follow_links: False: refuse a symbolic link.

    Raises:
        MissingFileError: there is no such file.
        UnreadableError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most, follow_links).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path} cannot be read: it is not UTF-8 text ({error.reason}).") from error


def require_regular(path: Path) -> None:
    """Check a file that a library will open by its path.

    Raises:
        MissingFileError: there is no such file.
        UnreadableError: it is not a regular file, or reading is not permitted.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: the name contains NUL
        raise MissingFileError(f"{path} cannot be read: there is no such file.") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {_why(path, error)}.") from error
    _check(path, status, None)
    # asked for, because the library that opens the file would raise an error without a remedy
    if not os.access(path, os.R_OK):
        raise UnreadableError(f"{path} cannot be read: {_NOT_PERMITTED}.") from PermissionError()


def kind_of(path: Path, key: str = "") -> str | None:
    """Return what the user's path leads to: 'a file', 'a folder', 'a pipe' or the like; None if nothing is there.

    Raises:
        UnreadableError: the system does not tell, such as where a folder above may not be entered. `key` begins it.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: the name contains NUL
        return None
    except OSError as error:
        name = f"{key}: {for_terminal(str(path))}" if key else for_terminal(str(path))
        raise UnreadableError(f"{name} cannot be read: {_why(path, error)}.") from error
    return "a file" if stat.S_ISREG(mode) else _kind(mode)


_NOT_PERMITTED = "Permission denied; ask its owner for chmod a+r, or run as its owner"


def _check(path: Path, status: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError(f"{path} cannot be read: it is not a regular file but {_kind(status.st_mode)}.")
    if most is not None and status.st_size > most:
        had = human_bytes(status.st_size)
        raise UnreadableError(f"{path} cannot be read: it has {had}; at most {human_bytes(most)} are read.")


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "something else")


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return _NOT_PERMITTED
    # not Path's, which raises where the name is too long
    is_link = os.path.islink(path)  # noqa: PTH114
    return "it is a link, which is not followed here" if is_link else error.strerror or repr(error)


def checked_version(found: object, known: int, where: str) -> int:
    """Return the schema version of a record.

    Args:
        found: its schema_version.
        known: newest version that this effbench reads.
        where: path of the record, for the message.

    Raises:
        ConfigError: it is no version, or a newer effbench wrote the record.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        rule = "1" if known == 1 else f"a whole number from 1 to {known}"
        raise ConfigError(f"{where}: schema_version must be {rule}; got {shown(found)}.")
    if found > known:
        raise ConfigError(
            f"{where} has schema_version {shown(found)}, and this effbench reads up to {known}: a newer effbench wrote "
            "it. Install that version or a later one (pip install -U effbench)."
        )
    return found
