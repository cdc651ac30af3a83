"""What --plan tells: the size of a study by a closed form, its record, and how long the study then takes."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from effbench.errors import ConfigError
from effbench.study.collect import failed_outcome
from effbench.study.estimate import Estimate
from effbench.study.frozen import freeze
from effbench.study.ledger import Task
from effbench.study.measure import Probe
from effbench.study.plan import StudyPlan
from effbench.study.planning import planned
from effbench.study.run import plan_only
from effbench.study.storage import JOURNAL
from effbench.study.tasks import ledger_of
from tests.commandline import effbench
from tests.study.kills import WORDS

pytest.importorskip("optuna")
NAMES = ("mlp-sgd", "mlp-adamw", "mlp-lion")


def probe(step_s: float) -> Probe:
    """A short run: 30 steps an epoch, 2 s a validation, 1 s to begin."""
    return Probe(
        step_s=step_s, samples_per_s=64 / step_s, unit="image", steps_per_epoch=30, evaluation_s=2.0, start_s=1.0,
        parameters=1234, macs=1200, peak_bytes=10**8, share=1.0, others=0.0, drift=1.0, load=0.0,
        splits=("train", "val", "test"),
    )  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    """3 arms x (6 tuning runs + 7 seeds) of 3 epochs, 3 rounds of timing, a run at a time."""
    return planned(["study=smoke", f"study.folder={tmp_path}", "device.name=cpu"])


def estimate(plan: StudyPlan, **keys: object) -> Estimate:
    """The arms' steps take 0.1, 0.2 and 0.3 s."""
    steps = zip(NAMES, (0.1, 0.2, 0.3), strict=True)
    return Estimate(replace(plan, keys=plan.keys.model_copy(update=keys)), {name: probe(step) for name, step in steps})


@pytest.mark.slow
def test_a_study_s_seconds_are_those_of_its_runs_and_timings(plan: StudyPlan) -> None:
    # a run: 1 s, 90 steps, three validations and the test; a timing: 1 s and 45 steps
    runs = 13 * sum(1 + 90 * step + 4 * 2 for step in (0.1, 0.2, 0.3))
    timing = sum(1 + 45 * step for step in (0.1, 0.2, 0.3))
    first = 1.0  # the first run of a process
    assert estimate(plan).total_s == pytest.approx(runs + 3 * timing + first)
    assert estimate(plan, workers=2).total_s == pytest.approx(runs / 2 + 3 * timing + first)
    assert estimate(plan, timing_rounds=0).total_s == pytest.approx(runs + first)


@pytest.mark.slow
def test_a_budget_in_seconds_becomes_steps_of_each_arm(plan: StudyPlan) -> None:
    found = estimate(plan, epochs=None, seconds=6.0)
    assert [found.steps_of(name) for name in NAMES] == [60, 30, 20]
    # 6 s of steps in every run, a validation for each 30 steps and one more, and 3 rounds that measure the pace
    runs = 13 * sum(1 + 6 + (steps / 30 + 1) * 2 for steps in (60, 30, 20))
    timing = sum(1 + 45 * step for step in (0.1, 0.2, 0.3))
    assert found.total_s == pytest.approx(runs + (3 + 3) * timing + 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["60", "120"])
def test_the_plan_shown_has_every_arm_and_no_broken_number(
    columns: str, plan: StudyPlan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    estimate(plan).show()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("study smoke: 3 arms x (6 tuning runs + 7 seeds) = 39 runs, about ")
    assert [(line.split()[0], line.split()[-5:]) for line in lines[2:5]] == [
        ("mlp-sgd", ["90", "100.0", "ms", "18.0", "s"]),
        ("mlp-adamw", ["90", "200.0", "ms", "27.0", "s"]),
        ("mlp-lion", ["90", "300.0", "ms", "36.0", "s"]),
    ]
    assert (
        "sgd: optimizer.lr=0.003 to 1.0, optimizer.weight_decay=1e-05 to 0.003, scheduler.warmup=0 | 5% | 10%" in lines
    )


def test_a_target_is_shown_as_the_page_writes_it(plan: StudyPlan, capsys: pytest.CaptureFixture[str]) -> None:
    estimate(plan, target=0.85).show()
    assert "Target: validation 85.00 %." in capsys.readouterr().out


def test_a_plan_knows_the_study_that_has_begun(
    plan: StudyPlan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effbench.study.run.probe_arms", lambda *_: {name: probe(0.1) for name in NAMES})
    freeze(plan)
    ledger = ledger_of(plan)
    for index in range(2):
        claim = ledger.take([Task("tune", "mlp-sgd", index)])
        assert claim is not None
        ledger.finish(claim, failed_outcome("", f"runs/mlp-sgd/tune-{index:03d}"))
    before = (plan.folder / JOURNAL).read_bytes()
    assert plan_only(plan, as_json=False) == 0
    told = capsys.readouterr()
    assert "holds this study: 2 of 39 runs have ended." in " ".join(told.out.split())
    assert "to go on with it: the same command without --plan" in told.err
    assert (plan.folder / JOURNAL).read_bytes() == before
    changed = planned(["study=smoke", f"study.folder={plan.folder}", "study.trials=8"])
    with pytest.raises(ConfigError, match="keys.trials: 6 there, 8 asked for"):
        plan_only(changed, as_json=False)


@pytest.mark.process
def test_a_storage_that_does_not_answer_is_refused_by_plan(tmp_path: Path) -> None:
    result = effbench(*WORDS, "study.storage=postgresql://me:hunter22@127.0.0.1:9/x", "--plan", cwd=tmp_path)
    assert result.returncode == 2
    assert "does not answer" in result.stderr
    assert "hunter22" not in result.stderr
    assert "trying a few steps" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.proof
def test_plan_as_json_tells_what_the_study_then_runs(tmp_path: Path) -> None:
    words = [*WORDS, "study.epochs=6"]
    told = effbench(*words, "--plan", "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert list(tmp_path.iterdir()) == []  # a plan writes nothing
    found = json.loads(told.stdout)
    assert found.keys() == {
        "study", "digest", "arms", "trials", "seeds", "pairs", "runs", "ended", "estimated_s", "deployment_s", "power",
    }  # fmt: skip
    assert [arm["arm"] for arm in found["arms"]] == ["mlp-sgd", "mlp-adamw"]

    begun = time.perf_counter()
    result = effbench(*words, cwd=tmp_path)
    took_s = time.perf_counter() - begun
    assert result.returncode == 0, result.stderr
    table = json.loads((tmp_path / "out" / "table.json").read_text())["value"]
    assert found["runs"] == len(table["trials"]) + len(table["confirmations"])
    assert found["digest"] == json.loads((tmp_path / "out" / "study.json").read_text())["digest"]
    assert {arm["steps"] for arm in found["arms"]} == {run["steps"] for run in table["confirmations"]}
    assert found["pairs"] == table["pairs"]
    # No timing: epochs or runs that the estimate forgot would make it wrong by more than this. A factor of two, which
    # it keeps on a quiet machine, is too little where other tests begin or end in between.
    assert took_s / 4 < found["estimated_s"] < took_s * 4
