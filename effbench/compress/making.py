"""The folder of a result: made under a hidden name, published by one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from effbench.compress.options import ELSEWHERE
from effbench.disk import move, sync_folder
from effbench.errors import ConfigError
from effbench.records import naming_disk_faults
from effbench.run.lock import NAME as LOCK
from effbench.run.lock import holding


def check_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists: a result is never written over another. Name a new one: {ELSEWHERE}.")


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside `target`, which becomes `target` by one rename at the end of the block.

    After an error, or a kill, there is no `target`. What a killed process left is removed by the next one.

    Raises:
        ConfigError: another process makes the same target, it exists, or the place cannot be written.
    """
    hidden = target.with_name(f".{target.name}.making")
    with holding(hidden, ELSEWHERE):
        _empty(hidden)
        try:
            yield hidden
            check_absent(target)
            with naming_disk_faults(target, elsewhere=ELSEWHERE):
                move(hidden, target)
                sync_folder(target.parent)
            (target / LOCK).unlink(missing_ok=True)  # it moved along
        finally:
            _empty(hidden)


def _empty(folder: Path) -> None:
    """Remove everything but the lock, which is this process's."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)
