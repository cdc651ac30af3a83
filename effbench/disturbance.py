"""What disturbs a measured time: other processes on the same processors, and a processor clock that changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Processor seconds a second of measured time that other processes took, from which a measurement is contaminated.
OTHERS = 0.15
BUSY = 0.85  # own processor seconds a second, below which it is; where others cannot be measured
DRIFT = 1.1  # ratio of a fixed calculation's times before and after, above which the clock has changed

_STAT = Path("/proc/stat")  # proc(5)
# /proc/stat counts in ticks of 10 ms, for each processor: so much may be counted for others that was this process's.
_TICKS = 3
_SPIN = 200_000  # numbers that are summed up: some milliseconds, far above the clock's resolution
# Seconds of repeating the fixed calculation. A neighbour on the same physical core slows it by 2 for tens of
# milliseconds: of windows of 15 ms the least differed by up to 2.0, of windows of 0.4 s by 1.09 (n = 60 each).
_CALIBRATION_S = 0.3


def calibration_s() -> float:
    """Return the seconds of a fixed calculation, the least within _CALIBRATION_S: it follows the processor's clock."""
    # pure Python and no memory: other work on the machine can only delay it, which the least leaves out
    times: list[float] = []
    end = time.perf_counter() + _CALIBRATION_S
    while not times or time.perf_counter() < end:
        begun = time.perf_counter()
        sum(range(_SPIN))
        times.append(time.perf_counter() - begun)
    return min(times)


def drifted(ratio: float) -> bool:
    """Return True if the clock has changed. ratio: of two calibrations."""
    return not 1 / DRIFT <= ratio <= DRIFT


def contaminated(share: float, others: float | None, drift: float) -> bool:
    """Return True if a measurement was disturbed.

    Args:
        share: own processor seconds a second.
        others: processor seconds a second that other processes took; None if not known.
        drift: ratio of the calibrations after and before.
    """
    return (share < BUSY if others is None else others > OTHERS) or drifted(drift)


@dataclass(frozen=True)
class Reading:
    """Clocks at one moment, in seconds.

    Attributes:
        wall: of the wall clock.
        busy: that the processors which this process may use have worked.
        own: of them for this process and its helpers.
    """

    wall: float
    busy: float
    own: float


def reading(helpers: Callable[[], float] = lambda: 0.0) -> Reading | None:
    """Return the clocks; None off Linux. helpers: processor seconds of other processes that belong to this one."""
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
    own_s = time.process_time() + helpers()
    return Reading(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), own_s)


def others_share(begin: Reading, end: Reading) -> float | None:
    """Return other processes' processor seconds a second between two readings; None if not known."""
    wall_s, busy_s, own_s = end.wall - begin.wall, end.busy - begin.busy, end.own - begin.own
    slack_s = _TICKS / os.sysconf("SC_CLK_TCK")
    # a sandbox may show a /proc/stat that stands still: then even the own time is missing in it
    if wall_s <= 0 or busy_s < own_s - slack_s * (os.cpu_count() or 1):
        return None
    return max(0.0, busy_s - own_s - slack_s) / wall_s
