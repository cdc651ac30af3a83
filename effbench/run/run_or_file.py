"""Load what `eval` and `predict` are given: a run by its folder, or an exported file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.cache_dir import expanded
from effbench.config.arguments import check_list, check_path
from effbench.errors import ConfigError
from effbench.run.load import load_run

if TYPE_CHECKING:
    from effbench.run.run import Run


def load_run_or_file(
    path: str | Path,
    allow_targets: Sequence[str] = (),
    run: str | Path = "",
    trust: bool = False,
    alone: bool = False,
) -> Run:
    """Load a run by its folder, or an exported file, whose answers then come from the file.

    Args:
        path: folder of a run, or file of `effbench export`.
        allow_targets: your modules that its config may name.
        run: folder of the file's run; '' for the one that its record names.
        trust: run a file that is a program.
        alone: the file's record is enough, unless `run` is given; otherwise the run's folder is needed.

    Returns:
        The run.

    Raises:
        ConfigError: it is neither, or what it holds is refused.
    """
    check_path("folder", path)
    check_path("run", run)
    check_list("allow_targets", allow_targets, str, "a list of modules, ['mylab.models']")
    place = expanded(path)
    if not os.path.isfile(place):  # noqa: PTH113 - Path's raises where a folder above may not be entered
        if run or trust:
            raise ConfigError(f"{'run' if run else 'trust'}= is for exported files; {path} is none. Leave it out.")
        return load_run(path, allow_targets)
    from effbench.export.opening import open_export

    opened = open_export(place, trust)
    from effbench.run.exported import exported_alone, exported_with_run  # imports torch, so only after the checks

    if alone and not run:
        return exported_alone(opened, allow_targets)
    return exported_with_run(opened, str(run), allow_targets)
