"""Processor time that other processes take while a run is timed."""

from __future__ import annotations

import os
from pathlib import Path

from effbench.disturbance import Reading, others_share, reading
from effbench.training.callbacks import Callback, Context
from effbench.training.meter import WARMUP_STEPS


class Watch(Callback):
    """Measures what others took of the processors during the timed steps: from the end of the warm-up to the last step.

    Starting a run and reading its data are left out: there it waits for disks, and others may fill the gaps.

    Attributes:
        others: processor seconds a second; None if not known.
    """

    def __init__(self) -> None:
        self.others: float | None = None
        self._begin: Reading | None = None

    def step_end(self, context: Context) -> None:
        if context.state.step == WARMUP_STEPS:
            self._begin = reading(_helpers_s)
        elif self._begin is not None and not context.trainer.steps_left:
            end = reading(_helpers_s)
            if end is not None:
                self.others = others_share(self._begin, end)


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
