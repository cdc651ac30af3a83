"""What is measured alone: step times of arms that diverge, others' use of the processors, signs of life meanwhile.

White-box: a machine with other work is written as a file of /proc.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench import disturbance
from effbench.errors import EffbenchError
from effbench.jobs.processes import Relay, called
from effbench.study import watch
from effbench.study.alone import NO_SPACE, measured
from effbench.study.collect import table_of, undisturbed
from effbench.study.measure import PROBE_STEPS, TIMED_STEPS, Probe, inference_costs, probe
from effbench.study.planning import planned
from effbench.study.table import FROM_STEPS, MEASURED, Confirmation, Trial
from effbench.study.tasks import COST, cost_task, ledger_of
from tests.commandline import effbench
from tests.study.kills import WORDS, table_in

pytest.importorskip("optuna")

PROBE = Probe(
    step_s=0.1, samples_per_s=640.0, unit="image", steps_per_epoch=10.0, evaluation_s=0.1, start_s=1.0,
    parameters=100, macs=1000, peak_bytes=10**8, share=1.0, others=0.0, drift=1.0, load=0.0,
    splits=("train", "val", "test"),
)  # fmt: skip
ROWS = ["data=synthetic_rows", "data.targets=values", "task=regression", "loss=mse"]
BEST = {"mlp-sgd": {"optimizer.lr": 1e5}, "mlp-adamw": {"optimizer.lr": 0.01}}


# --- arms that do not train -------------------------------------------------------------------------------------------


def measured_with(
    fails: Callable[[list[str], int], str | None],
    at_end: bool,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    disturbed: Callable[[bool, int], bool] = lambda *_: False,
) -> Any:
    """Measure two arms with runs that are not run: (result of `measured`, table of the study).

    Args:
        fails: (words, steps) -> the error of the run, or None.
        at_end: as `measured` takes it.
        place: an empty folder.
        monkeypatch: pytest's.
        disturbed: (the arm is SGD, number of its measurements before) -> other work is seen beside it.
    """
    counts = {True: 0, False: 0}

    def not_run(_relay: Relay, function: Any, words: list[str], *rest: Any, **_options: Any) -> Any:
        if function is inference_costs:
            return {"optimizer_state_bytes": 8, "latency_p50_s": 0.001}
        if error := fails(words, rest[1]):
            raise EffbenchError(error)
        number, counts[is_sgd(words)] = counts[is_sgd(words)], counts[is_sgd(words)] + 1
        # the time says which measurement it was
        return replace(PROBE, step_s=1.0 + number, others=0.9 if disturbed(is_sgd(words), number) else 0.0)

    monkeypatch.setattr("effbench.study.alone.called", not_run)
    monkeypatch.setattr("effbench.study.alone.best_settings", lambda _plan, _ledger, arm: BEST[arm] if at_end else None)
    words = [word for word in WORDS[1:] if "timing_rounds" not in word]
    plan = planned([*words, "study.timing_rounds=3", f"study.folder={place}"])
    ledger = ledger_of(plan)
    found = measured(plan, ledger, Relay(), at_end)
    claim = ledger.take([COST])
    assert claim is not None
    ledger.finish(claim, {"status": "completed", "value": 0.0, "arms": found if at_end else {}})
    return found, table_of(plan, ledger)


def is_sgd(words: list[str]) -> bool:
    return "optimizer=sgd" in words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "settings", "steps"),
    [
        (lambda *_: None, BEST["mlp-sgd"], TIMED_STEPS),
        (lambda words, _: "the run diverged: x." if "optimizer.lr=100000.0" in words else None, {}, TIMED_STEPS),
        (lambda words, _: "a warm-up of 500 steps." if "optimizer.lr=100000.0" in words else None, {}, TIMED_STEPS),
        (
            lambda words, steps: "the run diverged: x." if is_sgd(words) and steps > PROBE_STEPS else None,
            {}, PROBE_STEPS,
        ),
    ],
    ids=["trains", "diverges", "refused", "diverges after 12 steps"],
)  # fmt: skip
def test_an_arm_that_fails_is_measured_with_its_defaults(
    fails: Any, settings: Mapping[str, Any], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, table = measured_with(fails, True, tmp_path, monkeypatch)
    assert {arm: len(each["rounds"]) for arm, each in found.items()} == {"mlp-sgd": 3, "mlp-adamw": 3}
    assert (found["mlp-sgd"]["settings"], found["mlp-sgd"]["steps"]) == (settings, steps)
    assert (found["mlp-adamw"]["settings"], found["mlp-adamw"]["steps"]) == (BEST["mlp-adamw"], TIMED_STEPS)
    assert table.clock == FROM_STEPS
    assert [cost.defaults for cost in table.costs] == [settings == {}, False]


@pytest.mark.slow
def test_an_arm_that_always_diverges_has_no_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str], _steps: int) -> str | None:
        return "the run diverged: the loss is nan." if is_sgd(words) else None

    found, table = measured_with(fails, True, tmp_path, monkeypatch)
    assert list(found) == ["mlp-adamw"]
    assert [cost.arm for cost in table.costs] == ["mlp-adamw"]
    assert table.clock == MEASURED  # one clock for all arms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disturbed", "count", "clean", "mean_s"),
    [
        (lambda *_: False, 3, True, 2.0),
        (lambda sgd, number: sgd and number == 1, 4, True, (1 + 3 + 4) / 3),
        # at once repeated twice, then given up: two clean rounds of the three wanted are too few
        (lambda sgd, number: sgd and 1 <= number <= 3, 5, False, (1 + 2 + 3 + 4 + 5) / 5),
        (lambda sgd, _: sgd, 9, False, 5.0),
    ],
    ids=["none", "one", "a round", "all"],
)
def test_a_disturbed_measurement_is_repeated(
    disturbed: Any, count: int, clean: bool, mean_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, table = measured_with(lambda *_: None, True, tmp_path, monkeypatch, disturbed)
    assert {arm: len(each["rounds"]) for arm, each in found.items()} == {"mlp-sgd": count, "mlp-adamw": 3}
    costs = {cost.arm: cost for cost in table.costs}
    assert costs["mlp-sgd"].contaminated != clean
    assert costs["mlp-sgd"].step_seconds.estimate == pytest.approx(mean_s)
    assert not costs["mlp-adamw"].contaminated


def test_records_without_repetitions_are_read() -> None:
    rounds = [{"contaminated": each} for each in (True, False, False, False, True)]
    assert undisturbed({"rounds": rounds}) == (rounds[1:4], True)
    assert undisturbed({"rounds": rounds[:3]}) == (rounds[:3], False)
    assert undisturbed({"rounds": rounds[1:3]}) == (rounds[1:3], True)  # the plan asked for two


@pytest.mark.slow
def test_costs_measured_again_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_with(lambda *_: None, True, tmp_path, monkeypatch, lambda *_: True)
    words = [word for word in WORDS[1:] if "timing_rounds" not in word]
    plan = planned([*words, "study.timing_rounds=3", f"study.folder={tmp_path}"])
    ledger = ledger_of(plan)
    assert cost_task(ledger) == COST
    task = cost_task(ledger, again=True)
    assert ledger.take([COST]) is None  # it has ended
    claim = ledger.take([task])
    assert claim is not None
    assert all(cost.contaminated for cost in table_of(plan, ledger).costs)
    found = measured(plan, ledger, Relay(), at_end=True)
    ledger.finish(claim, {"status": "completed", "value": 0.0, "arms": {"mlp-sgd": {**(found or {})["mlp-sgd"],
        "rounds": [replace(PROBE, step_s=7.0).record()] * 3}}})  # fmt: skip
    [cost] = table_of(plan, ledger_of(plan)).costs
    assert (cost.contaminated, cost.step_seconds.estimate) == (False, 7.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["study.timing_rounds=0", "--costs"], "--costs measures step times, and study.timing_rounds is 0"),
        (["--plan", "--costs"], "give --plan or --costs"),
    ],
)
def test_costs_that_cannot_be_measured_again(words: list[str], text: str, tmp_path: Path) -> None:
    result = effbench(*WORDS, *words, cwd=tmp_path)
    assert result.returncode == 2
    assert text in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "at_end"),
    [
        ("the run diverged: the loss is nan.", False),  # without a pace no run has a length
        ("data.root=/data: no such folder.", True),  # a fault of the machine, which may be mended
        (f"NoSpaceError: no space at x ({NO_SPACE}).", True),
    ],
)
def test_what_is_not_the_arms_fault_stops_the_measurement(
    error: str, at_end: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EffbenchError) as stopped:
        measured_with(lambda words, _: error if is_sgd(words) else None, at_end, tmp_path, monkeypatch)
    assert error in str(stopped.value)


@pytest.mark.process
@pytest.mark.proof
def test_a_study_with_an_arm_that_always_diverges_ends(tmp_path: Path) -> None:
    (tmp_path / "own" / "search_space").mkdir(parents=True)
    (tmp_path / "own" / "search_space" / "sgd.yaml").write_text("optimizer.lr: {log: [1.0e12, 1.0e15]}\n")
    words = [word for word in WORDS if "timing_rounds" not in word]
    result = effbench(*words, "study.timing_rounds=2", "--config-dir", "own", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = table_in(tmp_path / "out")
    every: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    diverged = [run for run in every if run.arm == "mlp-sgd"]
    assert {run.status for run in diverged} == {"diverged"}
    assert len(diverged) == 3 + 6
    assert [cost.arm for cost in table.costs] == ["mlp-sgd", "mlp-adamw"]  # of sgd's defaults
    assert (tmp_path / "out" / "study.html").exists()


# --- others on the machine --------------------------------------------------------------------------------------------

LOOP = [sys.executable, "-c", "while True: pass"]


@pytest.fixture
def busy() -> Iterator[Callable[[bool], None]]:
    """A function that starts a process that computes: a stranger (True), or one of this process's own group."""
    started: list[subprocess.Popen[bytes]] = []

    def start(stranger: bool) -> None:
        started.append(subprocess.Popen(LOOP, start_new_session=stranger))

    yield start
    for process in started:
        process.kill()
        process.wait()


def context_at(step: int, left: int) -> Any:
    return SimpleNamespace(state=SimpleNamespace(step=step), trainer=SimpleNamespace(steps_left=left))


def others_in(seconds: float) -> float | None:
    """What a watch sees in a run whose timed steps take so long, computing all the time."""
    one = watch.Watch()
    one.step_end(context_at(5, 2))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    one.step_end(context_at(6, 1))
    one.step_end(context_at(7, 0))
    return one.others


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux's /proc")
@pytest.mark.parametrize("helpers", [0, 1])  # a run with one thread, and one with a worker that reads data
def test_other_work_beside_a_timed_run_is_seen(helpers: int, busy: Callable[[bool], None]) -> None:
    for _ in range(helpers):
        busy(False)
    busy(True)
    time.sleep(0.1)
    others = others_in(0.5)
    assert others is not None
    assert others > 0.15


@pytest.mark.parametrize(
    ("own_s", "user", "iowait", "steal", "others"),
    [
        (1.0, 100, 0, 0, 0.0),
        (0.3, 30, 70, 0, 0.0),  # it waits for a disk: nobody else computes
        (1.0, 102, 0, 0, 0.0),  # within what ticks resolve
        (1.0, 130, 0, 0, 0.27),
        (1.0, 100, 0, 30, 0.27),  # stolen by another machine on this host
        (0.5, 100, 0, 0, 0.47),  # others have half of the processor
        (1.0, 0, 0, 0, None),  # a sandbox's file that stands still
    ],
)
def test_others_share_is_busy_time_without_own_time(
    own_s: float, user: int, iowait: int, steal: int, others: float | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def stat(user: int, iowait: int, steal: int) -> None:
        line = f"{user} 0 0 1000 {iowait} 0 0 {steal} 0 0"
        # cpu1 is none that this process may use
        (tmp_path / "stat").write_text(f"cpu  {line}\ncpu0 {line}\ncpu1 {10 * user} 0 0 0 0 0 0 0 0 0\nintr 1 2\n")

    now = [0.0, 0.0]
    clocks = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[1])
    monkeypatch.setattr(disturbance, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(disturbance, "time", clocks)
    monkeypatch.setattr(watch, "_helpers_s", lambda: 0.0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    one = watch.Watch()
    stat(0, 0, 0)
    one.step_end(context_at(5, 1))
    stat(user, iowait, steal)
    now[:] = [1.0, own_s]
    one.step_end(context_at(6, 0))
    assert one.others == (None if others is None else pytest.approx(others))


def test_a_system_without_proc_stat_goes_by_its_own_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "_STAT", tmp_path / "none")
    one = watch.Watch()
    one.step_end(context_at(5, 1))
    one.step_end(context_at(6, 0))
    assert one.others is None


@pytest.mark.parametrize(
    ("share", "others", "drift", "contaminated"),
    [
        (1.0, None, 1.0, False),
        (0.8, None, 1.0, True),
        (0.8, 0.0, 1.0, False),  # it read from a disk before the training
        (1.9, 0.2, 1.0, True),  # two threads: enough processor time, and yet others beside them
        (1.0, 0.0, 1.2, True),
    ],
)
def test_a_probe_beside_other_work_is_contaminated(
    share: float, others: float | None, drift: float, contaminated: bool
) -> None:
    assert replace(PROBE, share=share, others=others, drift=drift).contaminated == contaminated


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(("data", "unit"), [([], "image"), (ROWS, "row")], ids=["images", "rows"])
def test_a_probe_watches_its_timed_steps(data: list[str], unit: str, tmp_path: Path) -> None:
    words = planned([*WORDS[1:], *data]).words("mlp-sgd", {}, 0, tests=False)
    found = called(Relay(), probe, words, tmp_path / "run", PROBE_STEPS)
    assert found is not None
    assert found.unit == unit
    assert (found.others is not None) == Path("/proc/stat").exists()
    assert not (tmp_path / "run").exists()


# --- signs of life ----------------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.slow
def test_a_worker_gives_signs_of_life_while_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effbench.jobs.processes.ALIVE_S", 0.05)
    signs: list[float] = []
    relay = Relay()

    def slow() -> str:
        time.sleep(0.5)
        return "done"

    assert called(relay, slow, alive=lambda: signs.append(time.monotonic())) == "done"
    assert len(signs) >= 5
    with pytest.raises(EffbenchError, match="exit code -9"):  # the limit still holds
        called(relay, time.sleep, 60, limit_s=0.2, alive=lambda: None)


@pytest.mark.process
@pytest.mark.slow
def test_a_storage_that_fails_meanwhile_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effbench.jobs.processes.ALIVE_S", 0.05)
    relay = Relay()

    def alive() -> None:
        raise OSError("the server has gone")

    with pytest.raises(OSError, match="has gone"):
        called(relay, time.sleep, 60, alive=alive)
    assert relay.processes == []
