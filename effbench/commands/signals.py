"""Ctrl-C and SIGTERM end a run after the step at hand, saved; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from effbench.training.trainer import Trainer

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}


@contextmanager
def stopping(trainer: Trainer) -> Iterator[None]:
    """Tells the trainer of the first SIGINT or SIGTERM; the default handling comes back with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        trainer.interrupted_by = signal.Signals(number).name
        signal.signal(number, old[signal.Signals(number)])

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
