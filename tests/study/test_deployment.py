"""Deployment costs of a study: which runs are kept, from record to table, fronts, words, and the estimate.

White-box: measurements are hand-made records, and the processes that would make them are not started.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench.errors import ConfigError, EffbenchError
from effbench.jobs.processes import Relay
from effbench.stats import Interval
from effbench.study import alone, deployment
from effbench.study.analysis import analyse
from effbench.study.deployment import (
    Candidate,
    backends,
    cost_fields,
    deployed,
    estimated_s,
    kept_run,
    measures_deployment,
    superfluous,
)
from effbench.study.deployment_grid import HEADING, training_and_deployment
from effbench.study.frozen import digest_of
from effbench.study.grids import FRONT, details
from effbench.study.ledger import Task
from effbench.study.measure import inference_costs, probe
from effbench.study.page import print_result
from effbench.study.planning import planned
from effbench.study.table import Cost, Deployed, table_from_json, table_to_json
from tests.study.kills import WORDS, table_in
from tests.study.planted import cost, study

ROOT = Path(__file__).parents[2]


def row(backend: str, p50: float, size: int, lost: float | None = 0.0, **changes: Any) -> dict[str, Any]:
    interval = {"estimate": p50, "low": p50 / 2, "high": p50 * 2, "n": 3}
    points = None if lost is None else {"estimate": lost, "low": lost - 1, "high": lost + 1, "n": 256}
    return {
        "backend": backend, "status": "ok", "reason": None, "bytes": size, "lost": points,
        "batches": {"1": {"latency_s": {"p50": interval}}}, **changes,
    }  # fmt: skip


def record(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    environment = {"cpu": "Z80", "cpu_capability": "AVX2", "bf16": False, "torch": "2.14", "onnxruntime": "1.32"}
    return {
        "threads": 1, "batch_sizes": [1], "max_drop": 0.5, "margin": 0.0, "environment": environment,
        "measured": "a", "run": "confirm-002", "arms": list(rows), **changes,
    }  # fmt: skip


# --- from a record to the table ---------------------------------------------------------------------------------------


def test_the_fastest_backend_that_keeps_the_accuracy_comes_first() -> None:
    found = cost_fields(
        record(
            row("eager", 0.010, 4000),
            row("onnxruntime", 0.002, 3000),
            row("openvino_f32", 0.001, 2000, lost=0.6),  # over the bound
            {"backend": "x", "status": "failed", "reason": "no", "bytes": None},
        )
    )
    assert [each.backend for each in found["deployed"]] == ["onnxruntime", "eager"]
    assert found["latency_p50_seconds"] == 0.002
    assert found["deployed"][0] == Deployed("onnxruntime", Interval(0.002, 0.001, 0.004, 3), 3000)
    assert (found["deployed_arm"], found["deployed_run"]) == ("a", "confirm-002")
    assert found["deployed_on"] == "Z80 (AVX2, no bfloat16), 1 thread, torch 2.14, onnxruntime 1.32"


def test_doubts_widen_the_interval_and_no_accuracy_keeps_all() -> None:
    [only] = cost_fields(record(row("eager", 0.010, 4000, lost=None), margin=0.25, run=None))["deployed"]
    assert (only.latency_p50_seconds.low, only.latency_p50_seconds.high) == (0.005 / 1.25, 0.02 * 1.25)
    assert cost_fields(record())["latency_p50_seconds"] is None


def measured_cost(arm: str, step: float, p50: float, size: int, **changes: Any) -> Cost:
    own = Deployed("onnxruntime", Interval(p50, p50 / 1.1, p50 * 1.1, 3), size)
    slow = Deployed("eager", Interval(9 * p50, 8 * p50, 10 * p50, 3), 2 * size)
    fields = {"latency_p50_seconds": p50, "deployed": (own, slow), "deployed_run": "confirm-000",
              "deployed_arm": arm, "deployed_on": "Z80", "deployed_unit": "window", **changes}  # fmt: skip
    return cost(arm, step, **fields)


VALUES = {"large/sgd": [0.90, 0.91, 0.92, 0.91, 0.90, 0.92], "small/sgd": [0.80, 0.81, 0.82, 0.81, 0.80, 0.82]}


def test_training_cost_stands_beside_deployment_cost(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    costs = (measured_cost("large/sgd", 0.040, 0.004, 4_000_000), measured_cost("small/sgd", 0.010, 0.001, 1_000_000))
    table = study(VALUES, costs=costs)
    result = analyse(table)
    [grid] = training_and_deployment(table, result)
    assert grid.heading == HEADING
    # of one input of the model, whatever training counts: a window has many tokens
    assert "ms a\nwindow" in grid.heads
    assert "median time of one window" in grid.lead
    # 100 steps in 4 epochs: 25 steps an epoch
    assert [list(cells) for cells in grid.rows] == [
        ["large/sgd", "91.00 %", "40.00", "1.0 s", "1 GB", "4.00", "3.64 to 4.40", "36.0", "onnxruntime", "4 MB"],
        ["small/sgd", "81.00 %", "10.00", "0.2 s", "1 GB", "1.00", "0.91 to 1.10", "9.00", "onnxruntime", "1 MB"],
    ]
    monkeypatch.setenv("COLUMNS", "80")
    print_result(table, result, Path("study.html"))
    lines = capsys.readouterr().out.splitlines()
    assert HEADING in lines
    assert max(len(line) for line in lines if "onnxruntime" in line or "ms a" in line) <= 80


def test_the_page_says_why_deployment_was_not_measured() -> None:
    costs = tuple(cost(arm, 0.01, deployment_failure="a process ended with exit code -9.") for arm in VALUES)
    table = study(VALUES, costs=costs)
    [grid] = [each for each in details(table, analyse(table)) if each.heading == "Cost"]
    told = "Deployment was not measured: a process ended with exit code -9. The flag --costs measures it again."
    assert grid.lead.count(told) == 1


def test_latency_and_file_size_have_fronts() -> None:
    costs = (
        measured_cost("large/sgd", 0.040, 0.004, 4_000_000),
        measured_cost("small/sgd", 0.010, 0.001, 1_000_000, contaminated=True),
    )
    places = {(each.arm, each.cost): each for each in analyse(study(VALUES, costs=costs)).front}
    for name in ("latency_p50_seconds", "file_bytes"):
        assert [places[arm, name].status for arm in VALUES] == ["on the front"] * 2
    # the doubts of a latency are in its interval; those of step times do not touch it
    assert places["small/sgd", "step_seconds"].status == "unknown"
    better = study({"large/sgd": VALUES["large/sgd"], "small/sgd": [each + 0.2 for each in VALUES["small/sgd"]]})
    places = {(each.arm, each.cost): each for each in analyse(replace(better, costs=costs)).front}
    assert places["large/sgd", "file_bytes"].status == places["large/sgd", "latency_p50_seconds"].status == "dominated"


def test_an_arm_without_deployment_has_no_latency_beside_others() -> None:
    costs = (measured_cost("large/sgd", 0.040, 0.004, 10), cost("small/sgd", 0.01, latency_p50_seconds=0.001))
    table = study(VALUES, costs=costs)
    places = {(each.arm, each.cost): each.status for each in analyse(table).front}
    assert places["small/sgd", "latency_p50_seconds"] == "unknown"  # of eager mode: no comparison
    [grid] = training_and_deployment(table, analyse(table))
    assert list(grid.rows[1][5:]) == [""] * 5


def test_the_table_survives_json() -> None:
    table = study(VALUES, costs=(measured_cost("large/sgd", 0.04, 0.004, 10),))
    assert table_from_json(table_to_json(table)) == table


@pytest.mark.parametrize("name", ["golden_rules", "regularisation", "schedulers"])
def test_older_studies_are_reported_as_before(name: str) -> None:
    """Their front and their tables have neither file sizes nor a table of deployment."""
    folder = ROOT / "docs" / "studies" / name
    table = table_from_json((folder / "table.json").read_text())
    recorded = json.loads((folder / "result.json").read_text())["value"]["front"]
    result = analyse(table)
    assert [(each.arm, each.cost) for each in result.front] == [(each["arm"], each["cost"]) for each in recorded]
    assert training_and_deployment(table, result) == []
    [front] = [grid for grid in details(table, result) if grid.heading == FRONT]
    assert "file size" not in front.lead + " ".join(front.heads)


# --- the runs that are kept -------------------------------------------------------------------------------------------


class FakeLedger:
    """Final runs of one arm: index -> validation metric, None for one without result."""

    def __init__(self, values: dict[int, float | None]):
        self.values = values
        self.workers = SimpleNamespace(beat=lambda: None)

    def outcomes(self, phase: str, arm: str) -> dict[int, tuple[Task, dict[str, Any]]]:
        return {index: (Task(phase, arm, index), {"value": value}) for index, value in self.values.items()}


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 0)])
def test_the_best_run_with_a_checkpoint_here_is_kept(mode: str, best: int, tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(folder=tmp_path, mode=mode)
    ledger: Any = FakeLedger(
        {0: 0.5, 1: 0.7, 2: None, 3: 0.9 if mode == "max" else 0.1, 4: 0.7 if mode == "max" else 0.5}
    )
    place = tmp_path / "runs" / "a"
    for index in (0, 1, 2, 4):  # run 3, the best of all, is on another machine; of equal values the first counts
        (place / f"confirm-{index:03d}" / "checkpoints").mkdir(parents=True)
    (place / "confirm-005" / "checkpoints").mkdir(parents=True)  # it has not ended
    kept = kept_run(plan, ledger, "a")
    assert kept is not None
    assert kept[0] == place / f"confirm-{best:03d}"
    gone = superfluous(plan, ledger, "a")
    assert {path.parent.name for path in gone} == {f"confirm-{index:03d}" for index in range(5) if index != best}
    assert kept_run(plan, FakeLedger({}), "a") is None  # type: ignore[arg-type]


# --- the end of a study -----------------------------------------------------------------------------------------------


def plan_with(tmp_path: Path, *words: str) -> Any:
    rest = [word for word in WORDS[1:] if "timing_rounds" not in word and "folder" not in word]
    return planned([*rest, "study.timing_rounds=1", f"study.folder={tmp_path}", *words])


def end_of(plan: Any, monkeypatch: pytest.MonkeyPatch, answer: Any) -> tuple[dict[str, Any], list[bool]]:
    """Measure a plan's arms at its end with processes that are not started: (records, latency asked for by arm)."""
    asked: list[bool] = []

    def not_run(_relay: Relay, function: Any, *rest: Any, **_options: Any) -> Any:
        if function is probe:
            return SimpleNamespace(record=lambda: {"contaminated": False}, contaminated=False)
        if function is inference_costs:
            asked.append(rest[2])
            return {"optimizer_state_bytes": 8, "latency_p50_s": 0.1 if rest[2] else None}
        assert function is deployed
        if isinstance(answer, Exception):
            raise answer
        candidates: list[Candidate] = rest[0]
        return {each.arm: answer for each in candidates}

    monkeypatch.setattr(alone, "called", not_run)
    monkeypatch.setattr(alone, "best_settings", lambda *_: {"optimizer.lr": 0.01})
    monkeypatch.setattr(deployment, "backends", lambda: ("eager", "onnxruntime"))
    found = alone.measured(plan, FakeLedger({}), Relay(), at_end=True)  # type: ignore[arg-type]
    assert found is not None
    return found, asked


@pytest.mark.slow
def test_a_study_ends_by_measuring_deployment(tmp_path: Path, monkeypatch: Any) -> None:
    found, asked = end_of(plan_with(tmp_path, "study.deployment_rounds=3"), monkeypatch, record())
    assert asked == [False, False]
    assert [each["deployment"] for each in found.values()] == [record(), record()]


@pytest.mark.slow
def test_a_deployment_that_fails_leaves_the_study_its_result(
    tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = EffbenchError("no backend works.")
    found, asked = end_of(plan_with(tmp_path, "study.deployment_rounds=3"), monkeypatch, error)
    assert asked == [True, True]
    assert "deployment is not measured: no backend works. The flag --costs measures it again." in caplog.text
    assert [each["deployment_failure"] for each in found.values()] == ["no backend works."] * 2
    assert [each["latency_p50_s"] for each in found.values()] == [0.1, 0.1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["study.deployment_rounds=0"], ["study.timing_rounds=0", "study.deployment_rounds=3"]]
)
def test_a_study_without_deployment_keeps_eager_latency(words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    plan = plan_with(tmp_path, *words)
    assert not measures_deployment(plan)
    if plan.keys.timing_rounds:
        found, asked = end_of(plan, monkeypatch, AssertionError())
        assert asked == [True, True]
        assert not any("deployment" in each for each in found.values())


@pytest.mark.slow
def test_deployment_rounds_are_checked_and_not_frozen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="study.deployment_rounds must be at least 3, .* or 0: not measured; got 2"):
        plan_with(tmp_path, "study.deployment_rounds=2")
    digests = {digest_of(plan_with(tmp_path, f"study.deployment_rounds={n}").record()) for n in (0, 3, 5)}
    assert len(digests) == 1


def test_the_estimate_grows_with_networks_rounds_and_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "backends", lambda: ("eager", "onnxruntime"))
    one, two = estimated_s(1, 3), estimated_s(2, 3)
    # each network: its export, rounds + 1 starts of both backends, and its turns
    each = deployment._EXPORT_S + 4 * (2.5 + 0.7) + 3 * 2 * deployment._TURNS_S
    assert two - one == pytest.approx(each)
    assert estimated_s(1, 5) > one


def test_without_the_runtimes_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"onnxruntime", "openvino"}
    monkeypatch.setattr(deployment, "find_spec", lambda name: None if name in missing else object())
    assert backends() == ()
    missing.remove("onnxruntime")
    assert backends() == ("eager", "onnxruntime")
    missing.add("onnxscript")
    assert backends() == ()  # nothing to export with


@pytest.mark.process
@pytest.mark.proof
def test_a_study_measures_the_best_run_of_each_arm(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tests.commandline import effbench

    words = [word for word in WORDS if "timing_rounds" not in word]
    result = effbench(*words, "study.timing_rounds=1", "study.deployment_rounds=3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = table_in(tmp_path / "out")
    assert {cost.arm for cost in table.costs if cost.deployed} == {"mlp-sgd", "mlp-adamw"}
    first, second = table.costs
    assert first.deployed == second.deployed  # one network
    assert {each.backend for each in first.deployed} >= {"eager", "onnxruntime"}
    # one run of each arm is left that can be exported
    kept = list((tmp_path / "out").glob("runs/*/*/checkpoints"))
    assert sorted(path.parents[1].name for path in kept) == ["mlp-adamw", "mlp-sgd"]
    for path in kept:
        arm, index = path.parents[1].name, int(path.parent.name.removeprefix("confirm-"))
        finals = [run for run in table.confirmations if run.arm == arm]
        best = max(finals, key=lambda run: run.validation or 0.0)
        assert finals[index].validation == best.validation
    assert HEADING in (tmp_path / "out" / "study.html").read_text()
    assert HEADING in result.stdout
