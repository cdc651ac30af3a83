"""The live view: what it counts, and that its lines fit the terminal. White-box: it is drawn without one,
and the engine is asked for the time left."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from effbench.jobs.processes import Relay
from effbench.study.engine import Engine
from effbench.study.ledger import Ledger, Task
from effbench.study.live import Board, Progress, TerminalBoard, progress_of
from effbench.study.plan import StudyPlan
from effbench.study.planning import planned
from effbench.study.tasks import ledger_of

pytest.importorskip("optuna")
NAMES = ("mlp-sgd", "mlp-adamw", "mlp-lion")


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    return planned(["study=smoke", f"study.folder={tmp_path}", "device.name=cpu"])


def named(plan: StudyPlan, names: Sequence[str]) -> StudyPlan:
    """The plan with as many arms as names."""
    arms = tuple(replace(plan.arms[0], arm=replace(plan.arms[0].arm, name=name)) for name in names)
    return replace(plan, arms=arms)


def filled(plan: StudyPlan, values: Sequence[tuple[str, str, int, float | None]]) -> Ledger:
    """The ledger with an outcome for each (phase, arm, index, value)."""
    ledger = ledger_of(plan)
    for phase, arm, index, value in values:
        claim = ledger.take([Task(phase, arm, index)])
        assert claim is not None
        ledger.finish(claim, {"status": "diverged" if value is None else "completed", "value": value})
    return ledger


def frame(
    plan: StudyPlan, ledger: Ledger, running: list[str], left_s: float | None, width: int, others: int = 0
) -> list[str]:
    """The lines of the view on a terminal of this width."""
    live = Live(console=Console(file=io.StringIO(), width=width, height=24), auto_refresh=False)
    TerminalBoard(live).show(plan, ledger, running, left_s, others)
    out = Console(file=io.StringIO(), width=width)
    with out.capture() as capture:
        out.print(live.get_renderable())
    return capture.get().splitlines()


TRIED = [
    ("tune", "mlp-sgd", 0, 0.25), ("tune", "mlp-sgd", 1, 0.75), ("tune", "mlp-sgd", 2, None),
    ("tune", "mlp-adamw", 0, 0.5), ("confirm", "mlp-sgd", 0, 0.875), ("confirm", "mlp-sgd", 1, None),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "best"), [("max", 0.75), ("min", 0.25)])
def test_a_diverged_run_counts_as_ended_and_has_no_value(mode: str, best: float, plan: StudyPlan) -> None:
    plan = replace(plan, mode=mode)
    ledger = filled(plan, TRIED)
    assert f"best tuning run so far: mlp-sgd, val/acc {best:.2%}".replace("%", " %") in frame(
        plan, ledger, [], None, 80
    )
    found = progress_of(plan, ledger)
    assert found == [
        Progress("mlp-sgd", tuned=3, best=best, final=2, missed=2),
        Progress("mlp-adamw", tuned=1, best=0.5, final=0, missed=0),
        Progress("mlp-lion", tuned=0, best=None, final=0, missed=0),
    ]


@pytest.mark.slow
def test_a_run_that_goes_on_has_not_ended(plan: StudyPlan) -> None:
    ledger = filled(plan, [])
    assert ledger.take([Task("tune", "mlp-sgd", 0)]) is not None
    assert {each.tuned for each in progress_of(plan, ledger)} == {0}


@pytest.mark.slow
def test_the_view_names_the_best_arm_and_the_time_left(plan: StudyPlan) -> None:
    shown = frame(plan, filled(plan, TRIED), ["tune  mlp-adamw 2", "final mlp-sgd 3"], 45.4, width=80)
    assert shown[:4] == [
        "",
        "smoke: 6 of 39 runs ended; about 45 s left, then step times are measured",
        "running here: tune mlp-adamw 2, final mlp-sgd 3",
        "best tuning run so far: mlp-sgd, val/acc 75.00 %",
    ]
    assert [line.split() for line in shown[5:]] == [
        ["mlp-sgd", "3/6", "75.00", "%", "2/7", "2"],
        ["mlp-adamw", "1/6", "50.00", "%", "0/7"],
        ["mlp-lion", "0/6", "0/7"],
    ]


@pytest.mark.slow
def test_a_view_without_any_result_says_what_it_knows(plan: StudyPlan) -> None:
    shown = frame(plan, filled(plan, []), [], None, width=80)
    assert shown[:3] == ["", "smoke: 0 of 39 runs ended", "running here: nothing"]
    assert shown[3].split() == ["arm", "tuned", "best", "val/acc", "final", "no", "result"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_broken_and_numbers_stay_aligned(width: int, plan: StudyPlan) -> None:
    names = [f"mobilenet-optimizer_{number}" for number in range(12)]
    plan = named(plan, names)
    ledger = filled(plan, [("tune", names[3], 0, 0.5), ("tune", names[7], 0, 1.0)])
    shown = frame(plan, ledger, [f"tune  {name} 1" for name in names], 8000.0, width)
    assert len(shown) == 4 + 1 + len(names)
    assert all(len(line) <= width for line in shown)
    assert shown[2].rstrip().endswith("…")
    rows = [line for line in shown if line.startswith("mobilenet")]
    assert {line.index("/6") for line in rows} == {rows[0].index("/6")}
    assert rows[3].index("50.00 %") == rows[7].index("100.00 %") + 1


@pytest.mark.slow
def test_a_hostile_name_is_text_in_the_view(plan: StudyPlan) -> None:
    plan = named(plan, ["[red]mlp[/]", "\x1b[2Jmlp"])
    shown = frame(plan, filled(plan, [("tune", "[red]mlp[/]", 0, 0.5)]), ["tune  \x1b[2Jmlp 1"], 1.0, width=80)
    assert shown[3].startswith("best tuning run so far: [red]mlp[/], ")
    assert not any("\x1b" in line for line in shown)


@pytest.mark.slow
def test_time_left_counts_each_run_that_has_not_ended_once(plan: StudyPlan) -> None:
    ledger = filled(plan, [("tune", "mlp-sgd", index, 0.5) for index in range(6)])  # its final runs may begin
    engine = Engine(plan, ledger, Relay(), Board())
    assert engine._left_s(engine._left(), {}) is None  # no run has ended in this process
    engine._took_s += [5.0, 15.0]
    assert engine._left_s(engine._left(), {}) == pytest.approx((39 - 6) * 10.0)


@pytest.mark.slow
def test_time_left_and_view_count_other_workers_that_live(plan: StudyPlan) -> None:
    ledger = filled(plan, [("tune", "mlp-sgd", 0, 0.5)])
    for index, start in ((1, None), (3, "0")):  # "0": no process of this machine began at boot
        other = ledger_of(plan)
        other.workers.own["start"] = start or other.workers.own["start"]
        for place in (index, index + 1):
            assert other.take([Task("tune", "mlp-sgd", place)]) is not None
    assert ledger.take([Task("tune", "mlp-sgd", 5)]) is not None  # its own
    engine = Engine(plan, ledger, Relay(), Board())
    engine._took_s += [10.0]
    left = engine._left()
    found = ledger.held_by_others(left)
    assert list(found.values()) == [2]
    assert engine._left_s(left, found) == pytest.approx((39 - 1) * 10.0 / 3)
    shown = frame(plan, ledger, [], 45.4, 80, others=1)[1]
    assert shown.startswith("smoke: 1 of 39 runs ended; 2 workers; about 45 s left, ")
