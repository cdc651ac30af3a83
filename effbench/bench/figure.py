"""The figure of a measurement: latency a sample by batch size, a line a backend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from effbench.report.figures import Figure, Series, figure
from effbench.report.sheets import sheet
from effbench.units import article


def latency_figure(record: Mapping[str, Any]) -> Figure | None:
    """Return the mean time of a sample by batch size, both by powers; None if only one batch size was measured."""
    series = []
    for index, arm in enumerate(record["arms"]):
        points, band = [], []
        for size, found in (arm.get("batches") or {}).items():
            mean, x = found["latency_s"]["mean"], math.log2(int(size))
            each = [1000 * mean[end] / int(size) for end in ("estimate", "low", "high")]
            points.append((x, math.log10(each[0])))
            # an interval of two rounds may span powers of ten, beside which no difference would be seen
            band.append((x, math.log10(max(each[1], each[0] / 2)), math.log10(min(each[2] or math.inf, 2 * each[0]))))
        series.append(Series(arm["backend"], index, points, band))
    sizes = sorted({x for each in series for x, _ in each.points})
    if len(sizes) < 2:
        return None
    return figure(
        f"ms {article(record['unit'])} {record['unit']}, by powers of ten",
        "batch size",
        series,
        written=lambda y: f"{10**y:.3g}",
        x_limits=(sizes[0], sizes[-1]),
        x_written=lambda x: f"{2**x:.3g}",
    )


def latency_sheet(record: Mapping[str, Any]) -> str | None:
    """Return the figure as an SVG file."""
    found = latency_figure(record)
    if found is None:
        return None
    key = [] if found.named else [(line.colour, line.label) for line in found.panel.lines]
    what = f"Time of {article(record['unit'])} {record['unit']} of {record['model']['name']} by batch size"
    text = f"{what}, {record['options']['threads']} thread(s). {found.text}"
    return sheet([found], text, key=key).rstrip("\n")
