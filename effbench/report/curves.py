"""curves.png: loss, accuracy and learning rate of a run, from its metrics.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effbench.records import replacing
from effbench.report.rows import drawable_rows

BLUE, ORANGE, GREY = "#1f6fb4", "#e0701b", "#8a8a8a"


def draw_curves(folder: Path, title: str) -> Path:
    """Writes curves.png into the run's folder and returns its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = drawable_rows((folder / "metrics.csv").read_bytes()).kept
    figure = Figure(figsize=(12, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot nor matplotlib.use: a notebook's own backend stays as it is
    loss, accuracy, rate = figure.subplots(1, 3)
    _draw(loss, rows, {"train/loss": (BLUE, "train"), "val/loss": (ORANGE, "validation")}, "cross-entropy (nats)")
    _draw(accuracy, rows, {"train/acc": (BLUE, "train"), "val/acc": (ORANGE, "validation")}, "accuracy")
    rates = [column for column in (rows[0] if rows else {}) if column.startswith("lr/")]
    _draw(rate, rows, _rate_lines(rows, rates), "learning rate")
    accuracy.yaxis.set_major_formatter("{x:.0%}")
    figure.suptitle(title, fontsize=11)
    path = folder / "curves.png"
    with replacing(path) as stream:
        figure.savefig(stream, format="png")
    return path


def _rate_lines(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """One line for all groups whose rates never differ, named for the group where they do."""
    distinct: dict[tuple[str, ...], str] = {}
    for column in columns:
        distinct.setdefault(tuple(row[column] for row in rows), column)
    palette = (BLUE, ORANGE, "#3a9a5b", "#a05fb5", GREY)
    single = len(distinct) == 1
    return {
        column: (palette[index % len(palette)], "" if single else column.removeprefix("lr/"))
        for index, column in enumerate(distinct.values())
    }


def points(rows: Sequence[dict[str, str]], column: str) -> list[tuple[int, float]]:
    """(step, value) of a column: its step rows, or the epoch rows where there are more of those."""
    by_row: dict[str, list[tuple[int, float]]] = {"step": [], "epoch": []}
    for row in rows:
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
        marker = "o" if validation or len(found) < 3 else None
        axes.plot(steps, values, color=colour, label=name, linewidth=2 if validation else 1.4, marker=marker, ms=4)
    axes.set_xlabel("optimizer step")
    axes.set_title(label, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if any(name for _, name in lines.values()) and axes.lines:
        axes.legend(frameon=False, fontsize=9)
