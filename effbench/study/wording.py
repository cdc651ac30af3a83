"""How the sentences and tables of a study write differences, p values, shares and lists of names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from effbench.metrics import Display
from effbench.stats import Interval


def difference_unit(display: Display) -> tuple[float, str]:
    """Return by what a difference of the metric is multiplied, and the unit behind it: (100, ' pt') for a fraction."""
    # 'pt', not '%': a difference of two percentages could be read as a ratio
    return (100.0, " pt") if display.as_percent else (1.0, f" {display.unit}".rstrip())


def interval_text(interval: Interval, display: Display) -> str:
    """Write a difference with its interval: '+1.2 pt [0.4, 2.0]'.

    Args:
        interval: of the difference.
        display: of the metric.
    """
    scale, unit = difference_unit(display)
    shown = interval.times(scale)
    digits = _digits(shown, display)
    return f"{shown.estimate:+.{digits}f}{unit} [{shown.low:.{digits}f}, {shown.high:.{digits}f}]"


def difference_text(size: float, display: Display) -> str:
    """Write about how large a difference is: '0.5 pt', or '0.012 nats'."""
    scale, unit = difference_unit(display)
    # through .2g: it is a guess, of which more digits would say nothing; .15g writes 1,200 and not 1.2e+03
    return f"{float(f'{scale * size:.2g}'):,.15g}{unit}"


def p_text(p: float) -> str:
    """Write a p value: 'p = 0.01', 'p = 0.0078', 'p < 0.001'."""
    # below, the digits depend on the number of sign patterns tried, not on the data
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def listed(names: Sequence[str]) -> str:
    """Write names as a sentence does: 'a', 'a and b', 'a, b and c'."""
    return " and ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])


def _digits(interval: Interval, display: Display) -> int:
    """Return decimals that show the interval's width with two digits, and never fewer than the metric has."""
    least = 1 if display.as_percent else display.digits
    width = interval.high - interval.low
    # the interval of one seed is infinite, that of equal differences has no width
    if not (0 < width < math.inf):
        return 2 if display.as_percent else least
    # more than 6 would be noise of the sums, and an accuracy over 2,000 samples has steps of 0.05 pt
    return max(least, min(6, 1 - math.floor(math.log10(width))))


def share_text(value: float) -> str:
    """Write a share of resampled tunings: '98.3%'."""
    # random points may need 99.96%, which must not be written as 100%
    return f"{100 * value:.{3 if value < 0.995 else 4}g}%"
