"""Figures of a study as numbers of an SVG, drawn by the page's template: curves over seeds and Pareto fronts.

A figure has WIDTH units across, as wide as a phone, so that its letters keep their size there. An arm keeps its colour
and its dash in all figures; both come from one index, because a colour alone is lost in print and to some readers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from effbench.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Panel, Tick, scale, span, ticks
from effbench.stats import Interval, mean
from effbench.study.results import BudgetPoint, FrontPoint, FrontStatus, SurvivalPoint
from effbench.study.table import Curves
from effbench.study.wording import listed

# as many as the page's styles have; 8 and 7 have no common factor, so 56 arms differ in one or the other
COLOURS, DASHES = 8, 7
FRONT_HEIGHT = 270  # of a Pareto front: names beside points need more room than curves
# Width of a letter of the 10.5 px that page.css sets, and what m and w need more: in DejaVu Sans, which is wider than
# the fonts of other systems (Chromium's measureText: 'adamw' 38, 'muon' 30, 'schedule_free' 73 px).
_LETTER, _WIDE_LETTER = 6.5, 4.0
_LINE = 11.0  # least distance of two lines of such text
_MOST_WIDTH = 110  # of a name beside its line: a third of the figure
_MOST_MOVED = 16.0  # how far a name may stand above or below the end of its line
_DOTTED = 24  # lines of at most this many points show each point, as in a report
_FAR = 10.0  # ratio of costs from which an axis goes by powers of ten

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Series:
    """A line with an optional band.

    Attributes:
        label: name in the legend.
        index: of the arm's colour and dash.
        points: (x, y).
        band: (x, low, high); () for none.
        dotted: each point is a measurement; not so the corners of a staircase.
    """

    label: str
    index: int
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    dotted: bool = True


@dataclass(frozen=True)
class Label:
    """A name in a figure.

    Attributes:
        x: of the text's start, or of its end or middle by `anchor`.
        y: of the text's base line.
        text: the name.
        anchor: start, middle or end.
    """

    x: float
    y: float
    text: str
    anchor: str = "start"


@dataclass(frozen=True)
class Mark:
    """An arm of a Pareto front: a point with error bars.

    Attributes:
        label: name of the arm.
        index: of its colour.
        x: of the point.
        y: of the point.
        bars: 'x,y x,y' of the horizontal and the vertical error bar; without those that are not known.
        status: 'on the front' is drawn full, 'dominated' faint.
    """

    label: str
    index: int
    x: float
    y: float
    bars: Sequence[str]
    status: FrontStatus


@dataclass(frozen=True)
class Figure:
    """A panel with bands, or with marks.

    Attributes:
        panel: lines and ticks.
        bands: polygons 'x,y x,y ...' with the index of their arm.
        text: what a screen reader says: the facts that the figure shows.
        labels: names beside lines or marks.
        marks: of a Pareto front.
        right: end of the frame; names of lines stand right of it.
        height: of the whole.
        bottom: of the frame.
        named: every line has its name beside it, so no legend is needed.
        note: what a reader must know of the lines; '' for nothing.
    """

    panel: Panel
    bands: Sequence[tuple[int, str]]
    text: str
    labels: Sequence[Label] = ()
    marks: Sequence[Mark] = ()
    right: float = RIGHT
    height: float = HEIGHT
    bottom: float = BOTTOM
    named: bool = False
    note: str = ""


# --- lines ------------------------------------------------------------------------------------------------------------


def figure(
    title: str,
    across: str,
    series: Sequence[Series],
    written: Callable[[float], str],
    said: Callable[[float], str] | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure | None:
    """Return the figure of some series; None without points.

    Args:
        title: of the panel.
        across: what x is.
        series: lines.
        written: how a y is written beside the axis.
        said: how a screen reader says it; None: as it is written.
        limits: of the y axis; None: those of the values.
    """
    drawn = [each for each in series if each.points]
    if not drawn:
        return None
    xs = [x for each in drawn for x, _ in each.points]
    ys = [y for each in drawn for _, y in each.points]
    # the bands belong into the frame too, or the worst seed would be cut off
    ys += [end for each in drawn for _, low, high in each.band for end in (low, high)]
    x_low, x_high = span([min(0.0, *xs), *xs], margin=0.0)
    y_low, y_high = limits or span(ys, margin=0.05)
    to_y = scale(y_low, y_high, BOTTOM, TOP)

    # names stand at the right of the plot, which becomes narrower for them; if they do not all fit, a legend has them
    widest = max(_width(each.label) for each in drawn)
    heights = _apart([to_y(each.points[-1][1]) for each in drawn])
    fits = widest <= _MOST_WIDTH and heights is not None
    right = WIDTH - 7 - widest if fits else float(RIGHT)
    to_x = scale(x_low, x_high, LEFT, right)
    # 3.5: from the middle of a line of text to its base line
    labels = [Label(right + 6, y + 3.5, each.label) for y, each in zip(heights or (), drawn, strict=False)]

    lines, bands = [], []
    for each in drawn:
        places = [(f"{to_x(x):.1f}", f"{to_y(y):.1f}") for x, y in each.points]
        dots = places if each.dotted and len(places) <= _DOTTED else []
        lines.append(Line(each.label, each.index, " ".join(f"{x},{y}" for x, y in places), dots))
        if each.band:
            # out along the upper edge and back along the lower one: one closed polygon
            upper = [(to_x(x), to_y(high)) for x, _, high in each.band]
            lower = [(to_x(x), to_y(low)) for x, low, _ in reversed(each.band)]
            bands.append((each.index, " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *lower])))
    x_ticks = [Tick(round(to_x(x), 1), f"{x:.4g}") for x in ticks(x_low, x_high)]
    y_ticks = [Tick(round(to_y(y), 1), written(y)) for y in ticks(y_low, y_high)]
    ends = "; ".join(
        f"{each.label}: {(said or written)(each.points[-1][1])} at {each.points[-1][0]:.4g}" for each in drawn
    )
    panel = Panel(title, across, lines, x_ticks, y_ticks)
    text = f"{title} by {across}. {ends}"
    return Figure(panel, bands, text, labels if fits else (), right=round(right, 1), named=fits)


def _apart(heights: Sequence[float]) -> list[float] | None:
    """Return heights that are a line of text apart, near the given ones; None if one would have to move far."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    # Downwards: move each name below the one above it. Then upwards from the lowest: move names back into the frame.
    for above, below in itertools.pairwise(order):
        placed[below] = max(placed[below], placed[above] + _LINE)
    limit = float(BOTTOM)
    for index in reversed(order):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - _LINE
    moved = max(abs(new - old) for new, old in zip(placed, heights, strict=True))
    return placed if moved <= _MOST_MOVED else None


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
    return Figure(panel, (), text, _names_beside(marks, bottom), marks, height=FRONT_HEIGHT, bottom=bottom, named=True)


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


def _names_beside(marks: Sequence[Mark], bottom: float) -> list[Label]:
    """Return the names at places where they cover neither a mark nor another name; without those that find none."""
    # only the points are kept free of names: a name that crosses a thin error bar can still be read
    taken: list[Box] = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    labels = []
    # from the top: the best arms are named first, if there is room for some only
    for mark in sorted(marks, key=lambda each: each.y):
        width = _width(mark.label)
        # right above the point, left above, right below, left below; then the same farther away
        tries = [
            (mark.x + right * 7, mark.y + down, "start" if right > 0 else "end")
            for down in (-5.0, 12.0, -16.0, 23.0, -27.0, 34.0)
            for right in (1, -1)
        ]
        for x, y, anchor in tries:
            left = x if anchor == "start" else x - width
            box = (left, y - 9, left + width, y + 2)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                labels.append(Label(round(x, 1), round(y, 1), mark.label, anchor))
                break
    return labels


def _width(name: str) -> float:
    return len(name) * _LETTER + sum(letter in "mwMW" for letter in name) * _WIDE_LETTER


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
