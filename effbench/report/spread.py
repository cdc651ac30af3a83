"""Seeds of one config as mean ± deviation, and numbers as every table writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum, sqrt
from typing import Any

from effbench.metrics import Display, display_of


def mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values) if len(values) > 1 else values[0]


def deviation(values: Sequence[float]) -> float:
    """The sample's (n - 1). `statistics` reckons in fractions, too slow for thousands of groups."""
    middle = mean(values)
    return sqrt(fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def number_text(
    metric: str, value: float, spread: float | None = None, displays: Mapping[str, Display] | None = None
) -> str:
    """'84.80 %' of 'val/acc': as the metric reads; with ± `spread` where there is one. displays: of the run's own."""
    display = (displays or {}).get(metric.rpartition("/")[2]) or display_of(metric)
    return display.text(value, spread)


def seconds(value: float) -> str:
    """12.3 s, 4.5 min, 6.7 h."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def within_spread(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning where the first two of the ranked rows are closer than the seeds of either; None where they are not."""
    spreads = [row["value±"] for row in rows[:2] if row["value±"] is not None]
    if len(rows) < 2 or not spreads or abs(rows[0]["value"] - rows[1]["value"]) > max(spreads):
        return None
    return "The first two lie within one standard deviation of each other: these seeds do not tell them apart."
