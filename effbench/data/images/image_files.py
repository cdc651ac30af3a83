"""Find image files by name, and write any file name so that it can be printed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from effbench.cache_dir import expanded
from effbench.errors import DataError

SUFFIXES = (
    ".bmp", ".dib", ".gif", ".jfif", ".jif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".pjp", ".pjpeg", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
# Folders that archive tools, network drives and operating systems add.
_IGNORED_FOLDERS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
_IGNORED_FILES = frozenset(("thumbs.db", "desktop.ini"))  # not counted as skipped: no user put them there


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Return the given files in order; for a folder its files with an image suffix, sorted.

    A file given directly is taken with any suffix.

    Raises:
        DataError: a path does not exist, a folder or the list is empty, or a folder holds runs (their curves.png are
            no inputs).
    """
    found: list[Path] = []
    for path in map(expanded, paths):
        if _is_folder(path):
            images, _ = walk(path)
            found += images
            if not images:
                raise DataError(f"{printable(path)} holds no image file ({', '.join(SUFFIXES)}).")
            # A run folder given by mistake: its charts are no photos, and a prediction for them would look valid.
            curves = [
                image for image in images if image.name == "curves.png" and (image.parent / "metrics.csv").exists()
            ]
            if curves:
                raise DataError(
                    f"{printable(path)} holds a run, whose {printable(curves[0])} is no photo. Name image files, or "
                    "folders of them."
                )
        elif os.path.lexists(path):  # a broken link too: `decode` names it with the reason
            found.append(path)
        else:
            raise DataError(f"{printable(path)} does not exist. Name image files, or folders of them.")
    if not found:
        raise DataError("No image was named. Name image files, or folders of them.")
    return found


def walk(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return (every path with an image suffix in `folder` and below, sorted; number of other files by suffix).

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
            elif entry.name.lower().endswith(SUFFIXES):
                found.append(Path(entry))
            elif entry.name.lower() not in _IGNORED_FILES:
                skipped[printable(Path(entry).suffix.lower())] += 1
    return sorted(found, key=os.fspath), skipped


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


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a folder above may not be entered
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}.") from error


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
