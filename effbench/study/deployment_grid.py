"""The table of training cost beside deployment cost, with the quality of each arm."""

from __future__ import annotations

from effbench.report.deployment import three
from effbench.report.spread import seconds
from effbench.stats import mean
from effbench.study.grids import Grid, value_text, without_empty_columns
from effbench.study.results import StudyResult
from effbench.study.table import Cost, StudyTable
from effbench.study.wording import listed
from effbench.units import article, human_bytes

HEADING = "Training and deployment"


def training_and_deployment(table: StudyTable, result: StudyResult) -> list[Grid]:
    """Return the table, in the order of the ranking; [] where deployment was not measured."""
    costs = {cost.arm: cost for cost in table.costs}
    if not any(cost.deployed for cost in costs.values()):
        return []
    rows = []
    for quality in result.qualities:
        own, test = costs.get(quality.arm), quality.test.estimate if quality.test else None
        cells = _cells(own, table) if own else [""] * 8
        rows.append([quality.arm, value_text(test, table), *cells])
    unit = next(cost.deployed_unit for cost in costs.values() if cost.deployed)
    heads = [
        "arm", f"test\n{table.display.axis}", "ms a\nstep", "an\nepoch", "peak\nmemory", f"ms {article(unit)}\n{unit}",
        "95 %", "in\neager", "backend", "file",
    ]  # fmt: skip
    # at 80 columns the arm, its metric, step time, latency and file stay longest
    numeric, priority = [False, *[True] * 7, False, True], [0, 0, 0, 2, 3, 0, 5, 4, 1, 0]
    grid = Grid(HEADING, _lead(table), heads, numeric, rows, priority)
    return [without_empty_columns(grid)]


def _cells(cost: Cost, table: StudyTable) -> list[str]:
    """Return step, epoch and memory of training; latency with its interval and in eager mode, backend and file."""
    step_s, per_epoch = cost.step_seconds.estimate, _steps_per_epoch(cost.arm, table)
    training = [
        f"{1000 * step_s:.2f}{' !' * cost.contaminated}{' *' * cost.defaults}",
        "" if per_epoch is None else seconds(per_epoch * step_s),
        human_bytes(cost.peak_memory_bytes),
    ]
    if not cost.deployed:
        return [*training, *[""] * 5]
    best = cost.deployed[0]
    p50 = best.latency_p50_seconds.times(1000)
    ends = f"{three(p50.low)} to {three(p50.high)}"
    eager = [three(1000 * each.latency_p50_seconds.estimate) for each in cost.deployed if each.backend == "eager"]
    return [*training, three(p50.estimate), ends, "".join(eager), best.backend, human_bytes(best.file_bytes)]


def _steps_per_epoch(arm: str, table: StudyTable) -> float | None:
    found = [run.steps / run.epochs for run in table.confirmations_by_arm.get(arm, ()) if run.epochs]
    return mean(found) if found else None


def _lead(table: StudyTable) -> str:
    costs = [cost for cost in table.costs if cost.deployed]
    parts = [
        "Training: time of a step and of an epoch (without validation), and peak memory. Deployment: median time of "
        f"one {costs[0].deployed_unit} with its interval, and the file, with the fastest backend that keeps the "
        "accuracy; the time in eager mode beside it.",
        f"Measured on {listed(list(dict.fromkeys(cost.deployed_on for cost in costs)))}.",
    ]
    # an optimizer changes weights and no network
    shared: dict[str, list[str]] = {}
    for cost in costs:
        shared.setdefault(cost.deployed_arm, []).append(cost.arm)
    if several := [listed(arms) for arms in shared.values() if len(arms) > 1]:
        parts.append(f"Arms with one network share a measurement: {'; '.join(several)}.")
    if untrained := [cost.arm for cost in costs if not cost.deployed_run]:
        parts.append(f"With untrained weights, because no run was kept here: {listed(untrained)}.")
    if any(cost.contaminated for cost in table.costs):
        parts.append("'!': the step time was disturbed.")
    if any(cost.defaults for cost in table.costs):
        parts.append("'*': it is that of the default settings.")
    return " ".join(parts)
