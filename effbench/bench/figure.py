"""The figure of a measurement as an SVG file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effbench.report.deployment import latency_figure
from effbench.report.sheets import sheet
from effbench.units import article, counted


def latency_sheet(record: Mapping[str, Any]) -> str | None:
    """Return the figure as an SVG file."""
    found = latency_figure(record)
    if found is None:
        return None
    key = [] if found.named else [(line.colour, line.label) for line in found.panel.lines]
    what = f"Time of {article(record['unit'])} {record['unit']} of {record['model']['name']} by batch size"
    text = f"{what}, {counted(record['options']['threads'], 'thread')}. {found.text}"
    return sheet([found], text, key=key).rstrip("\n")
