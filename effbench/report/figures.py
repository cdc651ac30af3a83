"""Figures as numbers of an SVG: lines with bands, and points with error bars.

`figures.html.j2` writes the elements, for pages and for SVG files. A figure has WIDTH units across, as wide as a phone,
so that its letters keep their size there. A series keeps its colour and its dash in all figures; both come from one
index, because a colour alone is lost in print and to some readers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from effbench.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Panel, Tick, scale, span, ticks

# as many as chart.css has; 8 and 7 have no common factor, so 56 series differ in one or the other
COLOURS, DASHES = 8, 7
FRAME = {"width": WIDTH, "left": LEFT, "top": TOP, "colours": COLOURS, "dashes": DASHES}  # for the template
# Width of a letter of the 10.5 px that chart.css sets, and what m and w need more: in DejaVu Sans, which is wider than
# the fonts of other systems (Chromium's measureText: 'adamw' 38, 'muon' 30, 'schedule_free' 73 px).
_LETTER, _WIDE_LETTER = 6.5, 4.0
_LINE = 11.0  # least distance of two lines of such text
_MOST_WIDTH = 110  # of a name beside its line: a third of the figure
_MOST_MOVED = 16.0  # how far a name may stand above or below the end of its line
_DOTTED = 24  # lines of at most this many points show each point, as in a report

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line with an optional band.

    Attributes:
        label: name in the legend.
        index: of the arm's colour and dash.
        points: (x, y).
        band: (x, low, high); () for none.
        dotted: each point is a measurement; not so the corners of a staircase.
        beside: the name stands beside the last point, within the plot.
    """

    label: str
    index: int
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    dotted: bool = True
    beside: bool = False


@dataclass(frozen=True)
class Label:
    """A name in a figure.

    Attributes:
        x: of the text's start, or of its end or middle by `anchor`.
        y: of the text's base line.
        text: the name.
        anchor: start, middle or end.
        turn: degrees, clockwise around the start.
    """

    x: float
    y: float
    text: str
    anchor: str = "start"
    turn: int = 0


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
    status: str


@dataclass(frozen=True)
class Guide:
    """A thin line that shows no data, such as a threshold or a contour.

    Attributes:
        points: (x, y) in the units of the axes.
        label: written at the first point; '' for none.
    """

    points: Sequence[Point]
    label: str = ""


@dataclass(frozen=True)
class Figure:
    """A panel with bands, or with marks.

    Attributes:
        panel: lines and ticks.
        bands: polygons 'x,y x,y ...' with the index of their series.
        text: what a screen reader says: the facts that the figure shows. Empty: the title alone.
        labels: names beside lines, marks or guides.
        marks: points with error bars.
        guides: 'x,y x,y ...' of the guides.
        right: end of the frame; names of lines stand right of it.
        height: of the whole.
        bottom: of the frame.
        named: every line has its name beside it, so no legend is needed.
        dashed: lines differ in their dashes, too.
        note: what a reader must know of the lines; '' for nothing.
    """

    panel: Panel
    bands: Sequence[tuple[int, str]] = ()
    text: str = ""
    labels: Sequence[Label] = ()
    marks: Sequence[Mark] = ()
    guides: Sequence[str] = ()
    right: float = RIGHT
    height: float = HEIGHT
    bottom: float = BOTTOM
    named: bool = False
    dashed: bool = True
    note: str = ""


def figure(
    title: str,
    across: str,
    series: Sequence[Series],
    written: Callable[[float], str],
    said: Callable[[float], str] | None = None,
    limits: tuple[float, float] | None = None,
    x_limits: tuple[float, float] | None = None,
    x_written: Callable[[float], str] = "{:.4g}".format,
    guides: Sequence[Guide] = (),
) -> Figure | None:
    """Return the figure of some series; None without points.

    Args:
        title: of the panel.
        across: what x is.
        series: lines.
        written: how a y is written beside the axis.
        said: how a screen reader says it; None: as it is written.
        limits: of the y axis; None: those of the values.
        x_limits: of the x axis; None: from 0 to the largest value, or from the smallest if that is negative.
        x_written: how an x is written below the axis.
        guides: thin lines below the series. What is outside of the limits is not cut off.
    """
    drawn = [each for each in series if each.points]
    if not drawn:
        return None
    xs = [x for each in drawn for x, _ in each.points]
    ys = [y for each in drawn for _, y in each.points]
    # the bands belong into the frame too, or the worst seed would be cut off
    ys += [end for each in drawn for _, low, high in each.band for end in (low, high)]
    x_low, x_high = x_limits or span([min(0.0, *xs), *xs], margin=0.0)
    y_low, y_high = limits or span(ys, margin=0.05)
    to_y = scale(y_low, y_high, BOTTOM, TOP)

    labels, right, named = _names_of_ends([each for each in drawn if not each.beside], to_y)
    frame = _Frame(scale(x_low, x_high, LEFT, right), to_y)
    x_ticks = [Tick(round(frame.to_x(x), 1), x_written(x)) for x in ticks(x_low, x_high)]
    y_ticks = [Tick(round(to_y(y), 1), written(y)) for y in ticks(y_low, y_high)]
    ends = [f"{each.label}: {(said or written)(each.points[-1][1])} at {each.points[-1][0]:.4g}" for each in drawn]
    return Figure(
        Panel(title, across, [frame.line(each) for each in drawn], x_ticks, y_ticks),
        [frame.band(each) for each in drawn if each.band],
        f"{title} by {across}. {'; '.join(ends)}",
        # 9: a line of text below the point, which may be on the frame's upper edge
        (
            *labels,
            *(frame.name(guide.label, guide.points[0], 9) for guide in guides if guide.label),
            *(frame.name(each.label, each.points[-1], -4) for each in drawn if each.beside),
        ),
        guides=[_joined(frame.places(guide.points)) for guide in guides],
        right=round(right, 1),
        named=named,
    )


@dataclass(frozen=True)
class _Frame:
    """Places in a figure."""

    to_x: Callable[[float], float]
    to_y: Callable[[float], float]

    def places(self, points: Sequence[Point]) -> list[tuple[str, str]]:
        return [(f"{self.to_x(x):.1f}", f"{self.to_y(y):.1f}") for x, y in points]

    def line(self, series: Series) -> Line:
        places = self.places(series.points)
        dots = places if series.dotted and len(places) <= _DOTTED else []
        return Line(series.label, series.index, _joined(places), dots)

    def band(self, series: Series) -> tuple[int, str]:
        # out along the upper edge and back along the lower one: one closed polygon
        upper = [(x, high) for x, _, high in series.band]
        lower = [(x, low) for x, low, _ in reversed(series.band)]
        return series.index, _joined(self.places([*upper, *lower]))

    def name(self, text: str, point: Point, down: float) -> Label:
        x, y = point
        return Label(round(self.to_x(x) + 4, 1), round(self.to_y(y) + down, 1), text)


def _joined(places: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


def _names_of_ends(drawn: Sequence[Series], to_y: Callable[[float], float]) -> tuple[list[Label], float, bool]:
    """Return (names right of the ends of lines, where the plot ends, whether the names fit).

    The plot becomes narrower for the names; if they do not all fit, a legend has them.
    """
    widest = max((text_width(each.label) for each in drawn), default=0.0)
    heights = _apart([to_y(each.points[-1][1]) for each in drawn]) if widest <= _MOST_WIDTH else None
    if heights is None:
        return [], float(RIGHT), False
    right = WIDTH - 7 - widest if widest else float(RIGHT)
    # 3.5: from the middle of a line of text to its base line
    labels = [Label(right + 6, y + 3.5, each.label) for y, each in zip(heights, drawn, strict=True) if each.label]
    return labels, right, True


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
    moved = max((abs(new - old) for new, old in zip(placed, heights, strict=True)), default=0.0)
    return placed if moved <= _MOST_MOVED else None


def text_width(name: str) -> float:
    """Return the width of a text in a figure."""
    return len(name) * _LETTER + sum(letter in "mwMW" for letter in name) * _WIDE_LETTER
