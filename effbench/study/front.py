"""Quality against each cost: which arms are on the Pareto front, given the intervals of both.

A front of estimates alone would name arms that are ahead by the noise of a few seeds. Here an arm leaves the front only
if another one is clearly better; what cannot be told apart stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from effbench.stats import Interval, mean_interval
from effbench.study.comparisons import Pair, difference_by_sample, paired
from effbench.study.results import Comparison, FrontPoint, FrontStatus
from effbench.study.runs import Runs, result_of, runs_by_arm
from effbench.study.samples import Samples
from effbench.study.statistics import crossed_interval
from effbench.study.table import Cost, StudyRules, StudyTable

COSTS = (
    "step_seconds", "peak_memory_bytes", "optimizer_state_bytes", "parameters", "macs", "latency_p50_seconds",
)  # fmt: skip
_TIMED = ("step_seconds", "latency_p50_seconds")  # what other work on the machine disturbs
# Peak memory is that of the whole process: the rounds of one arm of study=smoke differed by up to 0.02 %.
_SAME_MEMORY = 1.001


def fronts(
    table: StudyTable, rules: StudyRules, comparisons: Sequence[Comparison], samples: Samples | None = None
) -> list[FrontPoint]:
    """Return each arm's place on the front of quality (test metric, larger or smaller by mode) and each cost.

    Of two arms that the study compares, the better one is the winner of the comparison: page and front say the same.
    Others, such as arms of two models, are compared by the interval of the paired differences (for new test samples
    too, where predictions are known). A cost is compared by whether the intervals overlap. An arm is 'dominated' if
    another one is clearly better in one of the two and clearly better or equal in the other, 'perhaps dominated' if it
    is clearly better in one and cannot be told apart in the other. An arm with runs without result dominates no other:
    its mean is that of the seeds on which it did not diverge.

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
    return [point for cost in COSTS for point in _front(cost, arms, costs, better, runs)]


def _front(
    cost: str, arms: list[str], costs: Mapping[str, Cost], better: Mapping[tuple[str, str], int], runs: Runs
) -> list[FrontPoint]:
    # an arm whose every run diverged has no place in a figure of quality, however cheap it is
    with_result = {arm for arm in arms if any(result_of(run) is not None for run in runs[arm].values())}
    values = {arm: _value(costs.get(arm), cost, costs.values()) if arm in with_result else None for arm in arms}
    rivals = {arm for arm in with_result if all(result_of(run) is not None for run in runs[arm].values())}
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
            if other == arm or theirs is None or other not in rivals:
                continue
            # intervals that touch are not told apart: stricter than a test, but costs have no paired differences
            quality, cheaper = better[other, arm], (theirs.high < own.low) - (own.high < theirs.low)
            # worse in one, or better in none: no reason to leave the front
            if min(quality, cheaper) < 0 or max(quality, cheaper) == 0:
                continue
            # of what is counted, equal is equal: parameters of two optimizers on one model
            same_cost = theirs.low == own.low == theirs.high == own.high
            (surely if quality > 0 and (cheaper > 0 or same_cost) else perhaps).append(other)
        status: FrontStatus = "dominated" if surely else "perhaps dominated" if perhaps else "on the front"
        points.append(FrontPoint(arm, cost, own, status, tuple(surely or perhaps)))
    return points


def _value(cost: Cost | None, name: str, every: Iterable[Cost]) -> Interval | None:
    """Return a cost as an interval, of no width for what is counted; None if it is missing or contaminated."""
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
