"""Where the runs of a study are coordinated: an Optuna storage, by default a journal file in the study's folder.

Every run of a study is an Optuna trial that waits, is claimed by one worker, and ends with an outcome. Each task has
one place. If two workers plan a task at once, the first copy counts; if the worker that claimed it dies, a copy waits
in its place. So a study ends with exactly its budget, however often it is interrupted.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError, EffbenchError, MissingExtraError, first_line
from effbench.redaction import redact
from effbench.study.table import Setting

log = logging.getLogger(__name__)

JOURNAL = "journal.log"
BEAT_S = 20.0  # between two signs of life of a worker
STALE_S = 90.0  # a worker on another machine without a sign of life for so long is dead
UNSIGNED_S = 10.0  # a claim whose worker did not sign within this time was cut short
MOST_ATTEMPTS = 3  # of a run whose process dies


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
        return f"{self.phase}-{self.index:03d}"


@dataclass(frozen=True)
class Claim:
    """A task that this worker has claimed."""

    task: Task
    trial_id: int


def optuna_library() -> Any:
    """Return Optuna, quiet. Raises MissingExtraError if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError as error:
        raise MissingExtraError("effbench study", "study") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


class FileLock:
    """A lock for the journal that the system releases when its process ends; it also removes a line cut short.

    Optuna's own lock files outlive a killed process, and a half-written line (full disk, kill) spoils the journal.
    """

    def __init__(self, journal: Path):
        self._journal, self._path = journal, journal.with_name(f"{journal.name}.lock")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        import fcntl

        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        self._remove_half_line()
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _remove_half_line(self) -> None:
        try:
            with self._journal.open("r+b") as stream:
                size = stream.seek(0, os.SEEK_END)
                end = size
                while end:
                    start = max(0, end - 4096)
                    stream.seek(start)
                    found = stream.read(end - start).rfind(b"\n")
                    if found >= 0:
                        end = start + found + 1
                        break
                    end = start
                if end < size:
                    log.warning(f"{self._journal}: the last line was cut short and is removed; its step is done again")
                    stream.truncate(end)
        except FileNotFoundError:
            return


def opened(url: str | None, folder: Path) -> Any:
    """Return the Optuna storage.

    Args:
        url: of a database; None for the journal file.
        folder: of the study.

    Raises:
        ConfigError: the database does not answer, or its driver is missing.
    """
    optuna = optuna_library()
    if url is None:
        backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL), lock_obj=FileLock(folder / JOURNAL))
        with _explained(f"{folder / JOURNAL}"):
            return optuna.storages.JournalStorage(backend)
    engine = {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        engine["connect_args"] = {"connect_timeout": 10}  # type: ignore[assignment]
    with _explained(f"study.storage={redact(url)}"):
        return optuna.storages.RDBStorage(url, engine_kwargs=engine)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn errors of the storage into one message."""
    try:
        yield
    except EffbenchError:
        raise
    except Exception as error:
        text = " ".join(redact(first_line(error)).split())
        missing = isinstance(error, ImportError)
        remedy = (
            "Install its driver (pip install 'psycopg[binary]')."
            if missing
            else (
                "Check that the server runs and that address, user and database are right; or leave study.storage out."
            )
        )
        raise ConfigError(f"{what} does not answer: {type(error).__name__}: {text}. {remedy}") from error


class Ledger:
    """The tasks of one study in a storage, and who works at them.

    Args:
        storage: from `opened`.
        name: of the study in the storage; it holds the plan's digest.
        maximize: True if larger values are better.
        ranges: arm -> {setting: Optuna distribution}, for Optuna's own tools.
    """

    def __init__(self, storage: Any, name: str, maximize: bool, ranges: Mapping[str, Mapping[str, Any]]):
        self._optuna, self._storage, self._name = optuna_library(), storage, name
        self._maximize, self._ranges = maximize, ranges
        self._studies: dict[tuple[str, str], int] = {}
        self.worker = _worker()
        self._beaten = -STALE_S
        self._seen: dict[str, tuple[Any, float]] = {}  # what was last seen of others, and since when

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
            user_attrs={"task": {**asdict(task), "settings": dict(task.settings)}},
        )
        self._storage.create_new_trial(self._study(task.phase, task.arm), template_trial=trial)

    def _places(self, phase: str, arm: str) -> dict[int, Any]:
        """Return index -> the trial that holds the place: the first that has ended, runs or waits."""
        found: dict[int, Any] = {}
        for trial in self._trials(phase, arm):
            if "task" in trial.user_attrs and not self._is_dropped(trial):
                found.setdefault(int(trial.user_attrs["task"]["index"]), trial)
        return found

    def _is_dropped(self, trial: Any) -> bool:
        return bool(trial.state == self._optuna.trial.TrialState.FAIL and "outcome" not in trial.user_attrs)

    # --- working ------------------------------------------------------------------------------------------------------

    def take(self, tasks: Sequence[Task]) -> Claim | None:
        """Claim the first of the tasks that waits, or whose worker has died; None if there is none."""
        states = self._optuna.trial.TrialState
        places = {(task.phase, task.arm): self._places(task.phase, task.arm) for task in tasks}
        for task in tasks:
            trial = places[task.phase, task.arm].get(task.index)
            if trial is None:
                self._enqueue(task)
                trial = self._places(task.phase, task.arm)[task.index]
            if trial.state == states.RUNNING and self._is_orphan(task, trial):
                trial = self._replaced(task, trial)
            if trial is None or trial.state != states.WAITING:
                continue
            trial_id = self._id(task, trial)
            if not self._claimed(trial_id):
                continue  # another worker was faster
            self._storage.set_trial_user_attr(trial_id, "worker", self.worker)
            return Claim(_task(trial), trial_id)
        return None

    def _claimed(self, trial_id: int) -> bool:
        try:
            return bool(self._storage.set_trial_state_values(trial_id, state=self._optuna.trial.TrialState.RUNNING))
        except RuntimeError:  # Optuna's UpdateFinishedTrialError
            return False

    def _replaced(self, task: Task, trial: Any) -> Any:
        """Drop the trial of a worker that has died, and return its copy that waits; None if another worker did it."""
        if "outcome" in trial.user_attrs:  # it died between writing the outcome and ending the trial
            self._end(self._id(task, trial), trial.user_attrs["outcome"])
            return None
        log.info(f"{task.arm or 'costs'} {task.folder_name}: its worker has died; taken up again")
        return self._again(_task(trial), self._id(task, trial))

    def _again(self, task: Task, trial_id: int) -> Any:
        if not self._dropped(trial_id):
            return None
        self._enqueue(task)
        return self._places(task.phase, task.arm).get(task.index)

    def _dropped(self, trial_id: int) -> bool:
        """End a trial without an outcome; False if it has ended already."""
        try:
            self._storage.set_trial_state_values(trial_id, state=self._optuna.trial.TrialState.FAIL)
        except RuntimeError:  # Optuna's UpdateFinishedTrialError
            return False
        return True

    def put_back(self, claim: Claim, died: bool = False) -> Task:
        """Let a claimed task wait again, and return it. died: its process ended without a result."""
        task = claim.task
        again = Task(task.phase, task.arm, task.index, task.seed, task.settings, task.attempt + died)
        self._again(again, claim.trial_id)
        return again

    def finish(self, claim: Claim, outcome: Mapping[str, Any]) -> None:
        """Record the outcome of a claimed task. outcome: JSON-able; `value` is what tuning compares, or None."""
        try:
            self._storage.set_trial_user_attr(claim.trial_id, "outcome", dict(outcome))
        except RuntimeError:  # Optuna's UpdateFinishedTrialError
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
        except RuntimeError:  # another worker, that thought this one dead, has ended it
            log.debug("trial %d had ended already", trial_id)

    def outcomes(self, phase: str, arm: str) -> dict[int, tuple[Task, dict[str, Any]]]:
        """Return index -> (task, outcome) of what has ended."""
        return {
            index: (_task(trial), dict(trial.user_attrs["outcome"]))
            for index, trial in self._places(phase, arm).items()
            if trial.state.is_finished()
        }

    # --- who is alive -------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Give a sign of life, if the last one is BEAT_S old."""
        now = time.monotonic()
        if now - self._beaten >= BEAT_S:
            self._storage.set_study_user_attr(self._study("workers", ""), self.worker["id"], time.time())
            self._beaten = now

    def _is_orphan(self, task: Task, trial: Any) -> bool:
        """Return True if the worker that runs the trial has died."""
        worker = trial.user_attrs.get("worker")
        if worker is None:
            return self._unchanged_s(f"{task.place} {trial.number}", None) > UNSIGNED_S
        if worker["id"] == self.worker["id"]:
            return False
        if worker["host"] == self.worker["host"] and worker["boot"] == self.worker["boot"]:
            return not _lives(int(worker["pid"]), worker["start"])
        beats = self._storage.get_study_user_attrs(self._study("workers", ""))
        return self._unchanged_s(worker["id"], beats.get(worker["id"])) > STALE_S

    def _unchanged_s(self, what: str, value: Any) -> float:
        """Return for how long a value has been the same, by this machine's clock: clocks of machines differ."""
        now = time.monotonic()
        if what not in self._seen or self._seen[what][0] != value:
            self._seen[what] = (value, now)
        return now - self._seen[what][1]

    # --- Optuna's studies ---------------------------------------------------------------------------------------------

    def _study(self, phase: str, arm: str) -> int:
        """Return the id of the Optuna study of a phase and an arm; it is made if missing."""
        if (phase, arm) not in self._studies:
            name = "/".join(filter(None, (self._name, phase, arm)))
            direction = self._optuna.study.StudyDirection
            way = direction.MAXIMIZE if self._maximize and phase != "cost" else direction.MINIMIZE
            try:
                found = self._storage.create_new_study([way], study_name=name)
            except self._optuna.exceptions.DuplicatedStudyError:
                found = self._storage.get_study_id_from_name(name)
            self._studies[phase, arm] = found
        return self._studies[phase, arm]

    def _id(self, task: Task, trial: Any) -> int:
        study = self._study(task.phase, task.arm)
        return int(self._storage.get_trial_id_from_study_id_trial_number(study, trial.number))

    def _trials(self, phase: str, arm: str) -> list[Any]:
        trials = self._storage.get_all_trials(self._study(phase, arm), deepcopy=False)
        return sorted(trials, key=lambda trial: trial.number)


def _task(trial: Any) -> Task:
    return Task(**trial.user_attrs["task"])


def distributions(record: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, Any]:
    """Return Optuna's distributions of a space's record."""
    found = optuna_library().distributions
    made: dict[str, Any] = {}
    for key, line in record.items():
        [(kind, values)] = line.items()
        if kind == "choices":
            made[key] = found.CategoricalDistribution(list(values))
        elif kind == "int":
            made[key] = found.IntDistribution(int(values[0]), int(values[1]))
        else:
            made[key] = found.FloatDistribution(float(values[0]), float(values[1]), log=kind == "log")
    return made


def _worker() -> dict[str, Any]:
    """Return who this process is: another worker can tell whether it lives."""
    pid = os.getpid()
    return {
        "id": uuid.uuid4().hex[:12],
        "host": socket.gethostname(),
        "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
        "pid": pid,
        "start": _start_of(pid),
    }


def _lives(pid: int, start: str | None) -> bool:
    """Return True if a process of this machine lives; a new process with its number began at another time."""
    if start is not None:
        return _start_of(pid) == start
    try:  # a system without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_of(pid: int) -> str | None:
    """Return when a process of this machine began, in clock ticks since boot; None if there is no such process."""
    text = _text(Path(f"/proc/{pid}/stat"))
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]  # a zombie has ended


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def plain_name(name: str, digest: str) -> str:
    """Return the study's name in a storage: a changed study is another one."""
    return f"{name}-{digest[:12]}"
