"""How OpenMP's threads wait: spinning while processors are free, asleep when they are not.

White-box: gives the watcher times of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from effbench.training import waiting
from tests.patience import patience

needs_libgomp = pytest.mark.skipif(waiting._libgomp() is None, reason="torch computes with another OpenMP library")


def threads() -> set[str]:
    """The numbers of this process's threads."""
    return set(os.listdir("/proc/self/task"))  # noqa: PTH208


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + patience(30)
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


class Recorded:
    """Stands for the sleepers."""

    active = False

    def start(self) -> None:
        self.active = True

    def stop(self) -> None:
        self.active = False


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[share of its time that one thread of three waits for a processor], read by the watcher."""
    share, total, at = [0.0], [0.0], [time.monotonic()]

    def read(_: object) -> dict[str, float]:
        now = time.monotonic()
        total[0] += share[0] * (now - at[0])
        at[0] = now
        return {"1": 0.0, "2": total[0], "3": 5.0}

    monkeypatch.setattr(waiting, "_run_delays_s", read)
    for name, value in (("INTERVAL_S", 0.01), ("BUSY_S", 0.05), ("CALM_S", 0.1), ("TRIAL_S", 60.0)):
        monkeypatch.setattr(waiting, name, value)
    return share


@pytest.mark.slow
def test_threads_spin_again_once_the_machine_is_no_longer_busy(delays: list[float]) -> None:
    sleepers = Recorded()
    watch = waiting._Watch(sleepers)  # type: ignore[arg-type]
    watch.start()
    try:
        time.sleep(0.2)
        assert not sleepers.active
        delays[0] = 0.5
        assert eventually(lambda: sleepers.active)
        delays[0] = 0.12  # between the two thresholds: as it was
        time.sleep(0.3)
        assert sleepers.active
        delays[0] = 0.0
        assert eventually(lambda: not sleepers.active)
        delays[0] = 0.5
        assert eventually(lambda: sleepers.active)
    finally:
        watch.stop()
    assert not sleepers.active


@pytest.mark.slow
def test_spinning_trials_back_off_while_the_machine_stays_busy(
    delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "TRIAL_S", 0.2)
    came: list[float] = []

    class Counted(Recorded):
        def start(self) -> None:
            came.append(time.monotonic())
            super().start()

    delays[0] = 0.5
    watch = waiting._Watch(Counted())  # type: ignore[arg-type]
    watch.start()
    try:
        assert eventually(lambda: len(came) == 4)
    finally:
        watch.stop()
    pauses = [after - before for before, after in pairwise(came)]
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.4
    assert pauses[2] >= 0.8


@needs_libgomp
def test_sleeper_threads_join_libgomp_and_leave_it() -> None:
    library = waiting._libgomp()
    assert library is not None
    before, sleepers = threads(), waiting._Sleepers(library, 3)
    sleepers.start()
    assert eventually(lambda: len(threads() - before) == 4)  # and the one of Python's that has them
    began = threads() - before
    sleepers.stop()
    assert eventually(lambda: not threads() & began)  # a thread of an earlier test may end meanwhile


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="what threads wait for processors is told by Linux alone")
def test_run_delay_grows_for_a_thread_sharing_its_processor() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before, deadline = waiting._run_delays_s(set()), time.monotonic() + patience(30)
        own = str(os.getpid())
        while waiting._run_delays_s(set())[own] - before[own] < 0.05 and time.monotonic() < deadline:
            pass
        assert time.monotonic() < deadline
    finally:
        os.sched_setaffinity(0, allowed)
        neighbour.kill()
        neighbour.wait()
    assert own not in waiting._run_delays_s({os.getpid()})


@pytest.mark.parametrize("name", waiting.VARIABLES)
def test_a_wait_policy_set_by_the_user_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    torch.set_num_threads(2)
    before = threads()
    with waiting.sharing_processors(torch.device("cpu")):
        assert threads() == before
    assert waiting.policy() == f"as {name}=1 says"


def test_the_watcher_runs_only_for_several_threads_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(waiting, "affinity", lambda: 2)
    monkeypatch.setattr(waiting, "_libgomp", object)
    monkeypatch.setattr(waiting._Watch, "start", lambda _: started.append(1))
    monkeypatch.setattr(waiting._Watch, "stop", lambda _: None)
    for name in waiting.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for count, device, expected in ((1, "cpu", 0), (2, "cuda", 0), (2, "cpu", 1)):
        torch.set_num_threads(count)
        started.clear()
        with waiting.sharing_processors(torch.device(device)):
            assert len(started) == expected
