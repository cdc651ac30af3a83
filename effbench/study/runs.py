"""Which runs of a study count, and how: the rules that all statistics share.

A run that diverged or failed has no result and counts as a miss, even if it had reached something before. A run that
was interrupted will be resumed: it does not count yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from effbench.study.table import Arm, Confirmation, StudyTable, Trial, finite

MISSED = ("diverged", "failed")
UNFINISHED = ("interrupted",)  # a page may be asked for while the study goes on

Runs = dict[str, dict[int, Confirmation]]


def runs_by_arm(table: StudyTable) -> Runs:
    """Return arm -> seed -> its run, without unfinished ones; of repeated runs the first (fairness.py objects)."""
    found: Runs = {arm.name: {} for arm in table.arms}
    for run in table.confirmations:
        if run.status not in UNFINISHED and run.arm in found:
            # the first: to choose among repeated runs would be to choose a result
            found[run.arm].setdefault(run.seed, run)
    return found


def result_of(run: Confirmation, split: str = "test") -> float | None:
    """Return the run's metric on 'test' or 'validation'; None for a miss."""
    # A diverged run may hold the metric of its best checkpoint. It is not counted: the arm cannot be trained with this
    # setting, whatever it had reached before.
    return None if run.status in MISSED else finite(run.test if split == "test" else run.validation)


def trials_of(table: StudyTable, arm: str) -> list[Trial]:
    """Return the finished trials of an arm."""
    return [trial for trial in table.trials_by_arm.get(arm, ()) if trial.status not in UNFINISHED]


def trial_values(table: StudyTable, arm: str) -> list[float | None]:
    """Return the validation metric of each finished trial of an arm; None: diverged or failed."""
    return [None if trial.status in MISSED else finite(trial.value) for trial in trials_of(table, arm)]


def common_seeds(runs: Runs, arms: Sequence[str]) -> list[int]:
    """Return the seeds that were run with each of the arms, in order."""
    return sorted(set.intersection(*(set(runs[arm]) for arm in arms))) if arms else []


def groups(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Return the arms by model, in order."""
    models = list(dict.fromkeys(arm.model for arm in arms))
    return [[arm for arm in arms if arm.model == model] for model in models]
