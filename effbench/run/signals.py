"""Signals that end a run after the step at hand, with its state saved; one that comes in its test ends it at once.

A second Ctrl-C or SIGTERM kills. SIGHUP (a closed terminal, which often sends it twice), SIGUSR1 and SIGUSR2 (what a
batch system warns with before it kills) never do more than the first of them did.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effbench.training.trainer import Trainer

KILLS_AT_SECOND = (signal.SIGINT, signal.SIGTERM)
ENDING = (*KILLS_AT_SECOND, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
EXIT_CODES = {number.name: 128 + number for number in ENDING}


class Interrupted(KeyboardInterrupt):
    """The run was asked to end where there is nothing to save. Its argument: the signal's name."""


def heeded() -> list[signal.Signals]:
    """The signals that end a run here: not those that this process was told to ignore (nohup) or handles itself.

    Ctrl-C and SIGTERM are always heeded: shells start each background job of a script with SIGINT ignored.
    """
    return [number for number in ENDING if number in KILLS_AT_SECOND or signal.getsignal(number) is signal.SIG_DFL]


class Ears:
    """What was heard, and who is told of it."""

    def __init__(self) -> None:
        self._told: Callable[[str], None] | None = None

    @contextmanager
    def stopping(self, trainer: Trainer) -> Iterator[None]:
        """Tells the trainer of the first signal."""

        def ask(name: str) -> None:
            trainer.interrupted_by = trainer.interrupted_by or name

        with self._telling(ask):
            yield

    @contextmanager
    def leaving(self, trainer: Trainer) -> Iterator[None]:
        """Raises Interrupted at the first signal, also at one that came when the training was over already."""

        def leave(name: str) -> None:
            raise Interrupted(name)

        with self._telling(leave):
            if trainer.interrupted_by is not None:
                raise Interrupted(trainer.interrupted_by)
            yield

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raises Interrupted at the first signal, so that what is half done is removed on the way out."""

        def leave(name: str) -> None:
            raise Interrupted(name)

        with self._telling(leave):
            yield

    @contextmanager
    def _telling(self, told: Callable[[str], None]) -> Iterator[None]:
        self._told = told
        try:
            yield
        finally:
            self._told = None

    def hear(self, name: str) -> None:
        """While nobody is told, the record of the run is being written, which is its end anyway."""
        if self._told is not None:
            self._told(name)


@contextmanager
def listening() -> Iterator[Ears]:
    """Hears the signals that are heeded, where this thread gets them; the handlers of before come back at the end."""
    ears = Ears()
    if threading.current_thread() is not threading.main_thread():
        yield ears
        return

    def once(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, old[number] if number in KILLS_AT_SECOND else signal.SIG_IGN)
        ears.hear(signal.Signals(number).name)

    old: dict[int, Any] = {number: signal.signal(number, once) for number in heeded()}
    try:
        yield ears
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
