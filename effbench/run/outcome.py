"""Report a run's result for the commands."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from effbench.errors import EffbenchError
from effbench.run.overrides import resume_command
from effbench.strict_json import print_json

if TYPE_CHECKING:
    from effbench.run.run import Run

log = logging.getLogger(__name__)

DIVERGED = "the run diverged"  # in the text of an error that came from another process


def report(run: Run, as_json: bool = False, config_dir: str | None = None) -> int:
    """Print the result on stdout.

    Args:
        run: the finished or interrupted run.
        as_json: print summary.json, not a table.
        config_dir: folder with the user's config groups, for the command that resumes the run.

    Returns:
        Exit code of the process.

    Raises:
        EffbenchError: the run diverged.
    """
    from effbench.report.result import print_result
    from effbench.run.signals import EXIT_CODES

    # The result goes to stdout, and also that of a run that diverged: its metrics tell how far it came.
    if as_json:
        print_json(run.summary)
    else:
        print_result(run.folder, run.summary)
    status = run.summary["status"]
    if status == "interrupted":
        command = resume_command([f"resume={run.folder}"], config_dir, run.config.allow_targets)
        log.info(f"interrupted; resume with: {command}")
        # The reason is a signal's name; 1 for one that only another process received.
        return EXIT_CODES.get(run.summary["stop_reason"], 1)
    if status == "diverged":
        raise EffbenchError(f"{DIVERGED}: {run.summary['stop_reason']}.")
    return 0
