"""Figures of a study: curves over seeds. An arm has one colour and one dash in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from effbench.report.figures import Point, Series
from effbench.stats import mean
from effbench.study.results import BudgetPoint, SurvivalPoint
from effbench.study.table import Curves
from effbench.study.wording import listed


def learning_curves(curves: Curves, names: Mapping[str, tuple[int, str]], mode: str) -> list[Series]:
    """Return the mean validation metric over seeds with the range between the worst and the best seed.

    The band is the range, not an interval: a few seeds are all there is, and readers want to see the worst of them.
    After its end, a run that stopped early counts with its best value, which is that of the checkpoint it keeps.

    Args:
        curves: arm -> its finished final runs' (step, value) of each validation.
        names: arm -> its index and its name in the figure; others are not drawn.
        mode: 'max' if larger is better.
    """
    best = max if mode == "max" else min
    series = []
    for arm, (index, name) in names.items():
        runs = [dict(run) for run in curves.get(arm, ()) if run]
        by_step: dict[int, list[float]] = {step: [] for step in sorted({step for run in runs for step in run})}
        for run in runs:
            end, kept = max(run), best(run.values())
            for step, values in by_step.items():
                if step in run or step > end:
                    values.append(run.get(step, kept))
        # where a run was not validated, the mean of the others would jump
        whole = {step: values for step, values in by_step.items() if len(values) == len(runs)}
        points = [(float(step), mean(values)) for step, values in whole.items()]
        band = [(float(step), min(values), max(values)) for step, values in whole.items()]
        series.append(Series(name, index, points, band))
    return series


def learning_note(curves: Curves, arms: Iterable[str], final_runs: Mapping[str, int]) -> str:
    """Return what a reader must know of learning curves: which runs are not in them, and which ended early.

    Args:
        curves: arm -> its finished final runs' (step, value) of each validation.
        arms: that are drawn.
        final_runs: arm -> how many there are.
    """
    missing, early = [], []
    for arm in arms:
        ends = [run[-1][0] for run in curves.get(arm, ()) if run]
        if ends and len(ends) < final_runs[arm]:
            missing.append(f"{arm} {len(ends)} of {final_runs[arm]}")
        if ends and min(ends) < max(ends):
            early.append(arm)
    parts = [f"Mean over the runs with a result: {', '.join(missing)}."] if missing else []
    if early:
        parts.append(f"{listed(early)}: a run that stopped early counts with its best value after its end.")
    return " ".join(parts)


def budget_curves(points: Sequence[BudgetPoint], names: Mapping[str, tuple[int, str]]) -> list[Series]:
    """Return the best validation metric against the number of trials, with the range of the draws.

    Args:
        points: of all arms at all budgets.
        names: arm -> its index and its name in the figure; others are not drawn.
    """
    series = []
    for arm, (index, name) in names.items():
        # a budget at which most draws hold only diverged runs has no point: its line starts later
        own = [point for point in points if point.arm == arm and point.best is not None]
        line = [(float(point.trials), point.best) for point in own if point.best is not None]
        band = [
            (float(point.trials), point.low, point.high)
            for point in own
            if point.low is not None and point.high is not None
        ]
        series.append(Series(name, index, line, band))
    return series


def target_curve(curve: Sequence[SurvivalPoint], end: float) -> list[Point]:
    """Return the share of runs that have reached the target against time, as a staircase.

    Args:
        curve: Kaplan-Meier estimate of an arm.
        end: of the axis; an arm whose every run has reached the target stays at 1 until then.
    """
    # 1 - Kaplan-Meier: a reader looks for the arm that is first at the top, not for the one that is left over
    points: list[Point] = [(0.0, 0.0)]
    for point in curve:
        points += [(point.time, points[-1][1]), (point.time, 1 - point.share)]
    # an arm with misses ends where its runs ended: nobody knows what they would have done after that
    return [*points, (end, 1.0)] if points[-1][1] == 1 else points


def target_band(curve: Sequence[SurvivalPoint], end: float) -> list[tuple[float, float, float]]:
    """Return (time, low, high) of the intervals of `target_curve`'s staircase.

    Args:
        curve: Kaplan-Meier estimate of an arm.
        end: of the axis.
    """
    band = [(0.0, 0.0, 0.0)]
    for point in curve:
        _, low, high = band[-1]
        band += [(point.time, low, high), (point.time, 1 - point.high, 1 - point.low)]
    return [*band, (end, *band[-1][1:])] if curve and curve[-1].share == 0 else band
