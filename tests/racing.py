"""An arm that needs so much of a processor (tests/test_benchmarks.py)."""

from __future__ import annotations

import time

from benchmarks.turns import Turns

STARTUP_S = 0.25


def burn(turns: Turns, seconds: float) -> None:
    turns.report(STARTUP_S)
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass
    turns.lap()
