"""curves.png: loss, metrics and learning rate of a run, from its metrics.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from effbench.metrics import Display
from effbench.records import replacing
from effbench.report.rows import drawable_rows

MOST_METRICS = 4  # plots beside that of the learning rate, in one row
FEWEST_STEPS = 3  # with recorded values; two points are no curve, and drawing takes longer than such a run
PANEL_WIDTH, HEIGHT = 4.0, 3.6  # inches
BLUE, ORANGE, GREY = "#1f6fb4", "#e0701b", "#8a8a8a"


def draw_curves(folder: Path, title: str, displays: Mapping[str, Display]) -> Path | None:
    """Write curves.png into the run folder, if the run recorded FEWEST_STEPS steps.

    Args:
        folder: the run folder.
        title: of the picture.
        displays: metric name -> display; the first MOST_METRICS get a plot each.

    Returns:
        The path of curves.png; None if there is no curve to draw.
    """
    rows = drawable_rows((folder / "metrics.csv").read_bytes()).kept
    if len({row["step"] for row in rows}) < FEWEST_STEPS:
        return None
    # only here: matplotlib is slow to import, and most commands draw nothing
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = dict(islice(displays.items(), MOST_METRICS))
    width = PANEL_WIDTH * (len(drawn) + 1)
    figure = Figure(figsize=(width, HEIGHT), dpi=120)
    FigureCanvasAgg(figure)  # not pyplot or matplotlib.use: they would change a notebook's backend
    # Fixed margins: layout="constrained" draws everything twice, half of a short run's time.
    margins = {"left": 0.7 / width, "right": 1 - 0.2 / width, "bottom": 0.52 / HEIGHT, "top": 1 - 0.68 / HEIGHT}
    *axes, rate = figure.subplots(1, len(drawn) + 1, gridspec_kw={**margins, "wspace": 0.25})
    for place, (name, display) in zip(axes, drawn.items(), strict=True):
        _draw(place, rows, {f"train/{name}": (BLUE, "train"), f"val/{name}": (ORANGE, "validation")}, display.axis)
        # fractions are recorded, percent are shown
        if display.as_percent:
            place.yaxis.set_major_formatter("{x:.0%}")
    rates = rate_columns(rows)
    palette = (BLUE, ORANGE, "#3a9a5b", "#a05fb5", GREY)
    labels = [column.removeprefix("lr/") if len(rates) > 1 else "" for column in rates]  # one line needs no legend
    lines = {column: (palette[index % len(palette)], labels[index]) for index, column in enumerate(rates)}
    _draw(rate, rows, lines, "learning rate")
    figure.suptitle(title, fontsize=11)
    path = folder / "curves.png"
    # a reader never sees half a picture
    with replacing(path) as stream:
        figure.savefig(stream, format="png")
    return path


def rate_columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the columns of learning rates; of equal columns only the first."""
    distinct: dict[tuple[str, ...], str] = {}
    for column in rows[0] if rows else ():
        if column.startswith("lr/"):
            distinct.setdefault(tuple(row[column] for row in rows), column)
    return list(distinct.values())


def points(rows: Sequence[Mapping[str, str]], column: str) -> list[tuple[int, float]]:
    """Return (step, value) pairs of a column: of step rows, or of epoch rows if there are more of them."""
    by_row: dict[str, list[tuple[int, float]]] = {"step": [], "epoch": []}
    for row in rows:
        # an empty cell: the metric was not logged in this row
        if row.get(column):
            by_row[row["row"]].append((int(row["step"]), float(row[column])))
    return by_row["step"] if len(by_row["step"]) >= len(by_row["epoch"]) else by_row["epoch"]


def _draw(axes: Any, rows: Sequence[dict[str, str]], lines: dict[str, tuple[str, str]], label: str) -> None:
    for column, (colour, name) in lines.items():
        found = points(rows, column)
        if not found:
            continue
        steps, values = zip(*found, strict=True)
        validation = column.startswith("val/")
        # a line of one or two points is invisible without markers
        marker = "o" if validation or len(found) < 3 else None
        axes.plot(steps, values, color=colour, label=name, linewidth=2 if validation else 1.4, marker=marker, ms=4)
    axes.set_xlabel("optimizer step")
    axes.set_title(label, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if any(name for _, name in lines.values()) and axes.lines:
        axes.legend(frameon=False, fontsize=9)
