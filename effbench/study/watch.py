"""Processor time that other processes take while a run is timed, from Linux's /proc/stat (proc(5))."""

from __future__ import annotations

import os
import time
from pathlib import Path

from effbench.training.callbacks import Callback, Context
from effbench.training.meter import WARMUP_STEPS

_STAT = Path("/proc/stat")
# /proc/stat counts in ticks of 10 ms, for each processor: so much may be counted for others that was this run's.
_TICKS = 3


class Watch(Callback):
    """Measures what others took of the processors during the timed steps: from the end of the warm-up to the last step.

    Starting a run and reading its data are left out: there it waits for disks, and others may fill the gaps.

    Attributes:
        others: processor seconds a second; None if not known.
    """

    def __init__(self) -> None:
        self.others: float | None = None
        self._begin: tuple[float, float, float] | None = None

    def step_end(self, context: Context) -> None:
        if context.state.step == WARMUP_STEPS:
            self._begin = _reading()
        elif self._begin is not None and not context.trainer.steps_left:
            end = _reading()
            if end is not None:
                self.others = _share([after - before for before, after in zip(self._begin, end, strict=True)])


def _share(differences: list[float]) -> float | None:
    """Return others' processor seconds a second. differences: of two readings."""
    wall_s, busy_s, own_s = differences
    slack_s = _TICKS / os.sysconf("SC_CLK_TCK")
    # a sandbox may show a /proc/stat that stands still: then even the own time is missing in it
    if wall_s <= 0 or busy_s < own_s - slack_s * (os.cpu_count() or 1):
        return None
    return max(0.0, busy_s - own_s - slack_s) / wall_s


def _reading() -> tuple[float, float, float] | None:
    """Return (time, busy time of the processors that this process may use, own time) in seconds; None off Linux."""
    try:
        lines = _STAT.read_text().splitlines()
    except OSError:
        return None
    usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in usable:
            # guest time is part of user time; stolen time is what the host gave to other machines
            user, nice, system, _idle, _wait, irq, soft_irq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + soft_irq + steal
    own_s = time.process_time() + _helpers_s()
    return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), own_s


def _helpers_s() -> float:
    """Return the processor seconds of this process's children, such as workers that read data.

    A job leads a process group of its own (jobs.processes.become_job), and its children are in it.
    """
    ended, ticks, group = os.times(), 0, os.getpgid(0)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # it has ended
            continue
        # after "pid (name)": state is field 3, pgrp 5, utime 14, stime 15, and those of its ended children 16 and 17
        fields = text.rpartition(")")[2].split()
        if int(fields[2]) == group and path.parent.name != str(os.getpid()):
            ticks += sum(map(int, fields[11:15]))
    return ended.children_user + ended.children_system + ticks / os.sysconf("SC_CLK_TCK")
