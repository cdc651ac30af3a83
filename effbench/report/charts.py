"""Curves of runs as numbers of an SVG: lines, ticks and labels with positions. The page's template writes the elements.

A panel has WIDTH x HEIGHT units; lines are inside of the frame LEFT .. RIGHT, TOP .. BOTTOM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from effbench.metrics import LOSS, Display, display_of
from effbench.report.curves import points, rate_columns

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 12, 190
FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": BOTTOM}  # for the template
MOST_POINTS = 240  # of a line; the extremes between them are kept
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
    across: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]


def over_each_other(curves: Sequence[Curve], displays: Mapping[str, Display]) -> list[Panel]:
    """Return panels with one line a run: each validation metric, the losses, the learning rate."""
    named = {name: display for name, display in displays.items() if name != LOSS} | {LOSS: _loss(displays)}
    panels = [
        *(
            _metric_panel(f"validation {display.axis}", curves, f"val/{name}", display, name == LOSS)
            for name, display in named.items()
        ),
        _metric_panel(f"training {_loss(displays).axis}", curves, f"train/{LOSS}", _loss(displays), True),
        _panel("learning rate", [(curve, rate) for curve in curves for rate in rate_columns(curve.rows)[:1]], _plain),
    ]
    return [panel for panel in panels if panel.lines]


def _loss(displays: Mapping[str, Display]) -> Display:
    return displays.get(LOSS) or display_of(LOSS)


def _metric_panel(title: str, curves: Sequence[Curve], column: str, display: Display, wide: bool) -> Panel:
    return _panel(title, [(curve, column) for curve in curves], _share if display.as_percent else _plain, wide)


def of_one(curve: Curve, displays: Mapping[str, Display]) -> list[Panel]:
    """Return panels of one run: training with validation, and each different learning rate."""

    def pair(metric: str) -> list[tuple[Curve, str]]:
        return [
            (replace(curve, label=name, colour=number), f"{name}/{metric}")
            for number, name in enumerate(("train", "val"))
        ]

    rates = rate_columns(curve.rows)
    rated = [
        (replace(curve, label=rate if len(rates) > 1 else "", colour=number), rate)
        for number, rate in enumerate(rates[:6])
    ]
    panels = [
        *(
            _panel(display.axis, pair(name), _share if display.as_percent else _plain, wide=name == LOSS)
            for name, display in {LOSS: _loss(displays), **displays}.items()
        ),
        _panel("learning rate", rated, _plain),
    ]
    return [panel for panel in panels if panel.lines]


def _panel(title: str, drawn: Sequence[tuple[Curve, str]], text: Callable[[float], str], wide: bool = False) -> Panel:
    in_epochs = all(curve.epochs_per_step for curve, _ in drawn)
    series = []
    for curve, column in drawn:
        unit = _unit(curve, in_epochs)
        if found := thinned([(step * unit, value) for step, value in points(curve.rows, column)]):
            series.append((curve, found))
    across = "epoch" if in_epochs else "optimizer step"
    if not series:
        return Panel(title, across, [], [], [])
    heights = [y for _, found in series for _, y in found]
    by_powers = wide and min(heights) > 0 and max(heights) > _WIDE * min(heights)
    if by_powers:
        title = f"{title}, by powers of ten"
        series = [(curve, [(x, math.log10(y)) for x, y in found]) for curve, found in series]
    ends = [max(int(row["step"]) for row in curve.rows) * _unit(curve, in_epochs) for curve, _ in series]
    x_low, x_high = _range([0.0, *ends], margin=0.0)  # the same in all panels
    y_low, y_high = _range([y for _, found in series for _, y in found], margin=0.05)
    to_x, to_y = _scale(x_low, x_high, LEFT, RIGHT), _scale(y_low, y_high, BOTTOM, TOP)
    lines = [_line(curve, [(to_x(x), to_y(y)) for x, y in found]) for curve, found in series]
    levels = _ticks(y_low, y_high)
    written = (lambda level: f"{10**level:.3g}") if by_powers else text
    y_ticks = [Tick(round(to_y(level), 1), written(level)) for level in levels]
    return Panel(title, across, lines, [Tick(round(to_x(x), 1), _plain(x)) for x in _ticks(x_low, x_high)], y_ticks)


def _unit(curve: Curve, in_epochs: bool) -> float:
    return (curve.epochs_per_step or 1.0) if in_epochs else 1.0


def thinned(series: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most about `most` points: the first, the last, and the lowest and highest of each interval."""
    if len(series) <= most:
        return list(series)
    size = math.ceil(len(series) / (most // 2))
    # both ends, so that every line spans its run
    kept = {0, len(series) - 1}
    for start in range(0, len(series), size):
        stretch = range(start, min(start + size, len(series)))
        kept |= {min(stretch, key=lambda index: series[index][1]), max(stretch, key=lambda index: series[index][1])}
    return [series[index] for index in sorted(kept)]


def _line(curve: Curve, placed: Sequence[Point]) -> Line:
    texts = [(f"{x:.1f}", f"{y:.1f}") for x, y in placed]
    joined = " ".join(f"{x},{y}" for x, y in texts)
    return Line(curve.label, curve.colour, joined, texts if len(texts) <= _DOTTED else [])


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Return (low, high) with a margin; never an empty range."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, _TINIEST):
        pad = 0.1 * largest if largest > _TINIEST else 1.0
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers in the range: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _share(value: float) -> str:
    return f"{100 * value:.4g}%"
