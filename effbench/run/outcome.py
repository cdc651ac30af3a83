"""The result of a run, as the commands print it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from effbench.console import writes_unicode
from effbench.errors import EffbenchError
from effbench.run.overrides import go_on_with

if TYPE_CHECKING:
    from effbench.run.run import Run

log = logging.getLogger(__name__)


def report(run: Run, as_json: bool = False, config_dir: str | None = None) -> int:
    """Prints the result on stdout, as a table or as summary.json; returns the run's exit code."""
    import json

    from effbench.report.result import print_result
    from effbench.run.signals import EXIT_CODES

    if as_json:
        print(json.dumps(run.summary, indent=2, ensure_ascii=not writes_unicode()))
    else:
        print_result(run.folder, run.summary)
    status = run.summary["status"]
    if status == "interrupted":
        command = go_on_with([f"resume={run.folder}"], config_dir, run.config.allow_targets)
        log.info(f"interrupted; go on with: {command}")
        return EXIT_CODES.get(run.summary["stop_reason"], 1)
    if status == "diverged":
        raise EffbenchError(f"the run diverged: {run.summary['stop_reason']}.")
    return 0
