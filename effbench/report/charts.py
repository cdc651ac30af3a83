"""Curves of runs as numbers of an SVG: lines, ticks and labels with positions. figures.html.j2 writes the elements.

A panel has WIDTH x HEIGHT units; lines are inside of the frame LEFT .. RIGHT, TOP .. BOTTOM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from effbench.metrics import LOSS, Display, display_of
from effbench.report.curves import points, rate_columns

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 12, 190  # of the frame; the margins hold the labels of the ticks
MOST_POINTS = 240  # of a line, which is 304 units wide; the extremes between them are kept
MOST_RATES = 6  # learning rates of one run
_WIDE = 100  # a loss whose largest value is more than this many times its smallest is drawn on a log scale
_TINIEST = 1e-200  # smaller differences could underflow
_DOTTED = 24  # lines of at most this many points show each point

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """The rows of a run and how they are drawn.

    Attributes:
        label: name in the legend.
        colour: index into the palette.
        rows: rows of metrics.csv.
        epochs_per_step: converts steps to epochs; None if unknown.
    """

    label: str
    colour: int
    rows: Sequence[Mapping[str, str]]
    epochs_per_step: float | None


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        label: name in the legend.
        colour: index into the palette.
        points: 'x,y x,y …', as SVG takes them.
        dots: the same points as pairs, if there are few.
    """

    label: str
    colour: int
    points: str
    dots: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Tick:
    place: float
    text: str


@dataclass(frozen=True)
class Panel:
    title: str
    x_label: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]


def panels_of_runs(curves: Sequence[Curve], displays: Mapping[str, Display]) -> list[Panel]:
    """Return panels with one line a run: each validation metric, the losses, the learning rate."""
    loss = displays.get(LOSS) or display_of(LOSS)
    # the loss comes last: a table ranks by the metric, so readers look for that first
    last = {name: display for name, display in displays.items() if name != LOSS} | {LOSS: loss}
    panels = [
        _panel(f"validation {display.axis}", [(curve, f"val/{name}") for curve in curves], display, name == LOSS)
        for name, display in last.items()
    ]
    panels.append(_panel(f"training {loss.axis}", [(curve, f"train/{LOSS}") for curve in curves], loss, True))
    # of several parameter groups only the first: the others follow the same schedule
    rates = [(curve, rate) for curve in curves for rate in rate_columns(curve.rows)[:1]]
    panels.append(_panel("learning rate", rates))
    return [panel for panel in panels if panel.lines]


def panels_of_run(curve: Curve, displays: Mapping[str, Display]) -> list[Panel]:
    """Return panels of one run: training with validation, and each different learning rate."""
    pair = [replace(curve, label=split, colour=number) for number, split in enumerate(("train", "val"))]
    # the loss comes first: it is what training minimises
    first = {LOSS: displays.get(LOSS) or display_of(LOSS), **displays}
    panels = [
        _panel(display.axis, [(line, f"{line.label}/{name}") for line in pair], display, name == LOSS)
        for name, display in first.items()
    ]
    rates = rate_columns(curve.rows)
    rated = [
        (replace(curve, label=rate if len(rates) > 1 else "", colour=number), rate)
        for number, rate in enumerate(rates[:MOST_RATES])
    ]
    panels.append(_panel("learning rate", rated))
    return [panel for panel in panels if panel.lines]


def _panel(
    title: str, drawn: Sequence[tuple[Curve, str]], display: Display | None = None, may_be_log: bool = False
) -> Panel:
    """Return the panel of (curve, column) pairs; without lines if no column has values.

    Args:
        title: of the panel.
        drawn: curves and the column to draw of each.
        display: of the metric; None for plain numbers.
        may_be_log: values of very different size are drawn by powers of ten.
    """
    # epochs only if known for all: runs with other batch sizes share one axis
    in_epochs = all(curve.epochs_per_step for curve, _ in drawn)
    x_label = "epoch" if in_epochs else "optimizer step"
    series, ends = [], []
    for curve, column in drawn:
        unit = (curve.epochs_per_step or 1.0) if in_epochs else 1.0
        if found := thinned([(step * unit, value) for step, value in points(curve.rows, column)]):
            series.append((curve, found))
            ends.append(max(int(row["step"]) for row in curve.rows) * unit)
    if not series:
        return Panel(title, x_label, [], [], [])  # callers leave it out

    heights = [y for _, found in series for _, y in found]
    by_powers = may_be_log and min(heights) > 0 and max(heights) > _WIDE * min(heights)
    if by_powers:
        title = f"{title}, by powers of ten"
        series = [(curve, [(x, math.log10(y)) for x, y in found]) for curve, found in series]

    x_low, x_high = span([0.0, *ends], margin=0.0)  # the same in all panels
    # a margin, so that the extremes are not drawn on the frame
    y_low, y_high = span([y for _, found in series for _, y in found], margin=0.05)
    to_x, to_y = scale(x_low, x_high, LEFT, RIGHT), scale(y_low, y_high, BOTTOM, TOP)
    lines = []
    for curve, found in series:
        texts = [(f"{to_x(x):.1f}", f"{to_y(y):.1f}") for x, y in found]
        joined = " ".join(f"{x},{y}" for x, y in texts)
        lines.append(Line(curve.label, curve.colour, joined, texts if len(texts) <= _DOTTED else []))
    x_ticks = [Tick(round(to_x(x), 1), f"{x:.4g}") for x in ticks(x_low, x_high)]
    y_ticks = []
    for y in ticks(y_low, y_high):
        # by powers the axis holds exponents of 10; a fraction is written in percent, as in the tables
        text = f"{100 * y:.4g}%" if display and display.as_percent else f"{y:.4g}"
        y_ticks.append(Tick(round(to_y(y), 1), f"{10**y:.3g}" if by_powers else text))
    return Panel(title, x_label, lines, x_ticks, y_ticks)


def thinned(series: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most about `most` points: the first, the last, and the lowest and highest of each interval."""
    if len(series) <= most:
        return list(series)
    # two points an interval: its lowest and its highest value, so that no spike is lost
    size = math.ceil(len(series) / (most // 2))
    # both ends, so that every line spans its run
    kept = {0, len(series) - 1}
    for start in range(0, len(series), size):
        stretch = range(start, min(start + size, len(series)))
        kept |= {min(stretch, key=lambda index: series[index][1]), max(stretch, key=lambda index: series[index][1])}
    return [series[index] for index in sorted(kept)]


def span(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Return (low, high) with a margin; never an empty range."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, _TINIEST):  # flat, except for rounding
        pad = 0.1 * largest if largest > _TINIEST else 1.0
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the function from a value to its place.

    Args:
        low: value at `start`.
        high: value at `end`.
        start: place in the panel.
        end: place in the panel.
    """
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers in the range: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: least value.
        high: largest value.
        about: how many are wanted.
    """
    # 0.999 and 1e-9: rounding must not leave out a round number
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    # the smallest round step that gives at most `about` intervals
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]
