"""How OpenMP's threads wait for each other: spinning on an idle machine, sleeping on a busy one.

libgomp's threads spin for milliseconds before they sleep. On an idle machine that is fast: a step has hundreds of
synchronisations, and waking a thread costs more than most of the work between two of them. On a busy machine it is
slow: the thread that others wait for has no processor, and the spinning threads use up their share. No spin time suits
both, so a watcher measures how long the threads wait for a processor, and switches.

libgomp spins very little while it has more threads than processors; a few additional threads that always sleep achieve
this. The number of threads that compute does not change, so results do not change.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from effbench.processors import affinity

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")  # the user's choice wins
INTERVAL_S = 0.25
BUSY = 0.15  # fraction of its time that a thread waits for a processor; above it for BUSY_S, threads stop spinning
BUSY_S = 0.4
CALM = 0.10  # below it for CALM_S, they spin again
CALM_S = 1.0
# After this time they spin again as a trial: while they sleep, processes of low priority take their processors, which
# spinning threads would have kept. The time is doubled after each failed trial.
TRIAL_S = 4.0
LONGEST_TRIAL_S = 60.0
MOST_SLEEPERS = 64
_TASKS = Path("/proc/self/task")


def policy() -> str:
    """Return what `sharing_processors` will do here, for `effbench env`."""
    chosen = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    if chosen:
        return f"as {', '.join(chosen)} says"
    if _libgomp() is None or not _run_delays_s(set()):
        return "as the OpenMP library does"
    return "spins on an idle machine, sleeps on a busy one"


@contextmanager
def sharing_processors(device: torch.device) -> Iterator[None]:
    """Watch the threads during the block, on a CPU with several threads, unless the environment sets how to wait."""
    threads, library = torch.get_num_threads(), _libgomp()
    sleepers = affinity() - threads + 1  # libgomp counts processors by affinity too
    chosen = any(name in os.environ for name in VARIABLES)
    if device.type != "cpu" or threads == 1 or chosen or library is None or not 0 < sleepers <= MOST_SLEEPERS:
        yield
        return
    watch = _Watch(_Sleepers(library, sleepers))
    try:
        watch.start()
    except RuntimeError:  # a limit of threads: the watch only saves time
        yield
        return
    try:
        yield
    finally:
        watch.stop()


def _libgomp() -> ctypes.CDLL | None:
    """Return the libgomp that torch uses; None if it uses another library."""
    if sys.platform != "linux":
        return None
    for name in (str(Path(torch.__file__).parent / "lib" / "libgomp.so.1"), "libgomp.so.1"):
        with suppress(OSError):
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    return None


class _Sleepers:
    """Idle threads of libgomp; they exist while a Python thread holds them as its team."""

    def __init__(self, library: ctypes.CDLL, count: int):
        self._library, self._count = library, count
        self._leave = threading.Event()  # set to end the team
        self.active = False

    def start(self) -> None:
        self._leave, self.active = threading.Event(), True  # a new event: the thread of an earlier team may still wait
        with suppress(RuntimeError):  # a limit of threads: the sleepers only save time
            threading.Thread(target=self._hold, args=(self._leave,), name="effbench-sleepers", daemon=True).start()

    def stop(self) -> None:
        """End the thread and its team."""
        self._leave.set()
        self.active = False

    def _hold(self, leave: threading.Event) -> None:
        # Any function without effect will do as the team's work. The team stays in libgomp's pool, asleep, and counts
        # as threads of the process, as long as the thread that started it lives.
        nothing = ctypes.cast(self._library.omp_get_num_threads, ctypes.c_void_p)
        self._library.GOMP_parallel(nothing, None, ctypes.c_uint(self._count + 1), ctypes.c_uint(0))
        leave.wait()


class _Watch(threading.Thread):
    """Starts and ends the sleepers, by how long this process's threads wait for processors."""

    def __init__(self, sleepers: _Sleepers):
        super().__init__(name="effbench-waiting", daemon=True)
        self._sleepers = sleepers
        self._trainer = threading.get_native_id()
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._sleepers.stop()

    def run(self) -> None:
        before, at = self._delays_s(), time.monotonic()
        busy_since = calm_since = started = stopped = at
        patience = TRIAL_S
        while before and not self._ended.wait(INTERVAL_S):  # nothing to read: the system does not tell delays
            delays, now = self._delays_s(), time.monotonic()
            most = max((delay - before.get(task, delay) for task, delay in delays.items()), default=0.0) / (now - at)
            before, at = delays, now
            # Two thresholds with a gap between them, so that a value near one does not switch back and forth.
            busy_since = busy_since if most > BUSY else now
            calm_since = calm_since if most < CALM else now
            if not self._sleepers.active and now - busy_since >= BUSY_S:
                # Busy again soon after a trial: it failed, so the next one comes later.
                patience = min(2 * patience, LONGEST_TRIAL_S) if now - stopped < TRIAL_S else TRIAL_S
                self._sleepers.start()
                started = calm_since = now
            elif self._sleepers.active and (now - calm_since >= CALM_S or now - started >= patience):
                self._sleepers.stop()
                stopped = busy_since = now

    def _delays_s(self) -> dict[str, float]:
        """Return the delays without Python's other threads (data, checkpoints), which may wait."""
        return _run_delays_s({thread.native_id for thread in threading.enumerate()} - {self._trainer})


def _run_delays_s(left_out: set[int | None]) -> dict[str, float]:
    """Return the seconds that each thread was ready to run without a processor; {} if the system does not tell."""
    delays = {}
    with suppress(OSError, ValueError, IndexError):
        for task in os.listdir(_TASKS):  # noqa: PTH208 - names alone, four times a second
            if int(task) not in left_out:
                with suppress(FileNotFoundError, ProcessLookupError):  # it ended
                    delays[task] = int((_TASKS / task / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return delays
