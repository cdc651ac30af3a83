"""Figures of a study as numbers of an SVG, drawn by the page's template like those of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from effbench.report.charts import BOTTOM, LEFT, RIGHT, TOP, Line, Panel, Tick, scale, span, ticks
from effbench.stats import mean
from effbench.study.results import BudgetPoint, SurvivalPoint

COLOURS = 8

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line with an optional band.

    Attributes:
        label: name in the legend.
        colour: index into the palette.
        points: (x, y).
        band: (x, low, high); () for none.
    """

    label: str
    colour: int
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Figure:
    """A panel with bands.

    Attributes:
        panel: lines and ticks.
        bands: polygons 'x,y x,y ...' with their colour.
        text: what a screen reader says.
    """

    panel: Panel
    bands: Sequence[tuple[int, str]]
    text: str


def figure(title: str, across: str, series: Sequence[Series], written: Callable[[float], str]) -> Figure | None:
    """Return the figure of some series; None without points.

    Args:
        title: of the panel.
        across: what x is.
        series: lines.
        written: how a y is written.
    """
    drawn = [each for each in series if each.points]
    if not drawn:
        return None
    xs = [x for each in drawn for x, _ in each.points]
    ys = [y for each in drawn for _, y in each.points]
    ys += [end for each in drawn for _, low, high in each.band for end in (low, high)]
    x_low, x_high = span([min(0.0, *xs), *xs], margin=0.0)
    y_low, y_high = span(ys, margin=0.05)
    to_x, to_y = scale(x_low, x_high, LEFT, RIGHT), scale(y_low, y_high, BOTTOM, TOP)
    lines = [_line(each, to_x, to_y) for each in drawn]
    bands = [(each.colour, _polygon(each, to_x, to_y)) for each in drawn if each.band]
    panel = Panel(
        title,
        across,
        lines,
        [Tick(round(to_x(x), 1), f"{x:.4g}") for x in ticks(x_low, x_high)],
        [Tick(round(to_y(y), 1), written(y)) for y in ticks(y_low, y_high)],
    )
    ends = "; ".join(f"{each.label}: {written(each.points[-1][1])} at {each.points[-1][0]:.4g}" for each in drawn)
    return Figure(panel, bands, f"{title} by {across}. {ends}")


def _line(series: Series, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> Line:
    places = [(f"{to_x(x):.1f}", f"{to_y(y):.1f}") for x, y in series.points]
    return Line(series.label, series.colour, " ".join(f"{x},{y}" for x, y in places), places[:24])


def _polygon(series: Series, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    upper = [(to_x(x), to_y(high)) for x, _, high in series.band]
    lower = [(to_x(x), to_y(low)) for x, low, _ in reversed(series.band)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *lower])


def learning_curves(
    curves: Mapping[str, Sequence[Sequence[Sequence[float]]]], colours: Mapping[str, int]
) -> list[Series]:
    """Return the mean validation metric over seeds with the range between the worst and the best seed.

    Args:
        curves: arm -> its final runs' (step, value) of each validation.
        colours: arm -> index into the palette.
    """
    series = []
    for arm, runs in curves.items():
        by_step: dict[float, list[float]] = {}
        for run in runs:
            for step, value in run:
                by_step.setdefault(step, []).append(value)
        # where a run has ended early, the mean of the others would jump
        whole = {step: values for step, values in sorted(by_step.items()) if len(values) == len(runs)}
        points = [(step, mean(values)) for step, values in whole.items()]
        band = [(step, min(values), max(values)) for step, values in whole.items()]
        series.append(Series(arm, colours[arm], points, band))
    return series


def budget_curves(points: Sequence[BudgetPoint], colours: Mapping[str, int]) -> list[Series]:
    """Return the best validation metric against the number of trials, with the range of the draws."""
    series = []
    for arm in dict.fromkeys(point.arm for point in points):
        own = [point for point in points if point.arm == arm and point.best is not None]
        line = [(float(point.trials), point.best) for point in own if point.best is not None]
        band = [
            (float(point.trials), point.low, point.high)
            for point in own
            if point.low is not None and point.high is not None
        ]
        series.append(Series(arm, colours[arm], line, band))
    return series


def target_curve(curve: Sequence[SurvivalPoint]) -> list[Point]:
    """Return the share of runs that have reached the target against time, as a staircase."""
    points: list[Point] = [(0.0, 0.0)]
    for point in curve:
        points += [(point.time, points[-1][1]), (point.time, 1 - point.share)]
    return points
