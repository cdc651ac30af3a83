"""A run whose process dies: three times it is the run's own fault, unless this machine trains nothing at all.

White-box: it asks the engine what is left, and removes the folders of short runs as a study does at its end.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from effbench.errors import ConfigError, EffbenchError
from effbench.jobs.plan import standing
from effbench.jobs.processes import Relay, record_failure
from effbench.records import write_summary
from effbench.run.lock import holding
from effbench.study.engine import Engine
from effbench.study.ledger import Ledger
from effbench.study.live import Board
from effbench.study.plan import StudyPlan
from effbench.study.planning import planned
from effbench.study.run import _remove_scratch, plan_only, run_study
from effbench.study.tasks import ledger_of, steps_of
from tests.patience import patience

pytest.importorskip("optuna")
FORK = multiprocessing.get_context("fork")
WORDS = ["study=smoke", "study.optimizers=[sgd,adamw]", "study.trials=1", "study.seeds=6", "study.timing_rounds=0"]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyPlan:
    """A plan whose runs all end with exit code 7."""
    monkeypatch.setattr("effbench.study.engine.job_process", lambda *_, **__: FORK.Process(target=sys.exit, args=(7,)))
    plan = planned([*WORDS, f"study.folder={tmp_path}"])
    tmp_path.mkdir(exist_ok=True)
    return plan


def ended(ledger: Ledger, plan: StudyPlan) -> list[Any]:
    phases = ("tune", "confirm")
    return [found for phase in phases for arm in plan.arms for found in ledger.outcomes(phase, arm.name).values()]


@pytest.mark.proof
@pytest.mark.process
def test_a_run_that_dies_three_times_is_recorded_as_failed(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effbench.study.engine.probe_arm", lambda *_: "it trains")
    ledger = ledger_of(plan)
    assert Engine(plan, ledger, Relay(), Board()).work()
    assert len(ended(ledger, plan)) == 2 * (1 + 6)
    assert {outcome["status"] for _, outcome in ended(ledger, plan)} == {"failed"}
    assert {task.attempt for task, _ in ended(ledger, plan)} == {2}


@pytest.mark.process
def test_a_machine_that_trains_nothing_records_no_run_as_failed(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe_arm(*_: Any) -> None:
        raise EffbenchError("data.root=/data: no such folder.")

    monkeypatch.setattr("effbench.study.engine.probe_arm", probe_arm)
    ledger = ledger_of(plan)
    with pytest.raises(EffbenchError, match=r"exit code 7\. This machine .*: data\.root=/data: .* same command again"):
        Engine(plan, ledger, Relay(), Board()).work()
    assert ended(ledger, plan) == []
    assert ledger.take(Engine(plan, ledger, Relay(), Board())._left()) is not None


@pytest.mark.process
def test_a_signal_during_the_last_try_records_nothing(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay()

    def probe_arm(*_: Any) -> None:
        relay.signals.append(15)

    monkeypatch.setattr("effbench.study.engine.probe_arm", probe_arm)
    ledger = ledger_of(plan)
    assert not Engine(plan, ledger, relay, Board()).work()
    assert ended(ledger, plan) == []


@pytest.mark.spread(2)
@pytest.mark.process
@pytest.mark.parametrize(
    ("status", "error", "kept"),
    [
        ("interrupted", None, False),
        ("failed", "NoSpaceError: no space at x (No space left on device).", False),
        ("failed", "ValueError: x", True),
    ],
)
def test_only_what_tells_why_a_run_failed_is_kept(
    status: str, error: str | None, kept: bool, plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plan.folder / "runs" / "mlp-sgd" / "tune-000"
    write_summary_of(folder, status, error)
    relay = Relay()

    def probe_arm(*_: Any) -> None:
        relay.signals.append(15)

    monkeypatch.setattr("effbench.study.engine.probe_arm", probe_arm)
    Engine(plan, ledger_of(plan), relay, Board()).work()
    assert list(folder.parent.glob("*.failed-1")) == ([folder.with_name("tune-000.failed-1")] if kept else [])


def write_summary_of(folder: Path, status: str, error: str | None) -> None:
    folder.mkdir(parents=True)
    write_summary(folder, {"status": status, "error": error, "metrics": {}, "argv": []})


def begun(folder: Path) -> None:
    """A run that was interrupted after a checkpoint."""
    write_summary_of(folder, "interrupted", None)
    (folder / "checkpoints" / "step-00000002").mkdir(parents=True)


class Jobs:
    """Stands for job_process: keeps the words of each run, and runs what it is told to."""

    def __init__(self, *runs: Any):
        self.words: list[list[str]] = []
        self._runs = list(runs)

    def __call__(self, folder: Path, words: list[str], **_: Any) -> Any:
        self.words.append(words)
        return FORK.Process(target=self._runs.pop(0), args=(folder,))


@pytest.mark.process
def test_a_resumed_run_reads_its_data_where_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay()
    plan = planned([*WORDS, f"study.folder={tmp_path}", "data.root=moved", "device.name=cpu", "data.val_fraction=0.2"])
    begun(plan.folder / "runs" / "mlp-sgd" / "tune-000")
    jobs = Jobs(lambda _: None)
    monkeypatch.setattr("effbench.study.engine.job_process", jobs)
    monkeypatch.setattr(Board, "show", lambda *_, **__: relay.signals.append(15))
    assert not Engine(plan, ledger_of(plan), relay, Board()).work()
    [words] = jobs.words
    assert {"data.root=moved", "device.name=cpu", "device.threads=1"} <= set(words)
    assert words.count(f"resume='{plan.folder}/runs/mlp-sgd/tune-000'") == 1
    assert len(words) == 4  # its settings are those of its record


def refused(folder: Path) -> None:
    """What a run does whose resume is refused."""
    record_failure(folder, ConfigError("resume=x: the dataset is not the one that x was trained on."))
    sys.exit(2)


@pytest.mark.process
def test_a_run_whose_resume_is_refused_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = Relay()
    plan = planned([*WORDS, f"study.folder={tmp_path}"])
    folder = plan.folder / "runs" / "mlp-sgd" / "tune-000"
    begun(folder)
    jobs = Jobs(refused, *[lambda _: sys.exit(7)] * 4)
    monkeypatch.setattr("effbench.study.engine.job_process", jobs)
    probed: list[str] = []

    def probe_arm(*given: Any) -> str | None:
        probed.append(given[2])
        relay.signals.extend([15] * (len(probed) > 1))
        return "it trains" if len(probed) == 1 else None

    monkeypatch.setattr("effbench.study.engine.probe_arm", probe_arm)
    ledger = ledger_of(plan)
    Engine(plan, ledger, relay, Board()).work()
    assert probed == ["mlp-sgd"] * 2  # the refusal, and the third death of the new run
    assert folder.with_name("tune-000.failed-1").is_dir()
    resumed = [any(word.startswith("resume=") for word in words) for words in jobs.words]
    assert resumed[:4] == [True, False, False, False]
    told = " ".join(capsys.readouterr().err.split())
    assert "the dataset is not the one that x was trained on; it is started anew, and what there was is kept" in told


@pytest.mark.process
def test_a_refusal_by_the_machine_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned([*WORDS, f"study.folder={tmp_path}"])
    folder = plan.folder / "runs" / "mlp-sgd" / "tune-000"
    begun(folder)
    monkeypatch.setattr("effbench.study.engine.job_process", Jobs(refused))

    def probe_arm(*_: Any) -> None:
        raise EffbenchError("data.root=/data: no such folder.")

    monkeypatch.setattr("effbench.study.engine.probe_arm", probe_arm)
    ledger = ledger_of(plan)
    with pytest.raises(EffbenchError, match=r"is not the one .* This machine .*: data\.root=/data: no such folder"):
        Engine(plan, ledger, Relay(), Board()).work()
    assert standing(folder) == "begun"
    assert ended(ledger, plan) == []


@pytest.mark.process
def test_a_death_is_not_explained_by_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned([*WORDS, f"study.folder={tmp_path}"])
    folder = plan.folder / "runs" / "mlp-sgd" / "tune-000"
    begun(folder)
    write_summary(folder, {"status": "failed", "error": "an old error", "metrics": {}, "argv": []})
    monkeypatch.setattr("effbench.study.engine.job_process", Jobs(*[lambda _: sys.exit(7)] * 3))

    def probe_arm(*_: Any) -> None:
        raise EffbenchError("nothing trains here.")

    monkeypatch.setattr("effbench.study.engine.probe_arm", probe_arm)
    with pytest.raises(EffbenchError, match="ended with exit code 7. This machine"):
        Engine(plan, ledger_of(plan), Relay(), Board()).work()
    assert "an old error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "start",
    [lambda plan: run_study(plan, "command", False), lambda plan: plan_only(plan, False)],
    ids=["study", "--plan"],
)
def test_runs_of_an_unknown_study_are_refused_before_any_step(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effbench.study.run.probe_arms", lambda *_: pytest.fail("it trains"))
    (tmp_path / "out" / "runs" / "mlp-sgd").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds runs, and there is no study.json"):
        start(planned([*WORDS, f"study.folder={tmp_path / 'out'}"]))


@pytest.mark.process
def test_scratch_is_removed_where_nobody_measures(tmp_path: Path) -> None:
    """Another terminal may run the same study with --plan or --costs."""
    old = time.time() - 60
    for name in (".probe-1", ".probe-2", ".probe-3", ".probe-4"):
        (tmp_path / name).mkdir()
    (tmp_path / ".probe-2" / ".lock").touch()  # killed: nobody holds the lock
    os.utime(tmp_path / ".probe-3", (old, old))
    held = FORK.Event()

    def measure() -> None:
        with holding(tmp_path / ".probe-4"):
            held.set()
            time.sleep(60)

    process = FORK.Process(target=measure)
    process.start()
    assert held.wait(patience(10))
    _remove_scratch(tmp_path)
    process.kill()
    process.join()
    # 1: a run that has made its folder and not yet locked it
    assert sorted(path.name for path in tmp_path.iterdir()) == [".probe-1", ".probe-4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "told"),
    [
        (lambda plan: run_study(plan, "command", False), "interrupted before the study began; nothing is written"),
        (lambda plan: plan_only(plan, False), "interrupted; nothing is written"),
    ],
    ids=["study", "--plan"],
)
def test_a_signal_in_the_first_steps_leaves_nothing_and_says_so(
    start: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_plan: StudyPlan, relay: Relay) -> dict[str, Any]:
        relay.signals.append(2)
        return {}

    monkeypatch.setattr("effbench.study.run.probe_arms", interrupted)
    assert start(planned([*WORDS, f"study.folder={tmp_path / 'new'}"])) == 130
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_seconds_become_steps_by_the_median_step_time(tmp_path: Path) -> None:
    plan = planned([*WORDS, "study.epochs=null", "study.seconds=30", f"study.folder={tmp_path}"])
    ledger = ledger_of(plan)
    claim = ledger.take(Engine(plan, ledger, Relay(), Board())._left())
    assert claim is not None
    assert claim.task.phase == "pace"  # before any run
    times = {"mlp-sgd": (0.1, 0.3, 0.1), "mlp-adamw": (0.2, 0.2, 0.9)}
    rounds = {
        arm: {"rounds": [{"step_s": each, "contaminated": False} for each in every]} for arm, every in times.items()
    }
    ledger.finish(claim, {"status": "completed", "value": 0.0, "arms": rounds})
    assert [steps_of(plan, ledger, arm) for arm in times] == [300, 150]
    words = plan.words("mlp-sgd", {}, 1, tests=True, steps=300)
    assert {"trainer.max_steps=300", "trainer.max_epochs=null", "trainer.max_time=null"} <= set(words)
