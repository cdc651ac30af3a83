"""Ctrl-C and SIGTERM end a run after the step at hand, saved; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from effbench.training.state import TrainState

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}


@contextmanager
def stopping(state: TrainState) -> Iterator[None]:
    """Turns the first SIGINT or SIGTERM into state.stop; the default handling comes back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        state.stop(signal.Signals(number).name, "interrupted")
        signal.signal(number, old[signal.Signals(number)])

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
