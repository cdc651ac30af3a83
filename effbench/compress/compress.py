"""`effbench compress` as a function: checks before torch is imported, then a run folder that is complete or absent."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded
from effbench.compress.making import check_absent, making
from effbench.compress.options import CompressOptions
from effbench.compress.target import SearchOptions
from effbench.config.arguments import check_list, check_path, check_texts_by_key
from effbench.errors import ConfigError
from effbench.records import FINISHED, read_summary
from effbench.report.compression import compressed_file
from effbench.run.compared import refuse_redrawn
from effbench.run.load import load_run, with_data

if TYPE_CHECKING:
    from effbench.run.run import Run


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
    run, target = _loaded(folder, output, options.method, data_overrides, allow_targets)
    # torch is imported only now: a mistyped folder or key is reported at once
    from effbench.compress.run import compress_loaded

    with making(target) as hidden:
        record = compress_loaded(run, options, hidden, target)
    return {**record, "path": str(target)}


def compress_sweep(
    folder: str | Path,
    options: Sequence[CompressOptions],
    output: str | Path = "",
    data_overrides: Mapping[str, str] | None = None,
    allow_targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Compress a run with several ratios, and write what accuracy, latency and size each has.

    Args:
        folder: the run folder.
        options: one entry a ratio, all of one method.
        output: folder of the results, which must not exist; '' is RUN-<method>-sweep beside the run.
        data_overrides: see `compress`.
        allow_targets: see `compress`.

    Returns:
        The content of tradeoff.json, with `path` of the folder, which holds a run a ratio.
    """
    run, target = _loaded(folder, output, f"{options[0].method}-sweep", data_overrides, allow_targets)
    from effbench.compress.record import plan_of
    from effbench.compress.trade_off import trade_off

    with making(target, plan_of(run, options[0].checkpoint, options)) as hidden:
        record = trade_off(run, options, hidden, target)
    return {**record, "path": str(target)}


def compress_to_target(
    folder: str | Path,
    options: SearchOptions,
    output: str | Path = "",
    data_overrides: Mapping[str, str] | None = None,
    allow_targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Search method, ratio and backend that reach a latency or a size within a bound of what is lost.

    Args:
        folder: the run folder.
        options: the target and what may be tried.
        output: folder of the result, which must not exist; '' is RUN-target beside the run.
        data_overrides: see `compress`.
        allow_targets: see `compress`.

    Returns:
        The content of compression.json, with `search` (`met` says whether the target is reached) and `path` of the
        result's folder: None if the run itself reaches the target, so that nothing was written.

    Raises:
        ThresholdError: no candidate holds the bound of what may be lost.
    """
    run, target = _loaded(folder, output, "target", data_overrides, allow_targets)
    from effbench.compress.search import search

    return search(run, options, target, loading_words(data_overrides, allow_targets))


def loading_words(data_overrides: Mapping[str, str] | None, allow_targets: Sequence[str]) -> list[str]:
    """Return the words with which another command loads the run as this one: data keys, and the modules allowed."""
    data = [f"data.{key}={value}" for key, value in (data_overrides or {}).items()]
    return [*data, *([f"allow_targets=[{','.join(allow_targets)}]"] if allow_targets else [])]


def _loaded(
    folder: str | Path,
    output: str | Path,
    suffix: str,
    data_overrides: Mapping[str, str] | None,
    allow_targets: Sequence[str],
) -> tuple[Run, Path]:
    """Return (the run, the folder of the result) after all checks that need no torch.

    Args:
        folder: the run folder.
        output: folder of the result, or ''.
        suffix: of its name, if it is not given.
        data_overrides: data keys that replace the run's.
        allow_targets: the user's modules.
    """
    check_path("folder", folder)
    check_path("output", output)
    check_texts_by_key("data_overrides", data_overrides, "{'root': 'DIR'}")
    check_list("allow_targets", allow_targets, str, "a list of modules, ['mylab.models']")
    place = expanded(folder)
    _check_source(place)
    target = expanded(output) if output else _beside(place, suffix)
    check_absent(target)
    if target.resolve().is_relative_to(place.resolve()):
        raise ConfigError(f"output={target} is inside the run, which is never changed. Name a folder elsewhere.")
    run = with_data(load_run(place, allow_targets), dict(data_overrides or {}), "cpu")
    if {f"data.{key}" for key in data_overrides or {}} == set(run.redrawn):  # with other data, this is seen later
        refuse_redrawn(run)
    return run, target


def _check_source(place: Path) -> None:
    status = read_summary(place)["status"]
    if status not in FINISHED:
        raise ConfigError(
            f"{place} has status '{status}': only a run that ended (completed, stopped_early) is compressed, because "
            f"the result is compared with its test. Go on with: effbench train {shlex.quote(f'resume={place}')}"
        )
    if compressed_file(place) is not None:
        raise ConfigError(f"{place} is quantized already, and its file cannot be compressed again. Compress its run.")


def _beside(place: Path, suffix: str) -> Path:
    own = place.resolve()
    return own.with_name(f"{own.name}-{suffix}")
