"""What grows with what: points of a scaling row, as tables and as a drawing with logarithmic axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.alternate import Round
from benchmarks.figures import interval_json, three_digits
from effbench.stats import Interval, median_interval

COLOURS = ("#1f6fb4", "#e0701b", "#3a9a5b", "#a05fb5", "#8a8a8a", "#b8442f")
PANEL_INCHES = (5.2, 3.6)
DECADE, ROOM = 10, 1.15
SUFFIXES = {1e9: "G", 1e6: "M", 1e3: "k"}


@dataclass(frozen=True)
class Point:
    """A value of `line` in `panel`, at `x` of what grows `across`. panel: the quantity and its unit."""

    panel: str
    across: str
    line: str
    x: float
    value: Interval

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"value": interval_json(self.value)}


def points(
    panel: str, across: str, x: float, found: Sequence[Round], of: Callable[[float], float] = float
) -> list[Point]:
    """Each arm's values at one x, in the panel's unit by `of`."""
    return [Point(panel, across, name, x, median_interval([of(values[name]) for values in found])) for name in found[0]]


def resource_points(across: str, line: str, x: float, spent: Sequence[tuple[float, int]]) -> tuple[Point, Point]:
    """Seconds and peak memory of a command. spent: (seconds, peak bytes) of each repetition, by `resources`."""
    seconds, peak = (median_interval(values) for values in zip(*spent, strict=True))
    return Point("seconds", across, line, x, seconds), Point("MB, peak resident", across, line, x, peak.times(1e-6))


def draw(title: str, drawn: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the points (as JSON has them) as an SVG, a panel each quantity, bars for the intervals."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    matplotlib.rcParams["svg.hashsalt"] = "effbench"  # the same bytes for the same figures
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(point["panel"] for point in drawn))
    figure = Figure(figsize=(PANEL_INCHES[0] * len(panels), PANEL_INCHES[1]), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        of_panel = [point for point in drawn if point["panel"] == panel]
        for colour, line in zip(COLOURS, dict.fromkeys(point["line"] for point in of_panel), strict=False):
            _line(axes, [point for point in of_panel if point["line"] == line], line, colour)
        _scale(axes, of_panel)
        axes.set_xlabel(of_panel[0]["across"])
        axes.set_title(panel, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _scale(axes: Any, of_panel: Sequence[Mapping[str, Any]]) -> None:
    """Logarithmic, a tick each x; values within a decade from 0, since they would have one tick or none."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xticks(sorted({point["x"] for point in of_panel}))
    axes.xaxis.set_minor_locator(NullLocator())
    low = min(point["value"]["low"] for point in of_panel)
    high = max(point["value"]["high"] for point in of_panel)
    if high >= DECADE * low:
        axes.set_yscale("log")
        few = (1, 2, 5) if high < DECADE**2 * low else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=few))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, ROOM * high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _line(axes: Any, of_line: Sequence[Mapping[str, Any]], label: str, colour: str) -> None:
    across = [point["x"] for point in of_line]
    middle = [point["value"]["median"] for point in of_line]
    below = [point["value"]["median"] - point["value"]["low"] for point in of_line]
    above = [point["value"]["high"] - point["value"]["median"] for point in of_line]
    axes.errorbar(across, middle, yerr=[below, above], color=colour, label=label, marker="o", ms=4, lw=1.6, capsize=2)


def tables(drawn: Sequence[Mapping[str, Any]]) -> list[str]:
    """A Markdown table each panel: a row each line, a column each x; medians with their intervals."""
    found = []
    for panel in dict.fromkeys(point["panel"] for point in drawn):
        of_panel = [point for point in drawn if point["panel"] == panel]
        columns = sorted({point["x"] for point in of_panel})
        cells = {(point["line"], point["x"]): _cell(point["value"]) for point in of_panel}
        head = [f"{panel}, by {of_panel[0]['across']}", *map(short, columns)]
        rows = [
            [line, *(cells.get((line, x), "") for x in columns)]
            for line in dict.fromkeys(point["line"] for point in of_panel)
        ]
        lines = [head, ["---"] * len(head), *rows]
        found.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    return found


def _cell(value: Mapping[str, Any]) -> str:
    median, low, high = (three_digits(value[name]) for name in ("median", "low", "high"))
    return median if value["n"] == 1 else f"{median} [{low}, {high}]"


def short(value: float) -> str:
    """1000000 -> 1M."""
    size, suffix = next(((size, suffix) for size, suffix in SUFFIXES.items() if abs(value) >= size), (1.0, ""))
    return f"{value / size:.4g}{suffix}"
