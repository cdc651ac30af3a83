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
EXIT_CODES = {number.name: 128 + number for number in ENDING}  # 128 + N is the shells' code for "ended by signal N"


class Interrupted(KeyboardInterrupt):
    """A signal arrived while there was no state to save. Its argument is the signal's name."""


def handled_signals() -> list[signal.Signals]:
    """Return the signals that end a run: not those that this process ignores (nohup) or has its own handler for.

    Ctrl-C and SIGTERM are always included: shells start background jobs of scripts with SIGINT ignored.
    """
    return [number for number in ENDING if number in KILLS_AT_SECOND or signal.getsignal(number) is signal.SIG_DFL]


class SignalHandler:
    """Calls the current action with the name of a received signal.

    Attributes:
        action: the current action. None while the run's record is written: the run ends afterwards anyway.
    """

    action: Callable[[str], None] | None = None

    @contextmanager
    def stopping(self, trainer: Trainer) -> Iterator[None]:
        """Let the first signal within the block ask the trainer to stop after the current step."""

        def stop(name: str) -> None:
            trainer.interrupted_by = trainer.interrupted_by or name

        self.action = stop
        try:
            yield
        finally:
            self.action = None

    @contextmanager
    def raising(self, trainer: Trainer | None = None) -> Iterator[None]:
        """Let the first signal within the block raise Interrupted, so that unfinished files are removed.

        trainer: a signal that it received after its last step raises Interrupted at once.
        """

        def interrupt(name: str) -> None:
            raise Interrupted(name)

        self.action = interrupt
        try:
            if trainer is not None and trainer.interrupted_by is not None:
                interrupt(trainer.interrupted_by)
            yield
        finally:
            self.action = None


@contextmanager
def signal_handler() -> Iterator[SignalHandler]:
    """Install a handler for `handled_signals`; restore the previous handlers at the end.

    Python allows handlers in the main thread only: in another thread no signal is handled here.
    """
    handler = SignalHandler()
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return

    def once(number: int, _frame: FrameType | None) -> None:
        # First replace the handler: a second signal may arrive while the action runs.
        signal.signal(number, old[number] if number in KILLS_AT_SECOND else signal.SIG_IGN)
        if handler.action is not None:
            handler.action(signal.Signals(number).name)

    old: dict[int, Any] = {number: signal.signal(number, once) for number in handled_signals()}
    try:
        yield handler
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
