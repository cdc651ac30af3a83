"""A trade-off of several runs as a table and figures, for terminals and pages, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from effbench.escaping import csv_cell
from effbench.redaction import redact
from effbench.report.deployment import three
from effbench.report.figures import COLOURS, Figure
from effbench.report.fronts import front_figure
from effbench.report.measured import LIBRARIES
from effbench.report.sheets import sheet
from effbench.report.trade_off import LATENCY, SIZE, Row, TradeOff, sentences
from effbench.stats import Interval
from effbench.units import counted, human_bytes

_MOST_LETTERS = 22  # of a name in a figure; of longer ones the number of the row is written
_MOST_DRAWN = 24  # runs in a figure, from the top of the table: more could not be told apart


def table_of(found: TradeOff, anchors: Mapping[int, int | None]) -> dict[str, Any]:
    """Return a trade-off as the page and the terminal show it.

    Args:
        found: the trade-off.
        anchors: number of a run that has a section of its own -> its colour.
    """
    several = len(found.machines) > 1
    name = f"{found.split} {found.display.title or found.metric}"
    # on a narrow terminal the last columns of this order stay: run, metric, latency, size, place on the fronts
    columns = [
        ("#", "n", 6), ("run", "run", 0), (name.replace(" ", "\n", 1), "n", 0), ("95 %", "n", 4), ("backend", "t", 3),
        *([("on", "n", 0)] if several else []),
        ("p50, batch 1", "n", 0), ("95 %", "n", 5), ("file", "n", 0), ("unbeaten in", "t", 0),
    ]  # fmt: skip
    colours = _colours(found, anchors)
    rows = []
    for number, row in enumerate(found.rows, start=1):
        own = row.run.number
        drawn = {"anchor": own if own in anchors else None, "colour": colours[row.run.name]}
        rows.append({"cells": _cells(found, row, number, several), **drawn})
    runs, drawings = len(found.qualities), figures_of(found, colours)
    return {
        "heading": f"Deployment: {found.data}, {found.split} {found.metric} against latency and size",
        "lead": f"{counted(runs, 'run')} with the fastest backend that keeps the accuracy, batch 1.",
        "heads": [head for head, _, _ in columns],
        "kinds": [kind for _, kind, _ in columns],
        "drop_orders": [order for _, _, order in columns],
        "rows": rows,
        "notes": sentences(found),
        "figures": [asdict(each) for each in drawings],
        "legend": [],
        "drawn": f"Drawn: the first {_MOST_DRAWN} rows." if drawings and len(found.rows) > _MOST_DRAWN else "",
    }


def _cells(found: TradeOff, row: Row, number: int, several: bool) -> list[str]:
    unbeaten = [
        each.cost for each in found.fronts if row.run.name in each.joined and each.machine in (None, row.machine)
    ]
    p50 = row.p50.times(1000)
    return [
        str(number),
        row.run.name,
        found.display.text(row.quality.estimate),
        _ends(row.quality, lambda value: found.display.text(value).removesuffix(" %")),
        row.found.backend,
        *([str(row.machine)] if several else []),
        f"{three(p50.estimate)} ms",
        _ends(p50, three),
        human_bytes(row.found.bytes),
        ", ".join(unbeaten),
    ]


def _ends(interval: Interval, written: Any) -> str:
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    return f"{written(interval.low)} to {written(interval.high)}"


def _colours(found: TradeOff, anchors: Mapping[int, int | None]) -> dict[str, int]:
    """Return name of a run -> its colour: that of its curves, if no other run has taken it."""
    colours: dict[str, int] = {}
    for row in found.rows:
        if row.run.name in colours:
            continue
        free = [colour for colour in range(COLOURS) if colour not in colours.values()] or list(range(COLOURS))
        own = anchors.get(row.run.number)
        # runs of two rankings may have one colour: here they stand side by side
        colours[row.run.name] = own if own is not None and own in free else free[len(colours) % len(free)]
    return colours


def figures_of(found: TradeOff, colours: Mapping[str, int] | None = None, head: str = "") -> list[Figure]:
    """Return the metric against latency, on each machine, and against size; the runs that no other beats are joined.

    Args:
        found: the trade-off.
        colours: name of a run -> its colour; None: by the order of the rows.
        head: what the titles begin with.
    """
    colours = colours or _colours(found, {})
    names = {name: (colours[name], short) for name, short in _short_names(found).items()}
    display = found.display
    axis = f"{head}{found.split} {display.axis or found.metric}"
    quality = (lambda value: f"{100 * value:.4g}%") if display.as_percent else "{:.4g}".format
    drawn = []
    for each in found.fronts:
        points = [point for point in each.points if point.arm in names]
        machine = f", machine {each.machine}" if each.machine and len(found.machines) > 1 else ""
        across = f"p50 of one sample{machine}" if each.cost == LATENCY else "size of the file"
        texts = (_milliseconds if each.cost == LATENCY else human_bytes, quality, display.text)
        joined = [name for name in each.joined if name in names]
        title = f"{axis} against {each.cost}{machine}"
        drawn.append(front_figure(title, across, points, found.qualities, names, texts, joined))
    return [each for each in drawn if each is not None]


def _short_names(found: TradeOff) -> dict[str, str]:
    """Return name of a run -> how a figure calls it, of the runs that are drawn."""
    rows = found.rows[:_MOST_DRAWN]
    numbers = {row.run.name: number for number, row in reversed(list(enumerate(rows, start=1)))}
    ends = Counter(name.rpartition("/")[2] for name in numbers)
    short = {name: end if ends[end := name.rpartition("/")[2]] == 1 else name for name in numbers}
    return {name: end if len(end) <= _MOST_LETTERS else f"#{numbers[name]}" for name, end in short.items()}


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def trade_off_sheet(found: Sequence[TradeOff]) -> str | None:
    """Return the figures of all trade-offs as one SVG file; None if there are none."""
    drawn = [each for one in found for each in figures_of(one, head=f"{one.data}: " if len(found) > 1 else "")]
    texts = [text for one in found for text in sentences(one)]
    return sheet(drawn, " ".join(texts), across=2) if drawn else None


def as_rows(found: TradeOff) -> list[dict[str, Any]]:
    """Return one flat row a run and machine, for CSV and JSON."""
    places = {(each.cost, each.machine): {point.arm: point for point in each.points} for each in found.fronts}
    joined = {(each.cost, each.machine): each.joined for each in found.fronts}
    rows = []
    for row in found.rows:
        name, quality, p50 = row.run.name, row.quality, row.found.p50
        flat: dict[str, Any] = {
            "data": found.data, "metric": found.metric, "split": found.split, "run": name,
            "value": quality.estimate, **_finite("value", quality), "samples": quality.n,
            "backend": row.found.backend, "p50_s": p50.estimate, **_finite("p50_s", p50), "margin": row.found.margin,
            "bytes": row.found.bytes, "measured_by": row.found.verb, "machine": row.machine,
            **dict(row.found.machine.place),
            **{library: row.found.machine.versions.get(library) for library in LIBRARIES},
        }  # fmt: skip
        for cost in (LATENCY, SIZE):
            key = (cost, row.machine if cost == LATENCY else None)
            point = places.get(key, {}).get(name)
            # a run that is alone on its machine is compared with none
            flat |= {
                f"{cost}_unbeaten": name in joined[key] if point else None,
                f"{cost}_status": point.status if point else None,
            }
        rows.append(flat)
    return rows


def _finite(name: str, interval: Interval) -> dict[str, float | None]:
    ends = {"low": interval.low, "high": interval.high}
    return {f"{name}_{end}": value if math.isfinite(value) else None for end, value in ends.items()}


def as_data(found: TradeOff) -> dict[str, Any]:
    """Return a trade-off as values for programs."""
    machines = [str(machine) for machine in found.machines]
    return {"data": found.data, "metric": found.metric, "split": found.split, "machines": machines,
            "rows": as_rows(found), "sentences": sentences(found)}  # fmt: skip


def trade_off_csv(found: Sequence[TradeOff]) -> str:
    """Return all rows as CSV, without secrets."""
    rows = redact([row for each in found for row in as_rows(each)])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else csv_cell(value)
