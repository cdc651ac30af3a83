"""The engine of a study: it tunes every arm, runs the best settings with new seeds, then measures costs.

Any number of workers may run it at once, by the same command. Each takes the first task that nobody works at; what has
ended is skipped. So an interrupted study goes on where it was, with the same settings and results.
"""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from effbench.config.compare import PLACES
from effbench.config.recipes import quoted
from effbench.disk import set_aside
from effbench.errors import ConfigError, EffbenchError
from effbench.jobs.plan import DONE, standing
from effbench.jobs.processes import Relay, Stamp, job_process, stamp
from effbench.records import read_summary, require_writable
from effbench.report.spread import seconds
from effbench.run.lock import holding
from effbench.run.overrides import override_key
from effbench.stats import mean
from effbench.study.alone import NO_SPACE, measured, probe_arm
from effbench.study.collect import failed_outcome, outcome_of
from effbench.study.deployment import measures_deployment, superfluous
from effbench.study.ledger import MOST_ATTEMPTS, Claim, Ledger, Task
from effbench.study.live import Board
from effbench.study.plan import FOLDER, RUNS, StudyPlan
from effbench.study.space import short_words_of
from effbench.study.tasks import PACE, cost_task, final_tasks, steps_of, tuning_tasks

log = logging.getLogger(__name__)

POLL_S = 2.0  # between looks at what other workers have done
# A run whose worker was killed saves its state before it leaves its folder. Shorter than workers.STALE_S, because the
# worker that waits for it gives no sign of life.
LONGEST_LOCK_S = 60.0
GO_ON = "Every run that has ended is kept: mend this, then give the same command again."


@dataclass
class _Slot:
    """A run in a process.

    Attributes:
        claim: its task.
        process: it.
        folder: of the run.
        written: stamp of the folder before the process started.
        resumes: it goes on from a checkpoint.
        begun: time of its start.
    """

    claim: Claim
    process: BaseProcess
    folder: Path
    written: Stamp
    resumes: bool
    begun: float


class Engine:
    """One worker.

    Args:
        plan: the frozen plan.
        ledger: its tasks.
        relay: passes signals on to the runs.
        board: shows the progress.
        costs_again: the costs are measured although they are known.
    """

    def __init__(self, plan: StudyPlan, ledger: Ledger, relay: Relay, board: Board, costs_again: bool = False):
        self._plan, self._ledger, self._relay, self._board = plan, ledger, relay, board
        self._cost = cost_task(ledger, costs_again)
        self._took_s: list[float] = []  # seconds of the runs that ended here
        self._tuning = tuning_tasks(plan)
        self._running: list[_Slot] = []

    def work(self) -> bool:
        """Work until nothing is left, or a signal arrives. Return True if nothing is left."""
        try:
            self._ledger.add(self._tuning)
            while not self._relay.signals:
                self._ledger.workers.beat()
                self._reap()
                left = self._left()
                if not left and not self._running:
                    return True
                # a run at a time: what others have done meanwhile is seen before the next one starts
                if not self._start_one(left):
                    labels = [_label(slot.claim.task) for slot in self._running]
                    others = self._ledger.held_by_others(left)
                    self._board.show(self._plan, self._ledger, labels, self._left_s(left, others), len(others))
                    self._wait()
            # The relay has passed the signal on: the runs save their state, then others may take them up.
            if self._running:
                log.info("stopping; the runs save their state first")
            for slot in self._running:
                slot.process.join()
            self._reap()
        except BaseException:
            for slot in self._running:
                slot.process.terminate()  # it saves its state first; Python waits for it when this process ends
            raise
        return False

    def _left_s(self, left: Sequence[Task], others: Mapping[str, int]) -> float | None:
        """Return the estimated seconds until all runs have ended; None before the first run ended here.

        Args:
            left: tasks without an outcome.
            others: other worker -> how many of them it works at. Its runs are taken to be as long as those here.
        """
        if not self._took_s:
            return None
        # final runs become tasks only when their arm's tuning has ended
        untuned = {task.arm for task in left if task.phase == "tune"}
        took_s, now = mean(self._took_s), time.monotonic()
        runs = len(left) + len(untuned) * self._plan.keys.seeds
        elapsed_s = sum(min(now - slot.begun, took_s) for slot in self._running)
        # of another worker, study.workers is not known, but how many runs it has at this moment
        return (runs * took_s - elapsed_s) / (self._plan.keys.workers + sum(others.values()))

    def _left(self) -> list[Task]:
        """Return the tasks without an outcome that may run now, in order."""
        if self._plan.keys.seconds and (pace := self._without_outcome([PACE])):
            return pace  # no run knows its number of steps before
        tuning = self._without_outcome(self._tuning)
        # An arm whose tuning has ended goes on to its final runs; with all arms' tuning before, workers would idle.
        final = self._without_outcome(final_tasks(self._plan, self._ledger))
        if tuning or final or not self._plan.keys.timing_rounds:
            return [*tuning, *final]
        return self._without_outcome([self._cost])  # last: no worker trains any more, so it has the machine alone

    def _without_outcome(self, tasks: Sequence[Task]) -> list[Task]:
        ended = {(task.phase, task.arm): self._ledger.outcomes(task.phase, task.arm) for task in tasks}
        return [task for task in tasks if task.index not in ended[task.phase, task.arm]]

    def _start_one(self, left: Sequence[Task]) -> bool:
        """Start a run, or measure the costs, if there is a free place and a task for it."""
        own = {slot.claim.task.place for slot in self._running}
        free = [task for task in left if task.place not in own]
        if not free or len(self._running) >= self._plan.keys.workers:
            return False
        if free[0] in (PACE, self._cost) and self._running:
            return False
        claim = self._ledger.take(free)
        if claim is None:
            return False
        if claim.task.phase in ("pace", "cost"):
            # measuring takes minutes, in which the board would show the last run as running
            self._board.show(self._plan, self._ledger, ["step times, alone"], None)
            self._measure(claim)
        else:
            self._start(claim)
        return True

    def _measure(self, claim: Claim) -> None:
        """Measure all arms alone on the machine: their pace before tuning, their costs at the end."""
        try:
            found = measured(self._plan, self._ledger, self._relay, at_end=claim.task.phase == "cost")
        except EffbenchError:
            self._ledger.put_back(claim)
            raise
        if found is None:
            self._ledger.put_back(claim)
        else:
            # 0.0, because an Optuna trial that is complete has a value
            self._ledger.finish(claim, {"status": "completed", "value": 0.0, "arms": found})

    # --- one run ------------------------------------------------------------------------------------------------------

    def _start(self, claim: Claim) -> None:
        task = claim.task
        folder = self._plan.folder / RUNS / task.arm / task.folder_name
        require_writable(folder, FOLDER)
        self._wait_for_lock(folder)
        state = standing(folder)
        if state == "done":  # its worker died before it wrote the outcome
            self._finish(claim, folder, 0.0)
            return
        if state == "failed":  # it has no checkpoint to go on from
            summary = read_summary(folder)
            if summary["status"] == "interrupted" or NO_SPACE in (summary.get("error") or ""):
                shutil.rmtree(folder)  # a worker that is restarted on a full disk would fill it further
            else:
                set_aside(folder)  # what it wrote may tell why it failed
        steps = steps_of(self._plan, self._ledger, task.arm)
        words = self._plan.words(task.arm, task.settings, task.seed, task.phase == "confirm", steps)
        place = [f"hydra.run.dir={quoted(folder)}"]
        if state == "begun":
            # Its settings are those of its own record. Where the data lie and which device there is says this command:
            # they may have moved since, and another worker may have begun the run.
            place = [f"resume={quoted(folder)}"]
            words = [word for word in words if override_key(word).startswith(PLACES)]
        words = [*words, *place, *self._plan.session_words]
        process, written = job_process(folder, words, config_dir=self._plan.config_dir, quiet=True), stamp(folder)
        if self._relay.start(process):
            self._running.append(_Slot(claim, process, folder, written, state == "begun", time.monotonic()))
        else:
            self._ledger.put_back(claim)

    def _wait_for_lock(self, folder: Path) -> None:
        """Wait until no process holds the run's folder. Raises ConfigError after LONGEST_LOCK_S."""
        deadline = time.monotonic() + LONGEST_LOCK_S
        while True:
            try:
                with holding(folder):
                    return
            except ConfigError:
                if time.monotonic() > deadline or self._relay.signals:
                    raise
            time.sleep(0.2)

    def _wait(self) -> None:
        """Wait until a run ends, or for POLL_S."""
        if self._running:
            wait([slot.process.sentinel for slot in self._running], timeout=POLL_S)
        else:
            # a sleep of POLL_S would go on after a signal (PEP 475)
            deadline = time.monotonic() + POLL_S
            while time.monotonic() < deadline and not self._relay.signals:
                time.sleep(0.1)

    def _reap(self) -> None:
        """Record the outcomes of the runs that have ended."""
        for slot in [slot for slot in self._running if not slot.process.is_alive()]:
            self._running.remove(slot)
            slot.process.join()
            self._relay.processes.remove(slot.process)
            self._ended(slot)

    def _ended(self, slot: _Slot) -> None:
        claim, folder = slot.claim, slot.folder
        summary = read_summary(folder) if (folder / "summary.json").is_file() else {}
        if summary.get("status") in DONE:
            self._finish(claim, folder, time.monotonic() - slot.begun)
            return
        if self._relay.signals:
            self._ledger.put_back(claim)
            return
        # its own record only: that of an earlier attempt says nothing about this one
        is_own = summary.get("status") == "failed" and stamp(folder) != slot.written
        told = summary.get("error") if is_own else None
        text = str(told or _ending(slot.process)).rstrip(".")
        if NO_SPACE in text:
            # every further run would fail, too, and would be recorded as a failed one
            self._ledger.put_back(claim)
            raise EffbenchError(f"{_label(claim.task)}: {text}. {GO_ON}")
        is_refused = bool(told) and slot.resumes and slot.process.exitcode == ConfigError.exit_code
        if not is_refused and claim.task.attempt + 1 < MOST_ATTEMPTS:
            log.warning(f"{_label(claim.task)}: {text}; it is tried again")
            self._ledger.put_back(claim, died=True)
            return
        # Before the run is recorded as failed, or its checkpoint given up
        if not self._trains(claim, text):
            return
        if is_refused:
            aside = set_aside(folder)
            log.warning(f"{_label(claim.task)}: {text}; it is started anew, and what there was is kept as {aside.name}")
            self._ledger.put_back(claim)
            return
        log.error(f"{_label(claim.task)} failed {MOST_ATTEMPTS} times: {text}")
        self._ledger.finish(claim, failed_outcome(text, str(folder.relative_to(self._plan.folder))))

    def _trains(self, claim: Claim, text: str) -> bool:
        """Return True if this machine trains the arm with its defaults; False, with the task put back, after a signal.

        A worker whose data are missing, or whose disk has failed, would record all that is left of the study as failed.

        Args:
            claim: a task whose run has failed.
            text: why.

        Raises:
            EffbenchError: it does not.
        """
        try:
            beat = self._ledger.workers.beat
            trains = probe_arm(self._plan, self._relay, claim.task.arm, beat) is not None
        except EffbenchError as error:
            self._ledger.put_back(claim)
            raise EffbenchError(
                f"{_label(claim.task)}: {text}. This machine does not train the arm's defaults either: {error} {GO_ON}"
            ) from error
        if not trains:  # a signal arrived
            self._ledger.put_back(claim)
        return trains

    def _finish(self, claim: Claim, folder: Path, took_s: float) -> None:
        """Record the outcome of a run and tell of it."""
        plan, task = self._plan, claim.task
        outcome = outcome_of(folder, plan.metric, str(folder.relative_to(plan.folder)))
        # before the checkpoints go: a worker that is killed here leaves a run that can still be read
        self._ledger.finish(claim, outcome)
        # hundreds of runs: the records stay
        for checkpoints in self._superfluous(task, folder):
            shutil.rmtree(checkpoints, ignore_errors=True)
        if took_s:  # 0: another worker trained it
            self._took_s.append(took_s)
        value = outcome["value"]
        of = plan.keys.trials if task.phase == "tune" else plan.keys.seeds
        text = plan.display.with_unit(value) if value is not None else outcome["status"]
        what = f"seed {task.seed}" if task.phase == "confirm" else " ".join(short_words_of(task.settings))
        log.info(f"{_label(task)}/{of}  val/{plan.metric} {text}  {seconds(took_s)}  {what}")

    def _superfluous(self, task: Task, folder: Path) -> list[Path]:
        """Return checkpoints that nothing needs any more, now that a run has ended."""
        # the best final run of each arm is what would be deployed
        if task.phase != "confirm" or not measures_deployment(self._plan):
            return [folder / "checkpoints"]
        return superfluous(self._plan, self._ledger, task.arm)


def _label(task: Task) -> str:
    phase = {"tune": "tune ", "confirm": "final"}.get(task.phase, task.phase)
    return f"{phase} {task.arm} {task.index + 1}"


def _ending(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    return f"the run's process ended with exit code {code}"
