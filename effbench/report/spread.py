"""The format of numbers in all tables, and when seeds do not tell two rows apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effbench.metrics import Display, display_of, metric_of


def number_text(
    metric: str, value: float, spread: float | None = None, displays: Mapping[str, Display] | None = None
) -> str:
    """Write a value of a metric, such as '84.80 %' for an accuracy.

    Args:
        metric: column or name of the metric.
        value: its value.
        spread: standard deviation, shown after ±.
        displays: metric name -> display of the run.
    """
    display = (displays or {}).get(metric_of(metric)) or display_of(metric)
    return display.text(value, spread)


def seconds(value: float) -> str:
    """Write a duration: 12.3 s, 4.5 min, 6.7 h."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def within_spread(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a warning if the first two ranked rows differ by less than the deviation over seeds; else None."""
    # a rule of thumb, not a test: with few seeds a deviation is itself uncertain
    spreads = [row["value±"] for row in rows[:2] if row["value±"] is not None]
    if len(rows) < 2 or not spreads or abs(rows[0]["value"] - rows[1]["value"]) > max(spreads):
        return None
    return "The first two differ by less than one standard deviation: these seeds do not tell them apart."
