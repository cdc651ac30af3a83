"""Pairs of layers for people: a table that fits 80 columns, sentences, and a figure of ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from effbench.report.figures import Series, figure
from effbench.report.sheets import sheet
from effbench.report.text_table import TextColumn, console, print_sentence, print_table
from effbench.units import counted, human_count

_WORDS = {
    "layers": ("depthwise separable", "standard convolution", "1/C_out + 1/k^2"),
    "attention": ("local attention", "dense attention", "(2 w + 1) / N"),
}


def print_record(record: Mapping[str, Any]) -> None:
    """Print the table and what it rests on to stdout."""
    out = console()
    ours, other, formula = _WORDS[record["kind"]]
    rows, options = record["rows"], record["options"]
    constants = ", ".join(f"{name} {value}" for name, value in record["constants"].items())
    threads = counted(options["threads"], "thread")
    head = f"{ours} / {other}, forward pass, {constants}, {threads}, {options['rounds']} processes"
    print_sentence(out, head, style="bold")
    columns = [TextColumn(name, [str(row["case"][name]) for row in rows]) for name in rows[0]["case"]]
    if record["kind"] == "layers":
        columns.append(TextColumn("param.\nratio", [_over(row, "parameters") for row in rows], drop_order=2))
    columns += [
        TextColumn("MACs", [human_count(row["ours"]["macs"]) for row in rows], drop_order=3),
        TextColumn("MACs\nratio", [_over(row, "macs") for row in rows]),
        TextColumn("formula", [f"{row['formula']:.3f}" for row in rows]),
        TextColumn("ms", [f"{1000 * row['ours_s']['estimate']:.3g}" for row in rows], drop_order=1),
        TextColumn("time\nratio", [f"{row['time_ratio']['estimate']:.3f}" for row in rows]),
        TextColumn("95 %", [_ends(row["time_ratio"]) for row in rows]),
    ]
    print_table(columns)
    print_sentence(out, f"Ratios are {ours} over {other}; the formula of the MACs is {formula}.")
    slower = [row for row in rows if row["time_ratio"]["low"] > 1]
    if slower:
        cases = "; ".join(", ".join(f"{name} {value}" for name, value in row["case"].items()) for row in slower)
        print_sentence(out, f"{ours} is slower at: {cases}.".capitalize())
    if record["disturbed_rounds"]:
        what = f"{record['disturbed_rounds']} of {options['rounds']} rounds"
        print_sentence(out, f"Doubt: other work or clock drift was seen in {what}.")


def _over(row: Mapping[str, Any], name: str) -> str:
    return f"{row['ours'][name] / row['other'][name]:.3f}"


def _ends(found: Mapping[str, Any]) -> str:
    return f"{found['low']:.3f} to {found['high']:.3f}"


def pairs_sheet(record: Mapping[str, Any]) -> str | None:
    """Return the figure of time ratios beside the formula as an SVG file; None if there is one case only."""
    across = "channels" if record["kind"] == "layers" else "tokens"
    ours, other, formula = _WORDS[record["kind"]]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in record["rows"]:
        rest = ", ".join(f"{value} px" for name, value in row["case"].items() if name == "size")
        lines.setdefault(f"time, {rest}" if rest else "time", []).append(row)
    series = [_series(name, index, rows, across) for index, (name, rows) in enumerate(lines.items())]
    first = next(iter(lines.values()))
    points = [(math.log2(row["case"][across]), row["formula"]) for row in first]
    series.append(Series(f"MACs, {formula}", len(series), points))
    if len(points) < 2:
        return None
    found = figure(
        f"{ours} / {other}",
        across,
        series,
        written=lambda y: f"{y:.3g}",
        x_limits=(points[0][0], points[-1][0]),
        x_written=lambda x: f"{2**x:.4g}",
    )
    assert found is not None
    key = [] if found.named else [(line.colour, line.label) for line in found.panel.lines]
    return sheet([found], found.text, key=key).rstrip("\n")


def _series(name: str, index: int, rows: Sequence[Mapping[str, Any]], across: str) -> Series:
    points = [(math.log2(row["case"][across]), row["time_ratio"]["estimate"]) for row in rows]
    band = [
        (x, row["time_ratio"]["low"], min(row["time_ratio"]["high"], 2 * y))
        for (x, y), row in zip(points, rows, strict=True)
    ]
    return Series(name, index, points, band)
