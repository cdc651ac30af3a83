"""Time limits of tests, which grow with the machine's load: a busy machine is no fault of the code."""

from __future__ import annotations

import os

from effbench.processors import cores


def patience(seconds: float) -> float:
    """Return the limit, in seconds, for what takes at most `seconds` on an idle machine."""
    # the load counts processes that run or wait for a processor: with twice as many as cores each gets half of one
    return seconds * max(1.0, os.getloadavg()[0] / cores())
