"""Figures of Pareto fronts: quality against one cost, a mark with error bars for each arm or run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from effbench.pareto import FrontPoint
from effbench.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Panel, Tick, scale, span, ticks
from effbench.report.figures import Figure, Label, Mark, text_width
from effbench.stats import Interval

FRONT_HEIGHT = 270  # names beside points need more room than curves
_FAR = 10.0  # ratio of costs from which an axis goes by powers of ten

Box = tuple[float, float, float, float]  # left, top, right, bottom


def front_figure(
    title: str,
    across: str,
    points: Sequence[FrontPoint],
    qualities: Mapping[str, Interval],
    names: Mapping[str, tuple[int, str]],
    written: tuple[Callable[[float], str], Callable[[float], str], Callable[[float], str]],
    joined: Sequence[str] = (),
) -> Figure | None:
    """Return quality against one cost, with error bars; None with fewer than two arms to compare.

    Args:
        title: of the panel.
        across: what the cost is.
        points: of one cost.
        qualities: arm -> its test metric.
        names: arm -> its index and its name in the figure.
        written: how a cost is written, a metric beside the axis, and a metric in a sentence.
        joined: arms that a thin line joins, in its order.
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
    at = {point.arm: f"{mark.x},{mark.y}" for (point, _, _), mark in zip(known, marks, strict=True)}
    line = [" ".join(at[arm] for arm in joined if arm in at)] if joined else []
    labels = names_beside(marks, bottom)
    return Figure(
        panel, (), text, labels, marks, line, height=FRONT_HEIGHT, bottom=bottom, named=True
    )  # fmt: skip


def _ends(interval: Interval) -> list[float]:
    """Return the ends of an interval, or the estimate where they are infinite, as with a single seed or round."""
    ends = [interval.low, interval.high]
    return ends if all(map(math.isfinite, ends)) else [interval.estimate]


def _cost_ticks(low: float, high: float, by_powers: bool) -> list[float]:
    """Return places of round costs; by powers of ten the logarithms of 1, 2 and 5 times such a power."""
    if not by_powers:
        few = ticks(low, high, about=4)  # '1.25 MB' is wider than a step number
        return few if len(few) > 1 else ticks(low, high, about=5)
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
