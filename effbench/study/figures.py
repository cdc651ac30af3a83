"""Figures of a study: curves over seeds and Pareto fronts. An arm has one colour and one dash in all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from effbench.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Panel, Tick, scale, span, ticks
from effbench.report.figures import Figure, Label, Mark, Point, Series, text_width
from effbench.stats import Interval, mean
from effbench.study.results import BudgetPoint, FrontPoint, SurvivalPoint
from effbench.study.table import Curves
from effbench.study.wording import listed

FRONT_HEIGHT = 270  # of a Pareto front: names beside points need more room than curves
_FAR = 10.0  # ratio of costs from which an axis goes by powers of ten

Box = tuple[float, float, float, float]  # left, top, right, bottom


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


# --- Pareto fronts ----------------------------------------------------------------------------------------------------


def front_figure(
    title: str,
    across: str,
    points: Sequence[FrontPoint],
    qualities: Mapping[str, Interval],
    names: Mapping[str, tuple[int, str]],
    written: tuple[Callable[[float], str], Callable[[float], str], Callable[[float], str]],
) -> Figure | None:
    """Return quality against one cost, with error bars; None with fewer than two arms to compare.

    Args:
        title: of the panel.
        across: what the cost is.
        points: of one cost.
        qualities: arm -> its test metric.
        names: arm -> its index and its name in the figure.
        written: how a cost is written, a metric beside the axis, and a metric in a sentence.
    """
    known = [(point, point.value, qualities[point.arm]) for point in points if point.value and point.arm in qualities]
    if len(known) < 2:
        return None
    cost_text, quality_text, quality_said = written
    bottom = FRONT_HEIGHT - (HEIGHT - BOTTOM)
    costs = [end for _, cost, _ in known for end in _ends(cost)]
    by_powers = min(costs) > 0 and max(costs) > _FAR * min(costs)
    place = math.log10 if by_powers else float
    x_low, x_high = span([place(each) for each in costs], margin=0.08)
    y_low, y_high = span([end for _, _, quality in known for end in _ends(quality)], margin=0.08)
    to_x, to_y = scale(x_low, x_high, LEFT, RIGHT), scale(y_low, y_high, bottom, TOP)

    marks = []
    for point, cost, quality in known:
        index, name = names[point.arm]
        x, y = to_x(place(cost.estimate)), to_y(quality.estimate)
        left, right = (to_x(place(each)) for each in (_ends(cost)[0], _ends(cost)[-1]))
        low, high = (to_y(each) for each in (_ends(quality)[0], _ends(quality)[-1]))
        # what is counted (parameters, bytes of state) has no interval, and no bar
        bars = [f"{left:.1f},{y:.1f} {right:.1f},{y:.1f}"] * (right > left)
        bars += [f"{x:.1f},{low:.1f} {x:.1f},{high:.1f}"] * (low > high)
        marks.append(Mark(name, index, round(x, 1), round(y, 1), bars, point.status))

    x_ticks = [
        Tick(round(to_x(x), 1), cost_text(10**x if by_powers else x)) for x in _cost_ticks(x_low, x_high, by_powers)
    ]
    y_ticks = [Tick(round(to_y(y), 1), quality_text(y)) for y in ticks(y_low, y_high)]
    facts = [_fact(point, cost, quality, names, (cost_text, quality_said)) for point, cost, quality in known]
    panel = Panel(title, f"{across}{', by powers of ten' * by_powers}", [], x_ticks, y_ticks)
    text = f"{title}. {'; '.join(facts)}"
    return Figure(panel, (), text, names_beside(marks, bottom), marks, height=FRONT_HEIGHT, bottom=bottom, named=True)


def _ends(interval: Interval) -> list[float]:
    """Return the ends of an interval, or the estimate where they are infinite, as with a single seed or round."""
    ends = [interval.low, interval.high]
    return ends if all(map(math.isfinite, ends)) else [interval.estimate]


def _cost_ticks(low: float, high: float, by_powers: bool) -> list[float]:
    """Return places of round costs; by powers of ten the logarithms of 1, 2 and 5 times such a power."""
    if not by_powers:
        return ticks(low, high, about=4)  # '1.25 MB' is wider than a step number
    powers = range(math.floor(low), math.ceil(high) + 1)
    # over more than two powers of ten, 2 and 5 would collide
    factors = (1, 2, 5) if high - low < 2 else (1,)
    found = [power + math.log10(factor) for power in powers for factor in factors]
    return [each for each in found if low <= each <= high]


def _fact(
    point: FrontPoint,
    cost: Interval,
    quality: Interval,
    names: Mapping[str, tuple[int, str]],
    written: tuple[Callable[[float], str], Callable[[float], str]],
) -> str:
    """Return what a mark shows in words: the arm, its metric and its cost with intervals, and its status."""
    cost_text, quality_text = written
    texts = []
    for interval, text in ((quality, quality_text), (cost, cost_text)):
        ends = _ends(interval)
        shown = f" [{text(ends[0])}, {text(ends[1])}]" if len(ends) == 2 and ends[0] < ends[1] else ""
        texts.append(f"{text(interval.estimate)}{shown}")
    by = f" by {', '.join(names[arm][1] for arm in point.by)}" if point.by else ""
    return f"{names[point.arm][1]}: {texts[0]} at {texts[1]}, {point.status}{by}"


def names_beside(marks: Sequence[Mark], bottom: float, others: Sequence[Label] = ()) -> list[Label]:
    """Return the names of marks at places where they cover no mark and no text; without those that find none.

    Args:
        marks: of the figure.
        bottom: of the frame.
        others: texts that the figure already has.
    """
    # only the points are kept free of names: a name that crosses a thin error bar can still be read
    taken: list[Box] = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    taken += [_box(each.x, each.y, each.text, each.anchor) for each in others]
    labels = []
    # from the top: the best arms are named first, if there is room for some only
    for mark in sorted(marks, key=lambda each: each.y):
        # right above the point, left above, right below, left below; then the same farther away
        tries = [
            (mark.x + right * 7, mark.y + down, "start" if right > 0 else "end")
            for down in (-5.0, 12.0, -16.0, 23.0, -27.0, 34.0)
            for right in (1, -1)
        ]
        for x, y, anchor in tries:
            box = _box(x, y, mark.label, anchor)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                labels.append(Label(round(x, 1), round(y, 1), mark.label, anchor))
                break
    return labels


def _box(x: float, y: float, text: str, anchor: str) -> Box:
    """Return the place of a text that starts or ends at x, with its base line at y."""
    left = x if anchor == "start" else x - text_width(text)
    return (left, y - 9, left + text_width(text), y + 2)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
