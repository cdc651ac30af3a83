"""Paths as users write them, and the folder for caches with its size limit."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from effbench.errors import ConfigError

BUDGET = "EFFBENCH_CACHE_GB"  # a property of the machine, not of a run: no config key
SHARE_OF_DISK = 0.2  # without it


def cache_home() -> Path:
    """Return $XDG_CACHE_HOME/effbench, or ~/.cache/effbench if the variable is unset or relative (as XDG requires).

    Without a writable home folder, return the second of `cache_homes`.
    """
    homes = cache_homes()
    for folder in homes:
        # it is there, or can be created below an existing folder
        there = next(path for path in (folder, *folder.parents) if is_there(path))
        if there.is_dir() and (there == folder or os.access(there, os.W_OK | os.X_OK)):
            return folder
    return homes[0]  # whoever writes to it gets the system's own error


def cache_homes() -> list[Path]:
    """Return possible cache folders: `cache_home` and this user's folder in the system's temporary folder.

    They may not exist or not be writable, and another user may have created the second one: see `distrusted`.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    # by user: a shared name would belong to whoever came first
    homes = [Path(tempfile.gettempdir()) / f"effbench-{user}"]
    with suppress(RuntimeError):  # no HOME, and no entry for this user in the system's user list
        homes.insert(0, (configured if configured.is_absolute() else Path.home() / ".cache") / "effbench")
    return homes


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return `path` with a leading ~ or ~USER replaced by the home folder.

    Shells do not replace it in quotes or after key=.

    Raises:
        ConfigError: the home folder is unknown (else a folder named ~ would be created), or the path is a URL.
    """
    text = os.fspath(path)
    # pathlib would turn https://host/file into a relative path, https:/host/file
    refuse_url(text)
    if text[:1] != "~":
        return Path(text)
    whole = os.path.expanduser(text)  # noqa: PTH111 - Path's raises a RuntimeError
    first = text.partition("/")[0]
    # unchanged: there is no such user. A file whose name begins with ~, such as ~tmp, is taken as it is
    if whole == text and not (first != "~" and os.path.lexists(first)):
        raise ConfigError(
            f"{text}: there is no home folder {first}. Write the path in full; a folder of that very name is ./{first}."
        )
    return Path(whole)


def is_there(path: Path) -> bool:
    """Return whether a file or a folder of the user's is there, as far as the system tells.

    Of these three, unlike of the methods of Path, none raises where a folder above may not be entered, or a name is too
    long: whoever opens or writes the path then gives the reason.
    """
    return os.path.exists(path)  # noqa: PTH110 - Path's raises


def is_file(path: Path) -> bool:
    """Return whether the path is a file; see `is_there`."""
    return os.path.isfile(path)  # noqa: PTH113 - Path's raises


def is_folder(path: Path) -> bool:
    """Return whether the path is a folder; see `is_there`."""
    return os.path.isdir(path)  # noqa: PTH112 - Path's raises


def refuse_url(text: str) -> None:
    """Raise ConfigError if the text is a URL and not a local path."""
    if _URL.match(text) and not os.path.lexists(text):
        raise ConfigError(
            f"{text} is a URL: effbench reads and writes local files alone. Download it, or mount it as a folder, and "
            "give its path."
        )


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def distrusted(status: os.stat_result) -> str | None:
    """Return why a cached file or folder must not be loaded: other users could have changed it. None: it is trusted.

    The owner must be this user or root, and nobody else may have write permission, except in a folder with the sticky
    bit. Systems without such owners trust all.
    """
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to another user (uid {status.st_uid})"
    # in a sticky folder, such as /tmp, others can neither rename nor remove this user's files
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        return f"other users may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def budget_bytes(folder: Path) -> int:
    """Return the limit for all decoded data in `folder`: $EFFBENCH_CACHE_GB, or a fifth of its disk."""
    text = os.environ.get(BUDGET, "").strip()
    if not text:
        there = next(path for path in (folder, *folder.parents) if is_there(path))
        return int(shutil.disk_usage(there).total * SHARE_OF_DISK)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise ConfigError(f"{BUDGET} must be a number of gigabytes, at least 0; got {text!r}. For 50 GB write 50.")
    return int(gigabytes * 1e9)


def size_of(folder: Path) -> int:
    """Return the bytes of all files in `folder` and below."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # other processes may remove it meanwhile
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
