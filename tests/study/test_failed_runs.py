"""A run whose process dies: three times it is the run's own fault, unless this machine trains nothing at all.

White-box: it asks the engine what is left.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest

from effbench.errors import EffbenchError
from effbench.jobs.processes import Relay
from effbench.records import write_summary
from effbench.study.engine import Engine
from effbench.study.ledger import Ledger
from effbench.study.live import Board
from effbench.study.plan import StudyPlan
from effbench.study.planning import planned
from effbench.study.run import plan_only, run_study
from effbench.study.tasks import ledger_of, steps_of

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
