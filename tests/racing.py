"""An arm that needs so much of a processor (tests/test_benchmarks.py)."""

from __future__ import annotations

import time

from benchmarks.gate import Gate

STARTUP_S = 0.25


def burn(gate: Gate, seconds: float) -> None:
    gate.report(STARTUP_S)
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass
    gate.lap()
