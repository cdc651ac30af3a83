"""Find image files by name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from effbench.cache_dir import expanded, is_there
from effbench.data.folder_files import FileKind, printable, walk
from effbench.errors import DataError

SUFFIXES = (
    ".bmp", ".dib", ".gif", ".jfif", ".jif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".pjp", ".pjpeg", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
IMAGES = FileKind("image", SUFFIXES)


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
            images, _ = walk(path, IMAGES)
            found += images
            if not images:
                raise DataError(f"{printable(path)} holds no image file ({', '.join(SUFFIXES)}).")
            # A run folder given by mistake: its charts are no photos, and a prediction for them would look valid.
            curves = [
                image for image in images if image.name == "curves.png" and is_there(image.parent / "metrics.csv")
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


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a folder above may not be entered
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}.") from error
