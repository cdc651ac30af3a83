"""The engine of a study: it tunes every arm, runs the best settings with new seeds, then measures costs.

Any number of workers may run it at once, by the same command. Each takes the first task that nobody works at; what has
ended is skipped. So an interrupted study goes on where it was, with the same settings and results.
"""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from effbench.config.recipes import quoted
from effbench.disk import set_aside
from effbench.errors import ConfigError, EffbenchError
from effbench.jobs.plan import DONE, standing
from effbench.jobs.processes import Relay, called, job_process
from effbench.records import read_summary
from effbench.report.spread import number_text, seconds
from effbench.run.lock import holding
from effbench.stats import mean, median
from effbench.study.collect import best_settings, failed_outcome, outcome_of
from effbench.study.live import Board
from effbench.study.measure import PROBE_STEPS, TIMED_STEPS, Probe, inference_costs, probe, steps_in
from effbench.study.plan import StudyPlan
from effbench.study.space import sampled, words_of
from effbench.study.storage import MOST_ATTEMPTS, Claim, Ledger, Task, distributions, opened, plain_name

log = logging.getLogger(__name__)

POLL_S = 2.0  # between looks at what other workers have done
LONGEST_LOCK_S = 60.0  # a run whose worker was killed saves its state before it leaves its folder
RUNS = "runs"
PACE, COST = Task("pace", "", 0), Task("cost", "", 0)  # measured alone, before tuning and at the end
PACE_ROUNDS = 3


def ledger_of(plan: StudyPlan) -> Ledger:
    """Return the study's tasks in its storage. Raises ConfigError if the storage does not answer."""
    ranges = {arm.name: distributions(arm.space.record()) for arm in plan.arms}
    storage = opened(plan.keys.storage, plan.folder)
    return Ledger(storage, plain_name(plan.name, plan.digest), plan.mode == "max", ranges)


def tuning_tasks(plan: StudyPlan) -> list[Task]:
    """Return all tuning runs: the first of every arm, then the second, so that a part of a study is balanced."""
    samples = {arm.name: sampled(arm.space, plan.keys.trials, plan.keys.seed) for arm in plan.arms}
    return [
        Task("tune", arm.name, index, plan.tuning_seed, samples[arm.name][index])
        for index in range(plan.keys.trials)
        for arm in plan.arms
    ]


def final_tasks(plan: StudyPlan, ledger: Ledger) -> list[Task]:
    """Return the final runs of the arms whose tuning has ended, seed by seed."""
    chosen = {arm.name: best_settings(plan, ledger, arm.name) for arm in plan.arms}
    return [
        Task("confirm", name, index, seed, settings)
        for index, seed in enumerate(plan.seeds)
        for name, settings in chosen.items()
        if settings is not None
    ]


def probe_arms(plan: StudyPlan, relay: Relay) -> dict[str, Probe]:
    """Train a few steps of every arm with its defaults, which proves that it can be built, and return what it took.

    Raises:
        ConfigError: an arm cannot be built, or the data have no validation or test split.
    """
    found = {}
    for arm in plan.arms:
        words = [*plan.words(arm.name, {}, plan.tuning_seed, tests=False), *plan.session_words]
        try:
            result = called(relay, probe, words, _scratch(plan), PROBE_STEPS, plan.config_dir)
        except EffbenchError as error:
            raise ConfigError(f"arm {arm.name} cannot be built: {error}") from error
        if result is None:
            break
        for split, remedy in (("val", "set data.val_fraction"), ("test", "take other data")):
            if split not in result.splits:
                what = {"val": "validation", "test": "test"}[split]
                raise ConfigError(f"arm {arm.name} has no {what} split, and a study needs one: {remedy}.")
        found[arm.name] = result
    return found


def _scratch(plan: StudyPlan) -> Path:
    """Return a new folder's path for a short run."""
    return plan.folder / f".probe-{time.monotonic_ns()}"


@dataclass
class _Slot:
    """A run in a process."""

    claim: Claim
    process: BaseProcess
    folder: Path
    begun: float


class Engine:
    """One worker.

    Args:
        plan: the frozen plan.
        ledger: its tasks.
        relay: passes signals on to the runs.
        board: shows the progress.
    """

    def __init__(self, plan: StudyPlan, ledger: Ledger, relay: Relay, board: Board):
        self._plan, self._ledger, self._relay, self._board = plan, ledger, relay, board
        self._took_s: list[float] = []
        self._tuning = tuning_tasks(plan)
        self._running: list[_Slot] = []

    def work(self) -> bool:
        """Work until nothing is left, or a signal arrives. Return True if nothing is left."""
        try:
            return self._work()
        except BaseException:
            for slot in self._running:
                slot.process.terminate()  # it saves its state first
            raise

    def _work(self) -> bool:
        self._ledger.add(self._tuning)
        while not self._relay.signals:
            self._ledger.beat()
            self._reap()
            left = self._left()
            if not left and not self._running:
                return True
            if not self._start_one(left):
                self._board.show(self._plan, self._ledger, self._labels(), self._left_s(left))
                self._wait()
        self._let_go()
        return False

    def _labels(self) -> list[str]:
        return [_label(slot.claim.task) for slot in self._running]

    def _left_s(self, left: Sequence[Task]) -> float | None:
        """Return the estimated seconds until this worker alone would have finished; None before the first run ended."""
        if not self._took_s:
            return None
        tuned = sum(task.phase == "tune" for task in left)
        unplanned = len(self._plan.arms) * self._plan.keys.seeds if tuned else 0
        return (len(left) + unplanned) * mean(self._took_s) / self._plan.keys.workers

    def _left(self) -> list[Task]:
        """Return the tasks without an outcome that may run now, in order."""
        if pace := self._without_outcome([PACE] if self._plan.keys.seconds else []):
            return pace
        tuning = self._without_outcome(self._tuning)
        final = self._without_outcome(final_tasks(self._plan, self._ledger))
        if tuning or final or not self._plan.keys.timing_rounds:
            return [*tuning, *final]
        return self._without_outcome([COST])

    def _without_outcome(self, tasks: Sequence[Task]) -> list[Task]:
        ended = {(task.phase, task.arm): self._ledger.outcomes(task.phase, task.arm) for task in tasks}
        return [task for task in tasks if task.index not in ended[task.phase, task.arm]]

    def _start_one(self, left: Sequence[Task]) -> bool:
        """Start a run, or measure the costs, if there is a free place and a task for it."""
        own = {slot.claim.task.place for slot in self._running}
        free = [task for task in left if task.place not in own]
        if not free or len(self._running) >= self._plan.keys.workers:
            return False
        if free[0] in (PACE, COST) and self._running:
            return False
        claim = self._ledger.take(free)
        if claim is None:
            return False
        if claim.task.phase in ("pace", "cost"):
            self._measure(claim)
        else:
            self._start(claim)
        return True

    # --- one run ------------------------------------------------------------------------------------------------------

    def _start(self, claim: Claim) -> None:
        task = claim.task
        folder = self._plan.folder / RUNS / task.arm / task.folder_name
        self._wait_for_lock(folder)
        state = standing(folder)
        if state == "done":  # its worker died before it wrote the outcome
            self._finish(claim, folder, 0.0)
            return
        if state == "failed":
            set_aside(folder)
        steps = steps_of(self._plan, self._ledger, task.arm)
        words = self._plan.words(task.arm, task.settings, task.seed, task.phase == "confirm", steps)
        place = [f"hydra.run.dir={quoted(folder)}"]
        words = [f"resume={quoted(folder)}"] if state == "begun" else [*words, *place]
        process = job_process(folder, [*words, *self._plan.session_words], config_dir=self._plan.config_dir, quiet=True)
        if self._relay.start(process):
            self._running.append(_Slot(claim, process, folder, time.monotonic()))
        else:
            self._ledger.put_back(claim)

    def _wait_for_lock(self, folder: Path) -> None:
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
        text = summary.get("error") or _ending(slot.process)
        if "NoSpaceError" in text or "no space at" in text:
            self._ledger.put_back(claim)
            raise EffbenchError(f"{_label(claim.task)}: {text}\nNothing is lost: free some space and go on.")
        if claim.task.attempt + 1 < MOST_ATTEMPTS:
            log.warning(f"{_label(claim.task)}: {text}; it is tried again")
            self._ledger.put_back(claim, died=True)
            return
        log.error(f"{_label(claim.task)} failed {MOST_ATTEMPTS} times: {text}")
        self._ledger.finish(claim, failed_outcome(text, str(folder.relative_to(self._plan.folder))))

    def _finish(self, claim: Claim, folder: Path, took_s: float) -> None:
        name = str(folder.relative_to(self._plan.folder))
        outcome = outcome_of(folder, self._plan.metric, name)
        self._ledger.finish(claim, outcome)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # hundreds of runs: the records stay
        self._tell(claim.task, outcome, took_s)

    def _tell(self, task: Task, outcome: dict[str, Any], took_s: float) -> None:
        metric, of = f"val/{self._plan.metric}", {"tune": self._plan.keys.trials, "confirm": self._plan.keys.seeds}
        self._took_s.append(took_s)
        value = outcome["value"]
        text = number_text(metric, value) if value is not None else outcome["status"]
        what = f"seed {task.seed}" if task.phase == "confirm" else " ".join(words_of(task.settings))
        log.info(f"{_label(task)}/{of[task.phase]}  {metric} {text}  {seconds(took_s)}  {what}")

    def _let_go(self) -> None:
        """Wait until the runs have saved their state, and let others take them up."""
        for slot in list(self._running):
            slot.process.join()
        self._reap()

    # --- costs --------------------------------------------------------------------------------------------------------

    def _measure(self, claim: Claim) -> None:
        """Measure all arms alone on the machine: their pace before tuning, their costs at the end."""
        at_end = claim.task.phase == "cost"
        try:
            measured = self._rounds(self._plan.keys.timing_rounds if at_end else PACE_ROUNDS)
            if measured is not None and at_end:
                measured = self._with_inference(measured)
        except EffbenchError:
            self._ledger.put_back(claim)
            raise
        if measured is None:
            self._ledger.put_back(claim)
        else:
            self._ledger.finish(claim, {"status": "completed", "value": 0.0, "arms": measured})

    def _rounds(self, rounds: int) -> dict[str, dict[str, Any]] | None:
        """Return arm -> short runs of its best setting (before tuning: its defaults), in turns; None if interrupted."""
        plan = self._plan
        log.info(f"measuring step times alone: {rounds} rounds over {len(plan.arms)} arms")
        found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in plan.arms}
        for number in range(rounds):
            # every second round backwards: a clock that drifts evenly does not favour an arm
            for arm in plan.arms if number % 2 == 0 else plan.arms[::-1]:
                one = called(self._relay, probe, self._words(arm.name), _scratch(plan), TIMED_STEPS, plan.config_dir)
                if one is None:
                    return None
                found[arm.name].append(one.record())
                self._ledger.beat()
        return {arm: {"rounds": records} for arm, records in found.items()}

    def _with_inference(self, measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]] | None:
        for arm, record in measured.items():
            more = called(self._relay, inference_costs, self._words(arm), self._plan.config_dir)
            if more is None:
                return None
            record.update(more)
        return measured

    def _words(self, arm: str) -> list[str]:
        plan = self._plan
        chosen = best_settings(plan, self._ledger, arm) or {}
        return [*plan.words(arm, chosen, plan.tuning_seed, tests=False), *plan.session_words]


def steps_of(plan: StudyPlan, ledger: Ledger, arm: str) -> int | None:
    """Return the steps of each run of an arm, for a budget in seconds; None for one in epochs.

    Args:
        plan: the plan.
        ledger: its tasks; the pace has been measured.
        arm: name of the arm.
    """
    if plan.keys.seconds is None:
        return None
    rounds = ledger.outcomes(PACE.phase, PACE.arm)[0][1]["arms"][arm]["rounds"]
    return steps_in(plan.keys.seconds, median([each["step_s"] for each in rounds]))


def _label(task: Task) -> str:
    phase = {"tune": "tune ", "confirm": "final"}.get(task.phase, task.phase)
    return f"{phase} {task.arm} {task.index + 1}"


def _ending(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    return f"the run's process ended with exit code {code}"
