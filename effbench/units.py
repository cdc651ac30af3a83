"""Durations and sizes as people write them, converted to numbers."""

from __future__ import annotations

import math
import re

from effbench.errors import ConfigError, shown

SPEED = "_per_s"  # how a record's name for a throughput ends
_CLOCK_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# at most 12 digits: conversions of longer texts are slow or infinite
_SPAN = re.compile(r"(\d{1,12}(?:\.\d+)?)\s*(%|steps?|epochs?)")


def steps_from(span: int | str, key: str, total_steps: int, steps_per_epoch: int) -> int:
    """Convert a span of training to optimizer steps, rounded to the nearest.

    Args:
        span: an int (steps), '500 steps', '2 epochs', '5%' (of total_steps) or 'total'.
        key: config key for the message.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of an epoch.

    Raises:
        ConfigError: another text, or a negative number.
    """
    # bool is an int in Python: true is not one step
    if isinstance(span, int) and not isinstance(span, bool) and span >= 0:
        return span
    if span == "total":
        return total_steps
    match = _SPAN.fullmatch(span.strip()) if isinstance(span, str) else None
    if match is None:
        raise ConfigError(
            f"{key} must be a number of steps, or a span such as '5%', '2 epochs', '500 steps'; got {shown(span)}."
        )
    number, unit = float(match[1]), match[2]
    if unit == "%":
        if number > 100:
            raise ConfigError(f"{key} must be at most 100% of the run; got {shown(span)}.")
        return round(total_steps * number / 100)
    # 0.5 epochs are allowed
    return round(number * (steps_per_epoch if unit.startswith("epoch") else 1))


def seconds_from(duration: float | str, key: str) -> float:
    """Convert a duration to seconds: 90, '90s', '15m', '1.5h', or Lightning's 'DD:HH:MM:SS'.

    Raises:
        ConfigError: it is not a positive duration.
    """
    seconds = math.nan
    text = duration.strip() if isinstance(duration, str) else ""
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        seconds = float(duration)
    elif match := re.fullmatch(r"(\d{1,12}(?:\.\d+)?)\s*([smhd])", text):
        seconds = float(match[1]) * _CLOCK_SECONDS[match[2]]
    elif re.fullmatch(r"\d{1,12}:\d{2}:\d{2}:\d{2}", text):
        days, hours, minutes, rest = map(int, text.split(":"))
        seconds = float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
    if not 0 < seconds < math.inf:  # also for NaN
        raise ConfigError(
            f"{key} must be seconds, or such as '90s', '15m', '1.5h', '00:01:30:00'; got {shown(duration)}."
        )
    return seconds


def human_bytes(count: float) -> str:
    """Write a size such as 12.3 MB: decimal units, three significant figures."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        # 999.5 would be rounded to 1e+03
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def human_count(count: float) -> str:
    """Write a count such as 2.54M: decimal units, three significant figures."""
    for unit in ("", "k", "M", "G"):
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}T"


def percent(share: float, spread: float | None = None) -> str:
    """Write a fraction as 84.80 %, or 84.80 ± 0.52 % with a standard deviation, as all tables do."""
    return f"{100 * share:.2f} %" if spread is None else f"{100 * share:.2f} ± {100 * spread:.2f} %"


def human_span(seconds: float) -> str:
    """Write a time as it is said: 40 s, 25 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: 1 step, 1,200 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def throughput_key(unit: str) -> str:
    """Return the key under which the samples a second are recorded: images_per_s."""
    return f"{unit}s{SPEED}"


def seen_key(unit: str) -> str:
    """Return the key under which the samples that a run saw are recorded: images_seen."""
    return f"{unit}s_seen"


def speed_text(samples_per_s: float, unit: str) -> str:
    """Return the speed for a line of progress: '1345 img/s'."""
    return f"{samples_per_s:.0f} {'img' if unit == 'image' else f'{unit}s'}/s"


def article(noun: str) -> str:
    """Return the noun's article: 'a' or 'an'."""
    return "an" if noun[:1] in "aeiou" else "a"
