"""Quality against each cost: which arms are on the Pareto front, given the intervals of both."""

from __future__ import annotations

from collections.abc import Mapping

from effbench.stats import Interval, mean_interval
from effbench.study.results import FrontPoint, FrontStatus
from effbench.study.runs import Runs, common_seeds, result_of, runs_by_arm
from effbench.study.table import Cost, StudyRules, StudyTable

COSTS = (
    "step_seconds", "peak_memory_bytes", "optimizer_state_bytes", "parameters", "macs", "latency_p50_seconds",
)  # fmt: skip
_TIMED = ("step_seconds", "latency_p50_seconds")  # what other work on the machine disturbs


def fronts(table: StudyTable, rules: StudyRules) -> list[FrontPoint]:
    """Return each arm's place on the front of quality (test metric, larger or smaller by mode) and each cost.

    Quality is compared by the t interval of the paired differences, a cost by whether the intervals overlap. An arm is
    'dominated' if another one is clearly better in one of the two and clearly better or equal in the other, 'perhaps
    dominated' if it is clearly better in one and cannot be told apart in the other. An arm with runs without result
    dominates no other.

    Args:
        table: of the study.
        rules: of the study.
    """
    runs = runs_by_arm(table)
    costs = {cost.arm: cost for cost in table.costs}
    arms = [arm.name for arm in table.arms]
    better = {(a, b): _quality(runs, table.mode, a, b, rules.confidence) for a in arms for b in arms if a < b}
    better |= {(b, a): -sign for (a, b), sign in better.items()}
    return [point for cost in COSTS for point in _front(cost, arms, costs, better, runs)]


def _front(
    cost: str, arms: list[str], costs: Mapping[str, Cost], better: Mapping[tuple[str, str], int], runs: Runs
) -> list[FrontPoint]:
    values = {arm: _value(costs.get(arm), cost) if _results(runs, arm) else None for arm in arms}
    points = []
    for arm in arms:
        own = values[arm]
        if own is None:
            points.append(FrontPoint(arm, cost, None, "unknown", ()))
            continue
        surely: list[str] = []
        perhaps: list[str] = []
        for other in arms:
            theirs = values[other]
            if other == arm or theirs is None or not _always_finished(runs, other):
                continue
            quality, cheaper = better[other, arm], (theirs.high < own.low) - (own.high < theirs.low)
            if min(quality, cheaper) < 0 or max(quality, cheaper) == 0:
                continue
            same_cost = theirs.low == own.low == theirs.high == own.high
            (surely if quality > 0 and (cheaper > 0 or same_cost) else perhaps).append(other)
        status: FrontStatus = "dominated" if surely else "perhaps dominated" if perhaps else "on the front"
        points.append(FrontPoint(arm, cost, own, status, tuple(surely or perhaps)))
    return points


def _value(cost: Cost | None, name: str) -> Interval | None:
    """Return a cost as an interval, of no width for what is counted; None if it is missing or contaminated."""
    found = getattr(cost, name, None)
    if cost is None or found is None or (cost.contaminated and name in _TIMED):
        return None
    return found if isinstance(found, Interval) else Interval(float(found), float(found), float(found), 1)


def _quality(runs: Runs, mode: str, a: str, b: str, confidence: float) -> int:
    """Return 1 if a is clearly better, -1 if b is, 0 if they cannot be told apart."""
    values = [(result_of(runs[a][seed]), result_of(runs[b][seed])) for seed in common_seeds(runs, (a, b))]
    differences = [left - right for left, right in values if left is not None and right is not None]
    if len(differences) < 2:
        return 0
    found = mean_interval(differences, confidence)
    return ((found.low > 0) - (found.high < 0)) * (1 if mode == "max" else -1)


def _results(runs: Runs, arm: str) -> bool:
    return any(result_of(run) is not None for run in runs[arm].values())


def _always_finished(runs: Runs, arm: str) -> bool:
    return all(result_of(run) is not None for run in runs[arm].values())
