"""Who works at a study, and which of them have died. A dead worker's task is taken up by another one."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

BEAT_S = 20.0  # between two signs of life of a worker
STALE_S = 90.0  # a worker on another machine without a sign of life for so long, four beats, is dead
UNSIGNED_S = 10.0  # a claim whose worker did not sign within this time was cut short


class Workers:
    """The workers of one study.

    A worker of this machine is looked up among its processes: its death is seen at once. One of another machine, or in
    another container, gives signs of life in the storage, which are user attributes of an Optuna study. Optuna's own
    heartbeat exists for databases only, not for the journal.

    Args:
        storage: from storage.opened.
        study: id of the Optuna study that holds the signs of life.
    """

    def __init__(self, storage: Any, study: int):
        self._storage, self._study = storage, study
        pid = os.getpid()
        self.own: dict[str, Any] = {
            "id": uuid.uuid4().hex[:12],
            "host": socket.gethostname(),
            # after a reboot, say after a power cut, another process may have the pid of a dead worker
            "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
            # two containers of one machine may have one host name, and each sees its own processes only
            "processes": _link(Path("/proc/self/ns/pid")),
            "pid": pid,
            "start": _start_of(pid),
        }
        self._beaten = -STALE_S
        self._seen: dict[str, tuple[Any, float]] = {}  # what was last seen of others, and since when

    def beat(self) -> None:
        """Give a sign of life, if the last one is BEAT_S old."""
        now = time.monotonic()
        if now - self._beaten >= BEAT_S:
            # The time only makes each sign differ from the last. No worker compares it with its own clock.
            self._storage.set_study_user_attr(self._study, self.own["id"], time.time())
            self._beaten = now

    def has_died(self, worker: dict[str, Any] | None, claim: str) -> bool:
        """Return True if the worker that claimed a trial has died.

        Args:
            worker: `own` of the worker; None for a claim that is not signed yet.
            claim: a text that names the trial.
        """
        if worker is None:
            # Claim and signature are two steps of the storage: a worker that is killed between them never signs.
            return self._unchanged_s(claim, None) > UNSIGNED_S
        if worker["id"] == self.own["id"]:
            return False
        if all(worker.get(key) == self.own[key] for key in ("host", "boot", "processes")):
            if worker["start"] is not None:
                # a new process may have the number of a dead one, but not its time of start
                return bool(_start_of(int(worker["pid"])) != worker["start"])
            try:  # a system without /proc
                os.kill(int(worker["pid"]), 0)  # signal 0 only checks that the process exists
            except ProcessLookupError:
                return True
            except PermissionError:  # a process of another user: it exists
                return False
            return False
        beats = self._storage.get_study_user_attrs(self._study)
        return self._unchanged_s(worker["id"], beats.get(worker["id"])) > STALE_S

    def _unchanged_s(self, what: str, value: Any) -> float:
        """Return for how long a value has been the same, by this machine's clock: clocks of machines differ."""
        now = time.monotonic()
        if what not in self._seen or self._seen[what][0] != value:
            self._seen[what] = (value, now)
        return now - self._seen[what][1]


def _start_of(pid: int) -> str | None:
    """Return when a process of this machine began, in clock ticks since boot; None if there is no such process."""
    text = _text(Path(f"/proc/{pid}/stat"))
    if text is None:
        return None
    # "pid (name) state ...": the name may hold spaces and brackets; state is field 3 and starttime field 22 of proc(5)
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]  # a zombie has ended


def _link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
