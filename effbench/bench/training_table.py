"""The split of a training step for people: a table with bars, sentences, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.bench.training import PARTS
from effbench.escaping import for_terminal
from effbench.records import replacing
from effbench.report.curves import BLUE, GREY, ORANGE
from effbench.report.text_table import TextColumn, console, print_sentence, print_table
from effbench.units import counted

_BAR = 30  # columns of a whole step
_COLOURS = (GREY, BLUE, "#3a9a5b", "#a05fb5", ORANGE, "#c8c8c8")


def print_record(record: Mapping[str, Any]) -> None:
    """Print the parts of a step to stdout."""
    out = console()
    options, step = record["options"], record["step_s"]
    head = (
        f"{record['model']['name']} with {record['optimizer']}, {record['batch_size']} {record['unit']}s a step, "
        f"{counted(options['threads'], 'thread')}, {record['steps_counted']} steps in "
        f"{options['rounds']} processes"
    )
    print_sentence(out, head, style="bold")
    parts = record["parts"]
    print_table([
        TextColumn("part", list(parts), is_number=False),
        TextColumn("ms", [f"{1000 * part['estimate_s']:.3g}" for part in parts.values()]),
        TextColumn("95 %", [_ends(part) for part in parts.values()], drop_order=2),
        TextColumn("share", [f"{100 * part['share']:.1f} %" for part in parts.values()]),
        TextColumn("", ["█" * round(_BAR * part["share"]) for part in parts.values()], is_number=False, drop_order=1),
    ])  # fmt: skip
    ends = f"[{1000 * step['low']:.3g}, {1000 * step['high']:.3g}]"
    print_sentence(out, f"A step takes {1000 * step['estimate']:.3g} ms {ends}.")
    if record["disturbed_rounds"]:
        what = f"{record['disturbed_rounds']} of {options['rounds']} rounds"
        print_sentence(out, f"Doubt: other work or clock drift was seen in {what}.")


def _ends(part: Mapping[str, Any]) -> str:
    return "-" if part["low"] is None else f"{1000 * part['low']:.3g} to {1000 * part['high']:.3g}"


def draw_training(path: Path, record: Mapping[str, Any]) -> None:
    """Write a PNG with the parts of a step as one bar."""
    # only here: matplotlib is slow to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes, left = figure.subplots(), 0.0
    for (part, facts), colour in zip(record["parts"].items(), _COLOURS, strict=True):
        width = 1000 * facts["estimate_s"]
        axes.barh(0, width, left=left, color=colour, label=f"{part} {100 * facts['share']:.1f} %")
        left += width
    axes.set_xlabel("ms a step")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    title = f"{record['model']['name']} with {record['optimizer']}, batch {record['batch_size']}"
    axes.set_title(for_terminal(title), fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with replacing(path, elsewhere="output=FOLDER") as stream:
        figure.savefig(stream, format="png")


assert len(_COLOURS) == len(PARTS)
