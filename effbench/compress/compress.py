"""`effbench compress` as a function: checks before torch is imported, then a run folder that is complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from effbench.cache_dir import expanded
from effbench.compress.options import ELSEWHERE, CompressOptions
from effbench.config.arguments import check_list, check_path, check_texts_by_key
from effbench.disk import move, sync_folder
from effbench.errors import ConfigError
from effbench.records import FINISHED, naming_disk_faults, read_summary
from effbench.report.compression import compressed_file
from effbench.run.load import load_run, with_data
from effbench.run.lock import NAME as LOCK
from effbench.run.lock import holding


def compress(
    folder: str | Path,
    options: CompressOptions,
    output: str | Path = "",
    data_overrides: Mapping[str, str] | None = None,
    allow_targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Compress a run, measure it beside the original, and write the result as a run of its own.

    Args:
        folder: the run folder.
        options: what to do.
        output: folder of the result, which must not exist; '' is RUN-<method> beside the run.
        data_overrides: data keys that replace the run's, as text: {'root': 'DIR'}.
        allow_targets: the user's modules that a _target_ may name.

    Returns:
        The content of compression.json, with `path` of the folder.

    Raises:
        ConfigError: the folder holds no finished run, the result exists, or an option does not fit the run.
        EffbenchError: the method failed; nothing was written.
    """
    check_path("folder", folder)
    check_path("output", output)
    check_texts_by_key("data_overrides", data_overrides, "{'root': 'DIR'}")
    check_list("allow_targets", allow_targets, str, "a list of modules, ['mylab.models']")
    place = expanded(folder)
    _check_source(place)
    target = expanded(output) if output else _beside(place, options.method)
    _check_absent(target)
    run = with_data(load_run(place, allow_targets), dict(data_overrides or {}), "cpu")
    # torch is imported only now: a mistyped folder or key is reported at once
    from effbench.compress.run import compress_run

    with making(target) as hidden:
        record = compress_run(run, options, hidden, target)
    return {**record, "path": str(target)}


def _check_source(place: Path) -> None:
    status = read_summary(place)["status"]
    if status not in FINISHED:
        raise ConfigError(
            f"{place} has status '{status}': only a run that ended (completed, stopped_early) is compressed, because "
            f"the result is compared with its test. Go on with: effbench train resume={place}"
        )
    if compressed_file(place) is not None:
        raise ConfigError(f"{place} is quantized already, and its file cannot be compressed again. Compress its run.")


def _beside(place: Path, method: str) -> Path:
    own = place.resolve()
    return own.with_name(f"{own.name}-{method}")


def _check_absent(target: Path) -> None:
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
            _check_absent(target)
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
