"""One folder, one process: the second is told who has it, and a lock ends with its process however that ends.

White-box: counts calls of `_acquire`, and signs a lock late.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig

from effbench import build, cli
from effbench.errors import ConfigError
from effbench.run import lock
from effbench.run.lock import NAME, holding
from effbench.training.callbacks import Progress
from tests.cli.conftest import Effbench
from tests.cli.interrupting import FOUR_EPOCHS_OF_FIVE_STEPS, ends_like, summary
from tests.commandline import TINY
from tests.patience import patience
from tests.torture.runs import Child, dying_after_step, start


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def out_loud(_: int) -> None:
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w") for number in (1, 2))


def contender(barrier: Path, name: str, cwd: Path, ended: Callable[[], bool]) -> Child:
    """A run of `cwd`/run that begins when all stand at the barrier; if it gets to train, it waits for the other."""

    def hook(_: int) -> None:
        whole = Progress.step_end

        def step_end(self: Progress, context: Any) -> None:
            if context.state.step == 3:
                (barrier / f"{name} trains").touch()
                wait_for(ended)
            whole(self, context)

        Progress.step_end = step_end
        os.chdir(cwd)
        (barrier / name).touch()
        wait_for(lambda: (barrier / "a").exists() and (barrier / "b").exists())

    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run"]
    return start(words, barrier / f"of {name}", out_loud, hook)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(23)
@pytest.mark.parametrize("attempt", range(3))
def test_concurrent_start_trains_one_run_and_names_lock_holder(
    attempt: int, uninterrupted: Path, tmp_path: Path
) -> None:
    barrier = tmp_path / f"barrier {attempt}"
    barrier.mkdir()
    children = {name: contender(barrier, name, tmp_path, (barrier / "over").exists) for name in ("a", "b")}
    wait_for(lambda: list(barrier.glob("* trains")))
    [first] = [path.name[0] for path in barrier.glob("* trains")]
    second = "b" if first == "a" else "a"
    code, told = children[second].wait(), children[second].told()
    (barrier / "over").touch()
    assert (code, children[first].wait()) == (2, 0), told
    assert f"run is in use by process {children[first].pid} on {socket.gethostname()} (since 20" in told
    assert "hydra.run.dir=DIR" in told
    assert "Traceback" not in told
    ends_like(tmp_path / "run", uninterrupted)
    assert not (tmp_path / "run" / NAME).exists()


@pytest.mark.process
@pytest.mark.row(23)
def test_a_running_run_cannot_be_resumed_concurrently(effbench: Effbench, tmp_path: Path) -> None:
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    (barrier / "b").touch()  # none to wait for
    child = contender(barrier, "a", tmp_path, (barrier / "over").exists)
    wait_for((barrier / "a trains").exists)
    before = sorted(str(path) for path in (tmp_path / "run").rglob("*"))
    for words in (["resume=run"], [*FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run"]):
        code, out, err = effbench("train", *words)
        assert (code, out) == (2, "")
        assert f"in use by process {child.pid} on" in err
    assert sorted(str(path) for path in (tmp_path / "run").rglob("*")) == before
    (barrier / "over").touch()
    assert child.wait() == 0
    assert summary(tmp_path / "run")["status"] == "completed"


@pytest.mark.process
@pytest.mark.row(24)
def test_the_lock_of_a_killed_run_is_taken_over_without_help(
    uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    saved = "checkpoint.background=false"  # that of step 5, however fast the next two steps are
    child = start([*FOUR_EPOCHS_OF_FIVE_STEPS, saved, "hydra.run.dir=run"], tmp_path, dying_after_step(7))
    assert child.wait() == -signal.SIGKILL
    left = json.loads((tmp_path / "run" / NAME).read_text())
    assert (left["pid"], left["host"]) == (child.pid, socket.gethostname())
    code, _, err = effbench("train", "resume=run")
    assert code == 0
    assert f"note: process {child.pid} on {socket.gethostname()} (since 20" in err
    ends_like(tmp_path / "run", uninterrupted)
    assert not (tmp_path / "run" / NAME).exists()


@pytest.mark.row(24)
@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "host": 3}', "\0\xff", "x" * 10_000])
def test_a_stale_lock_with_any_content_is_taken_over(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)
    with holding(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / NAME).exists()


@pytest.mark.row(24)
def test_stale_lock_with_the_pid_of_another_process_is_ignored(tmp_path: Path) -> None:
    """Numbers are used again: after a reboot another process may have the dead one's."""
    (tmp_path / NAME).write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname(), "since": "then"}))
    with holding(tmp_path):
        pass


@pytest.mark.process
@pytest.mark.row(24)
def test_a_process_forked_by_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker that outlives a killed run must not shut the next one out."""
    hears, tells = os.pipe()
    holder = os.fork()
    if holder == 0:
        with holding(tmp_path):
            if (worker := os.fork()) == 0:
                time.sleep(60)
                os._exit(0)
            os.write(tells, f"{worker}\n".encode())
            time.sleep(60)
        os._exit(0)
    worker = int(os.read(hears, 100))
    try:
        with pytest.raises(ConfigError, match=f"in use by process {holder} on"), holding(tmp_path):
            pass
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.kill(worker, 0)  # lives
        with holding(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(hears)
        os.close(tells)


@pytest.mark.process
@pytest.mark.row(23)
@pytest.mark.parametrize("left", ["", json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "since": "then"})])
def test_a_holder_that_signs_late_is_named_all_the_same(left: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(left)
    hears, tells = os.pipe()
    holder = os.fork()
    if holder == 0:
        descriptor = os.open(tmp_path / NAME, os.O_RDWR)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.write(tells, b"locked")
        time.sleep(0.3)
        lock._sign(descriptor)
        time.sleep(60)
        os._exit(0)
    os.read(hears, 100)
    try:
        with pytest.raises(ConfigError, match=f"in use by process {holder} on"), holding(tmp_path):
            pass
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.close(hears)
        os.close(tells)


@pytest.mark.process
@pytest.mark.row(23)
def test_a_process_forked_by_the_holder_has_no_lock_of_its_own(tmp_path: Path) -> None:
    with holding(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with holding(tmp_path):
                    os._exit(0)
            except ConfigError:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        with holding(tmp_path):  # and the child's end has not let go of it
            pass
        assert (tmp_path / NAME).exists()


def test_a_locked_folder_left_empty_is_removed(tmp_path: Path) -> None:
    with holding(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / NAME).exists()
    assert not list(tmp_path.iterdir())

    def breaks() -> None:
        (tmp_path / "a" / "b" / "kept").touch()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), holding(tmp_path / "a" / "b"):
        breaks()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["kept"]


@pytest.mark.process
def test_run_locks_folder_and_chooses_device_once_in_hydra_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    device, writable, acquire = build.device, lock.require_writable, lock._acquire

    def chosen(*words: Any) -> Any:
        calls.append((os.environ.get("EFFBENCH_TEST"), HydraConfig.get().runtime.output_dir))
        return device(*words)

    monkeypatch.setattr(build, "device", chosen)
    monkeypatch.setattr(lock, "require_writable", lambda *words: calls.append("tried") or writable(*words))
    monkeypatch.setattr(lock, "_acquire", lambda *words: calls.append("locked") or acquire(*words))
    words = [*TINY, f"hydra.run.dir={tmp_path / 'run'}", "+hydra.job.env_set.EFFBENCH_TEST=here"]
    assert cli.main(["train", *words]) == 0
    assert calls == ["tried", "locked", ("here", str(tmp_path / "run"))]
    assert "EFFBENCH_TEST" not in os.environ
