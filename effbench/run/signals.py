"""Signals that end a run: after the current step, with its state saved; during the test at once.

A second Ctrl-C or SIGTERM kills the process. SIGHUP (closed terminal; often sent twice), SIGUSR1 and SIGUSR2 (the
warnings of batch systems) can repeat without further effect.
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
    """A signal arrived while there was no state to save. Its argument is the signal's name."""


def heeded() -> list[signal.Signals]:
    """Return the signals that end a run: not those that this process ignores (nohup) or has its own handler for.

    Ctrl-C and SIGTERM are always included: shells start background jobs of scripts with SIGINT ignored.
    """
    return [number for number in ENDING if number in KILLS_AT_SECOND or signal.getsignal(number) is signal.SIG_DFL]


class Ears:
    """Passes a received signal to whatever handles it at the moment."""

    def __init__(self) -> None:
        self._told: Callable[[str], None] | None = None

    @contextmanager
    def stopping(self, trainer: Trainer) -> Iterator[None]:
        """Within it, the first signal asks the trainer to stop."""

        def ask(name: str) -> None:
            trainer.interrupted_by = trainer.interrupted_by or name

        with self._telling(ask):
            yield

    @contextmanager
    def leaving(self, trainer: Trainer) -> Iterator[None]:
        """Within it, the first signal raises Interrupted; so does one that arrived after training had ended."""

        def leave(name: str) -> None:
            raise Interrupted(name)

        with self._telling(leave):
            if trainer.interrupted_by is not None:
                raise Interrupted(trainer.interrupted_by)
            yield

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Within it, the first signal raises Interrupted, so that unfinished files are removed."""

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
        """Handle a signal. If nothing handles it, the run's record is being written and the run ends anyway."""
        if self._told is not None:
            self._told(name)


@contextmanager
def listening() -> Iterator[Ears]:
    """Install handlers for the signals of `heeded`, in the main thread only; restore the previous ones at the end."""
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
