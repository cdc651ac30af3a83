"""Find files of one kind in folders by name, and write any file name so that it can be printed."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from effbench.data.option_checks import given_folder
from effbench.errors import ConfigError, DataError
from effbench.guarded import kind_of

# Folders that archive tools, network drives and operating systems add.
_IGNORED_FOLDERS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
_IGNORED_FILES = frozenset(("thumbs.db", "desktop.ini"))  # not counted as skipped: no user put them there


@dataclass(frozen=True)
class FileKind:
    """The files of a dataset in folders.

    Attributes:
        noun: the word for one, such as 'image'.
        suffixes: in lower case, such as '.jpg'; '' for names without one.
    """

    noun: str
    suffixes: tuple[str, ...]

    def holds(self, name: str) -> bool:
        """Return True if a file of this name is one of them."""
        return os.path.splitext(name)[1].lower() in self.suffixes  # noqa: PTH122 - a Path for each name is slow


def existing_folder(root: str | Path | None, dataset: str, example: str) -> Path:
    """Return data.root as an absolute path.

    Args:
        root: the option.
        dataset: name of the dataset, for messages.
        example: files of a class, such as '*.jpg', likewise.

    Raises:
        ConfigError: it is not given.
        DataError: it is no folder.
    """
    folder = given_folder("root", root)
    # Also for data.root= on the command line, which is '': the working folder must not be read by mistake.
    if folder is None:
        raise ConfigError(
            f"data={dataset} needs data.root=DIR, a folder of DIR/CLASS/{example} or DIR/train/CLASS/{example}."
        )
    kind = kind_of(folder, "data.root")
    if kind != "a folder":
        what = "does not exist" if kind is None else "is not a folder"
        raise DataError(f"data.root={printable(folder)} {what}. Name the folder that holds the class folders.")
    return folder


def walk(folder: Path, kind: FileKind) -> tuple[list[Path], Counter[str]]:
    """Return (every path of this kind in `folder` and below, sorted; number of other files by suffix).

    Broken links are included, hidden names are not. Links to folders are followed, each folder once. Links back to a
    folder above are loops and are skipped.
    """
    seen = _folders_above(folder)
    found: list[Path] = []
    skipped: Counter[str] = Counter()
    # A list instead of recursion: a path may be deeper than Python's stack.
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            identity = _identity(here)
            entries = [] if identity in seen else visible(here)
        except DataError as error:
            # Another program may have removed it since the folder above was listed.
            if here != folder and isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                continue
            raise
        seen.add(identity)
        for entry in entries:
            if is_folder(entry):
                pending.append(Path(entry))
            elif kind.holds(entry.name) and not _is_special(entry):
                found.append(Path(entry))
            elif entry.name.lower() not in _IGNORED_FILES:
                skipped[printable(Path(entry).suffix.lower())] += 1
    return sorted(found, key=os.fspath), skipped


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Return True for a pipe, socket or device, or a link to one: reading it may never end."""
    if entry.is_file(follow_symlinks=False):  # known without a system call
        return False
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a broken link is named by whoever reads it
        return False


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in `folder`, sorted by name, without hidden ones and links to a folder above."""
    seen = _folders_above(folder) | {_identity(folder)}
    # a link to a folder above would make the whole dataset a class of itself
    folders = [Path(entry) for entry in visible(folder) if is_folder(entry)]
    return [path for path in folders if _identity(path) not in seen]


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of `folder`, sorted by name, without hidden names (.DS_Store, ._photo.jpg) and __MACOSX."""
    try:
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if entry.name[0] != "." and entry.name not in _IGNORED_FOLDERS)
            return sorted(shown, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be listed: {error.strerror}.") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True for a folder or a link to one; False for a circular link, for which is_dir raises."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _folders_above(folder: Path) -> set[tuple[int, int]]:
    """Return the identities of the folders above, for the path as written and with its links resolved."""
    above = {*folder.absolute().parents, *Path(os.path.realpath(folder)).parents}
    return {_identity(path) for path in above}


def _identity(folder: Path) -> tuple[int, int]:
    """Return (device, inode): unlike paths, equal for all links to one folder."""
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be read: {error.strerror}.") from error
    return status.st_dev, status.st_ino


def printable(name: str | os.PathLike[str]) -> str:
    r"""Return `name`, safe to print: bytes that are not UTF-8, control characters and backslashes as \xff, \n, \\."""
    shown = []
    for character in os.fspath(name):
        if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, kept by surrogateescape
            shown.append(f"\\x{ord(character) - 0xDC00:02x}")
        elif character.isprintable() and character != "\\":  # a backslash too, so that different names stay different
            shown.append(character)
        else:
            shown.append(character.encode("unicode_escape").decode("ascii"))
    return "".join(shown)
