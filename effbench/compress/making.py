"""The folder of a result, or of several: made under a hidden name, published by one rename."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from effbench.compress.options import ELSEWHERE
from effbench.disk import move, sync_folder
from effbench.errors import ConfigError, OutOfTimeError, ThresholdError
from effbench.records import naming_disk_faults, naming_place, replacing
from effbench.run.lock import NAME as LOCK
from effbench.run.lock import holding

log = logging.getLogger(__name__)

PLAN = "plan"  # file in the hidden folder of several results: which command makes them
CHOSEN = "result"  # folder in it that is published in its place, if only one of the results is wanted


def check_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists: a result is never written over another. Name a new one: {ELSEWHERE}.")


@contextmanager
def making(target: Path, plan: str = "") -> Iterator[Path]:
    """Give a hidden folder beside `target`, which becomes `target` by one rename at the end of the block.

    After an error, a signal or a kill there is no `target`, nor if the folder is left empty. What a killed process left
    is removed by the next one, unless both have the same plan: then the next one finds it in the folder. An error keeps
    it too, but for a ThresholdError, which the same command would end with again, unless it had too little time.

    Args:
        target: folder of the result.
        plan: of several results, each of which is of use to the same command after an error or a kill; '': of one.

    Raises:
        ConfigError: another process makes the same target, it exists, or the place cannot be written.
    """
    hidden = target.with_name(f".{target.name}.making")
    with naming_place(ELSEWHERE), _removing_if_empty(hidden), holding(hidden, ELSEWHERE):
        if not plan or _plan_in(hidden) != plan:
            empty(hidden)
        if plan:
            with replacing(hidden / PLAN, elsewhere=ELSEWHERE) as stream:
                stream.write(plan.encode())
        kept = False
        try:
            yield hidden
            if not any(path.name not in (LOCK, PLAN) for path in hidden.iterdir()):
                return
            _publish(hidden, target)
        except BaseException as error:
            ends_again = isinstance(error, ThresholdError) and not isinstance(error, OutOfTimeError)
            kept = not ends_again and _has_results(hidden)
            if kept:
                log.info(
                    f"what is finished is kept in {hidden}: the same command goes on with it; to begin afresh, remove "
                    "that folder"
                )
            raise
        finally:
            if not kept:
                empty(hidden)


@contextmanager
def _removing_if_empty(folder: Path) -> Iterator[None]:
    """Remove the folder at the end also if an earlier command made it: `holding` removes only its own."""
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _publish(hidden: Path, target: Path) -> None:
    chosen = hidden / CHOSEN
    check_absent(target)
    with naming_disk_faults(target, elsewhere=ELSEWHERE):
        move(chosen if chosen.is_dir() else hidden, target)
        sync_folder(target.parent)
    # they moved along; the plan is removed last: a kill before loses nothing
    for name in (LOCK, PLAN):
        (target / name).unlink(missing_ok=True)


def _has_results(folder: Path) -> bool:
    return (folder / PLAN).exists() and any(path.is_dir() for path in folder.iterdir())


def _plan_in(folder: Path) -> str:
    try:
        return (folder / PLAN).read_text(encoding="utf-8", errors="replace")
    except OSError:  # a folder that was just made
        return ""


def empty(folder: Path) -> None:
    """Remove everything but the lock, which is this process's."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)
