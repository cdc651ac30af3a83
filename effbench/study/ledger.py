"""The tasks of a study: who does what, and what came of it, in an Optuna storage that any number of workers share.

Every run of a study is an Optuna trial that waits, is claimed by one worker, and ends with an outcome. Each task has
one place. If two workers plan a task at once, the first copy counts; if the worker that claimed it dies, a copy waits
in its place. So a study ends with exactly its budget, however often it is interrupted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from effbench.study.storage import optuna_library
from effbench.study.table import Setting
from effbench.study.workers import Workers

log = logging.getLogger(__name__)

# Of a run whose process dies. Once may be chance (other programs took the memory); three times are its own fault: it is
# recorded as failed, and the study goes on.
MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Task:
    """One run of a study.

    Attributes:
        phase: tune, confirm, or pace and cost, which measure all arms.
        arm: name of the arm; '' for pace and cost.
        index: number within phase and arm.
        seed: of the run.
        settings: what is tuned.
        attempt: 0, 1, ... counts the processes that died at it.
    """

    phase: str
    arm: str
    index: int
    seed: int = 0
    settings: Mapping[str, Setting] = field(default_factory=dict)
    attempt: int = 0

    @property
    def place(self) -> tuple[str, str, int]:
        return self.phase, self.arm, self.index

    @property
    def folder_name(self) -> str:
        # without the attempt: the next process goes on from the checkpoint that the last one left
        return f"{self.phase}-{self.index:03d}"


@dataclass(frozen=True)
class Claim:
    """A task that this worker has claimed."""

    task: Task
    trial_id: int


class Ledger:
    """The tasks of one study in a storage.

    Args:
        storage: from storage.opened.
        name: of the study in the storage; it holds the plan's digest.
        maximize: True if larger values are better.
        ranges: arm -> {setting: Optuna distribution}, for Optuna's own tools.

    Attributes:
        workers: who works at the study.
    """

    def __init__(self, storage: Any, name: str, maximize: bool, ranges: Mapping[str, Mapping[str, Any]]):
        self._optuna, self._storage, self._name = optuna_library(), storage, name
        self._maximize, self._ranges = maximize, ranges
        self._studies: dict[tuple[str, str], int] = {}
        self.workers = Workers(storage, self._study("workers", ""))

    # --- planning -----------------------------------------------------------------------------------------------------

    def add(self, tasks: Iterable[Task]) -> None:
        """Enqueue the tasks whose place is empty."""
        wanted = list(tasks)
        places = {(task.phase, task.arm): set(self._places(task.phase, task.arm)) for task in wanted}
        for task in wanted:
            if task.index not in places[task.phase, task.arm]:
                self._enqueue(task)

    def _enqueue(self, task: Task) -> None:
        trial = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.WAITING,
            params=dict(task.settings),
            distributions={key: self._ranges[task.arm][key] for key in task.settings},
            # The task itself is an attribute: Optuna's params do not say which phase, seed and attempt it is.
            user_attrs={"task": {**asdict(task), "settings": dict(task.settings)}},
        )
        self._storage.create_new_trial(self._study(task.phase, task.arm), template_trial=trial)

    def _places(self, phase: str, arm: str) -> dict[int, Any]:
        """Return index -> the trial that holds the place: the first that has ended, runs or waits."""
        found: dict[int, Any] = {}
        # deepcopy=False, because they are only read: a worker looks at all of them before each run
        trials = self._storage.get_all_trials(self._study(phase, arm), deepcopy=False)
        for trial in sorted(trials, key=lambda trial: trial.number):
            # FAIL without an outcome is a claim that was given up, whose copy waits behind it. FAIL with one is a run
            # that diverged: Optuna has no value for it, but it has used its share of the budget.
            given_up = trial.state == self._optuna.trial.TrialState.FAIL and "outcome" not in trial.user_attrs
            if "task" in trial.user_attrs and not given_up:
                # All workers see the trials in one order, so they agree on the first one.
                found.setdefault(int(trial.user_attrs["task"]["index"]), trial)
        return found

    # --- working ------------------------------------------------------------------------------------------------------

    def take(self, tasks: Sequence[Task]) -> Claim | None:
        """Claim the first of the tasks that waits, or whose worker has died; None if there is none."""
        states = self._optuna.trial.TrialState
        places = {(task.phase, task.arm): self._places(task.phase, task.arm) for task in tasks}
        for task in tasks:
            trial = places[task.phase, task.arm].get(task.index)
            if trial is None:
                # Final runs and costs are not enqueued in advance: their settings come from the tuning.
                self._enqueue(task)
                trial = self._places(task.phase, task.arm)[task.index]
            if trial.state == states.RUNNING and self.workers.has_died(
                trial.user_attrs.get("worker"), _claim_text(task.place, trial)
            ):
                trial = self._replaced(task, trial)
            if trial is None or trial.state != states.WAITING:
                continue
            trial_id = self._id(task, trial)
            try:
                # The one step that decides between two workers: Optuna returns False unless the trial still waits.
                is_ours = self._storage.set_trial_state_values(trial_id, state=states.RUNNING)
            except self._optuna.exceptions.UpdateFinishedTrialError:
                is_ours = False
            if is_ours:
                self._storage.set_trial_user_attr(trial_id, "worker", self.workers.own)
                return Claim(_task(trial), trial_id)
        return None

    def held_by_others(self, tasks: Iterable[Task]) -> Counter[str]:
        """Return id of another worker that lives -> how many of the tasks it works at."""
        found: Counter[str] = Counter()
        wanted = {task.place for task in tasks}
        for phase, arm in {(phase, arm) for phase, arm, _ in wanted}:
            for index, trial in self._places(phase, arm).items():
                worker = trial.user_attrs.get("worker")
                if (phase, arm, index) not in wanted or worker is None or worker["id"] == self.workers.own["id"]:
                    continue
                claimed = trial.state == self._optuna.trial.TrialState.RUNNING
                if claimed and not self.workers.has_died(worker, _claim_text((phase, arm, index), trial)):
                    found[worker["id"]] += 1
        return found

    def _replaced(self, task: Task, trial: Any) -> Any:
        """Give up the claim of a worker that has died, and return its copy that waits; None if there is none."""
        trial_id = self._id(task, trial)
        if "outcome" in trial.user_attrs:  # it died between writing the outcome and ending the trial
            self._end(trial_id, trial.user_attrs["outcome"])
            return None
        log.info(f"{task.arm or 'costs'} {task.folder_name}: its worker has died; taken up again")
        if not self._give_up(trial_id, _task(trial)):
            return None
        return self._places(task.phase, task.arm).get(task.index)

    def _give_up(self, trial_id: int, copy: Task) -> bool:
        """End a claimed trial without an outcome and enqueue its copy; False if the trial has ended already."""
        # In this order: only the worker that ended the trial makes a copy, and a kill between the two steps leaves an
        # empty place, which `add` or `take` fills.
        try:
            self._storage.set_trial_state_values(trial_id, state=self._optuna.trial.TrialState.FAIL)
        except self._optuna.exceptions.UpdateFinishedTrialError:
            return False
        self._enqueue(copy)
        return True

    def put_back(self, claim: Claim, died: bool = False) -> None:
        """Let a claimed task wait again. died: its process ended without a result."""
        task = claim.task
        copy = Task(task.phase, task.arm, task.index, task.seed, task.settings, task.attempt + died)
        self._give_up(claim.trial_id, copy)

    def finish(self, claim: Claim, outcome: Mapping[str, Any]) -> None:
        """Record the outcome of a claimed task. outcome: JSON-able; `value` is what tuning compares, or None."""
        # Outcome before end, because Optuna lets nobody change an ended trial. If this worker is killed in between, the
        # next one finds the outcome and ends the trial.
        try:
            self._storage.set_trial_user_attr(claim.trial_id, "outcome", dict(outcome))
        except self._optuna.exceptions.UpdateFinishedTrialError:
            # This machine slept, or lost the storage, for longer than STALE_S, so that others thought it dead.
            log.warning(f"{claim.task.arm} {claim.task.folder_name}: another worker took it up; its result counts")
            return
        self._end(claim.trial_id, outcome)

    def _end(self, trial_id: int, outcome: Mapping[str, Any]) -> None:
        states, value = self._optuna.trial.TrialState, outcome.get("value")
        try:
            if value is None:
                self._storage.set_trial_state_values(trial_id, state=states.FAIL)
            else:
                self._storage.set_trial_state_values(trial_id, state=states.COMPLETE, values=[float(value)])
        except self._optuna.exceptions.UpdateFinishedTrialError:  # a worker that thought this one dead has ended it
            log.debug("trial %d had ended already", trial_id)

    def outcomes(self, phase: str, arm: str) -> dict[int, tuple[Task, dict[str, Any]]]:
        """Return index -> (task, outcome) of what has ended."""
        return {
            index: (_task(trial), dict(trial.user_attrs["outcome"]))
            for index, trial in self._places(phase, arm).items()
            if trial.state.is_finished()
        }

    # --- Optuna's studies ---------------------------------------------------------------------------------------------

    def _study(self, phase: str, arm: str) -> int:
        """Return the id of the Optuna study of a phase and an arm; it is made if missing."""
        # One for each arm: Optuna's own tools show one search space at a time.
        if (phase, arm) not in self._studies:
            name = "/".join(filter(None, (self._name, phase, arm)))
            direction = self._optuna.study.StudyDirection
            way = direction.MAXIMIZE if self._maximize and phase != "cost" else direction.MINIMIZE
            try:
                found = self._storage.create_new_study([way], study_name=name)
            except self._optuna.exceptions.DuplicatedStudyError:
                # Asking first would leave a gap in which another worker makes it.
                found = self._storage.get_study_id_from_name(name)
            self._studies[phase, arm] = found
        return self._studies[phase, arm]

    def _id(self, task: Task, trial: Any) -> int:
        """Return the trial's id in the storage; a trial itself knows its number in its Optuna study only."""
        study = self._study(task.phase, task.arm)
        return int(self._storage.get_trial_id_from_study_id_trial_number(study, trial.number))


def _claim_text(place: tuple[str, str, int], trial: Any) -> str:
    return f"{place} {trial.number}"


def _task(trial: Any) -> Task:
    return Task(**trial.user_attrs["task"])
