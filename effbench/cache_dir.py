"""Paths as users write them, and where effbench keeps what can be made again."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from effbench.errors import ConfigError


def cache_home() -> Path:
    """$XDG_CACHE_HOME/effbench, or ~/.cache/effbench where that is unset or relative (to be ignored, XDG says).

    Where there is no home folder, or none in which that folder could be made, the second of `cache_homes`.
    """
    return next(filter(_can_be_made, cache_homes()), cache_homes()[0])


def _can_be_made(folder: Path) -> bool:
    """Whether it is there, or a folder above it may be written to."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there.is_dir() and (there == folder or os.access(there, os.W_OK | os.X_OK))


def cache_homes() -> list[Path]:
    """Where a cache may lie, first choice first: `cache_home`, and this user's folder under the system's temporary one.

    They need not exist nor be writable, and others may have made the second: see `distrusted`.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    homes = [Path(tempfile.gettempdir()) / f"effbench-{user}"]
    with suppress(RuntimeError):  # neither HOME nor an entry for this user in the system's list
        homes.insert(0, (configured if configured.is_absolute() else Path.home() / ".cache") / "effbench")
    return homes


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with a leading ~ or ~USER replaced by that home folder: a shell leaves it in quotes and after key=.

    Raises ConfigError for a home folder that is not there to be found: else a folder named ~ would be made. For a URL
    likewise.
    """
    text = os.fspath(path)
    refuse_url(text)
    if text[:1] != "~":
        return Path(text)
    whole = os.path.expanduser(text)  # noqa: PTH111 - Path's raises a RuntimeError
    first = text.partition("/")[0]
    if whole == text and not (first != "~" and os.path.lexists(first)):
        raise ConfigError(
            f"{text}: there is no home folder {first}. Write the path in full; a folder of that very name is ./{first}."
        )
    return Path(whole)


def refuse_url(text: str) -> None:
    """Raises ConfigError for what is a URL and no local path."""
    if _URL.match(text) and not os.path.lexists(text):
        raise ConfigError(
            f"{text} is a URL: effbench reads and writes local files alone. Download it, or mount it as a folder, and "
            "give its path."
        )


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def distrusted(status: os.stat_result) -> str | None:
    """Why a cached file or folder must not be loaded from: others could have put or changed what it holds.

    It must belong to this user or to root, and no one else may write to it, but for a folder with the sticky bit.
    None: nothing is wrong with it, or this system has no such owners.
    """
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to another user (uid {status.st_uid})"
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        return f"other users may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None
