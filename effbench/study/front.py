"""Quality against each cost: which arms are on the Pareto front, given the intervals of both (effbench/pareto.py)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from effbench.pareto import FrontPoint, front
from effbench.stats import Interval, mean_interval
from effbench.study.comparisons import Pair, difference_by_sample, paired
from effbench.study.results import Comparison
from effbench.study.runs import Runs, result_of, runs_by_arm
from effbench.study.samples import Samples
from effbench.study.statistics import crossed_interval
from effbench.study.table import Cost, StudyRules, StudyTable

COSTS = (
    "step_seconds", "peak_memory_bytes", "optimizer_state_bytes", "parameters", "macs", "latency_p50_seconds",
)  # fmt: skip
FILE = "file_bytes"  # a cost of arms whose deployment was measured
_TIMED = ("step_seconds", "latency_p50_seconds")  # what other work on the machine disturbs
# Peak memory is that of the whole process: the rounds of one arm of study=smoke differed by up to 0.02 %.
_SAME_MEMORY = 1.001


def fronts(
    table: StudyTable, rules: StudyRules, comparisons: Sequence[Comparison], samples: Samples | None = None
) -> list[FrontPoint]:
    """Return each arm's place on the front of quality (test metric, larger or smaller by mode) and each cost.

    Of two arms that the study compares, the better one is the winner of the comparison: page and front say the same.
    Others, such as arms of two models, are compared by the interval of the paired differences (for new test samples
    too, where predictions are known). A cost is compared by whether the intervals overlap. An arm with runs without
    result dominates no other: its mean is that of the seeds on which it did not diverge.

    Args:
        table: of the study.
        rules: of the study.
        comparisons: of the study's pairs.
        samples: of the study, if there are some already.
    """
    runs, samples = runs_by_arm(table), samples or Samples(table)
    costs = {cost.arm: cost for cost in table.costs}
    arms = [arm.name for arm in table.arms]
    better = {(each.a, each.b): (each.winner == "a") - (each.winner == "b") for each in comparisons}
    better |= {(b, a): -sign for (a, b), sign in better.items()}
    # each pair once: 12 arms have 66 pairs, and their paired differences serve all six costs
    others = {
        (a, b): _quality(table, paired(table, runs, a, b), rules.confidence, samples)
        for a, b in itertools.combinations(arms, 2)
        if (a, b) not in better
    }
    better |= others | {(b, a): -sign for (a, b), sign in others.items()}
    measured = [*COSTS, *([FILE] if any(cost.deployed for cost in table.costs) else [])]
    return [point for cost in measured for point in _front(cost, arms, costs, better, runs)]


def _front(
    cost: str, arms: list[str], costs: Mapping[str, Cost], better: Mapping[tuple[str, str], int], runs: Runs
) -> list[FrontPoint]:
    # an arm whose every run diverged has no place in a figure of quality, however cheap it is
    with_result = {arm for arm in arms if any(result_of(run) is not None for run in runs[arm].values())}
    every = list(costs.values())
    values = {arm: _value(costs.get(arm), cost, every) if arm in with_result else None for arm in arms}
    rivals = {arm for arm in with_result if all(result_of(run) is not None for run in runs[arm].values())}
    return front(cost, values, better, rivals)


def _value(cost: Cost | None, name: str, every: Sequence[Cost]) -> Interval | None:
    """Return a cost as an interval, of no width for what is counted; None if it is missing or contaminated."""
    if cost is not None and name == "latency_p50_seconds" and any(each.deployed for each in every):
        # with the doubts of its own measurement, in which disturbed step times have no part
        return cost.deployed[0].latency_p50_seconds if cost.deployed else None
    found = getattr(cost, name, None)
    if cost is None or found is None or (cost.contaminated and name in _TIMED):
        return None
    if isinstance(found, Interval):
        return found
    value, low, high = float(found), float(found), float(found)
    if name == "peak_memory_bytes":
        low, high = value / _SAME_MEMORY, value * _SAME_MEMORY
    if name == "latency_p50_seconds":
        # one median without rounds. Arms that differ by their optimizer have one and the same network, so the spread
        # of their latencies is the noise of this measurement
        same = [
            float(each.latency_p50_seconds)
            for each in every
            if each.latency_p50_seconds is not None and (each.parameters, each.macs) == (cost.parameters, cost.macs)
        ]
        low, high = min(same), max(same)
    return Interval(value, low, high, 1)


def _quality(table: StudyTable, pair: Pair, confidence: float, samples: Samples) -> int:
    """Return 1 if a is clearly better, -1 if b is, 0 if they cannot be told apart."""
    if len(pair.finished) < 2:
        return 0
    # without a correction for the number of pairs: the study tests none of these
    scores = difference_by_sample(pair, samples)
    if scores is None:
        found = mean_interval(pair.finished, confidence)
    else:
        found, _ = crossed_interval(scores, confidence)
    return ((found.low > 0) - (found.high < 0)) * (1 if table.mode == "max" else -1)
