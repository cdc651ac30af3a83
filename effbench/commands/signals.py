"""Ctrl-C and SIGTERM end a run after the step at hand, saved; a second one, or one in its test, ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from effbench.training.trainer import Trainer

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}


class Interrupted(KeyboardInterrupt):
    """The run was asked to end where there is nothing to save. Its argument: the signal's name."""


@contextmanager
def stopping(trainer: Trainer) -> Iterator[None]:
    """Tells the trainer of the first SIGINT or SIGTERM; the default handling comes back with it."""

    def ask(name: str) -> None:
        trainer.interrupted_by = name

    with _heard_once(ask):
        yield


@contextmanager
def leaving(trainer: Trainer) -> Iterator[None]:
    """Raises Interrupted at the first SIGINT or SIGTERM, also at one that came when the training was over already."""

    def leave(name: str) -> None:
        raise Interrupted(name)

    with _heard_once(leave):
        if trainer.interrupted_by is not None:
            raise Interrupted(trainer.interrupted_by)
        yield


@contextmanager
def _heard_once(hear: Callable[[str], None]) -> Iterator[None]:
    """Calls hear(name) at the first of each signal, where this thread gets them; a second does as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def once(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, old[number])
        hear(signal.Signals(number).name)

    old: dict[int, Any] = {number: signal.signal(number, once) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
