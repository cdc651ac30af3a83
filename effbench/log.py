"""The logger `effbench`: log lines go to stderr; results go to stdout by print.

Modules use `logging.getLogger(__name__)`. By default, INFO lines are plain text on sys.stderr; warnings and errors
begin with "warning: " and "error: ", and lines of ranks other than 0 with "[rank N] ".

A program can configure `logging.getLogger("effbench")`: its level and further handlers are respected. With `propagate =
True`, or a handler for stderr or stdout, this module writes nothing, so that no line appears twice. A logger that has
handlers when effbench is imported is not changed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from effbench.console import encodable, for_width
from effbench.escaping import for_terminal

LOGGER = logging.getLogger("effbench")
PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "error: ", logging.CRITICAL: "error: "}


class NarrationFormatter(logging.Formatter):
    """Format: [rank N] LOGGER: warning: TEXT. Rank 0 is not shown, the logger's name only with DEBUG lines."""

    def format(self, record: logging.LogRecord) -> str:
        # torchrun sets RANK
        rank = os.environ.get("RANK", "0")
        name = f"{record.name}: " if LOGGER.isEnabledFor(logging.DEBUG) else ""
        prefix = PREFIXES.get(record.levelno, "")
        return for_terminal(f"{'' if rank == '0' else f'[rank {rank}] '}{name}{prefix}{super().format(record)}")


class NarrationHandler(logging.Handler):
    """Writes to the current sys.stderr. A line that cannot be written is lost; it never ends a run.

    Attributes:
        print_above: writes a line above a progress bar, while one is shown.
    """

    print_above: Callable[[str], object] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        # a program's own handler on the console shows the line already
        consoles = [stream for stream in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__) if stream is not None]
        others = [getattr(handler, "stream", None) for handler in LOGGER.handlers if handler is not self]
        if LOGGER.propagate or any(other is stream for other in others for stream in consoles):
            return
        # a full disk or a closed terminal must not end a run
        with suppress(Exception):
            line, stream = self.format(record), sys.stderr
            if stream is not None:
                line = for_width(line, stream)
            if self.print_above is not None:
                self.print_above(line)
            elif stream is not None:
                try:
                    stream.write(line + "\n")
                except UnicodeEncodeError:
                    stream.write(encodable(line, stream) + "\n")
                stream.flush()


_HANDLER = NarrationHandler()
_HANDLER.setFormatter(NarrationFormatter())


def install() -> None:
    """Show log lines on stderr, unless the program has given the logger handlers."""
    # a program that configured the logger before importing effbench wants its own output
    if LOGGER.handlers:
        return
    LOGGER.addHandler(_HANDLER)
    LOGGER.propagate = False  # else a program's root handler would show each line twice
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)


@contextmanager
def at_level(level: int | None, logger: logging.Logger = LOGGER) -> Iterator[None]:
    """Show a logger's lines of this level and above during the block; None: the configured level."""
    before = logger.level
    if level is not None:
        logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def without_torchao_notes() -> AbstractContextManager[None]:
    """Hide what an import of torchao makes torch print: notes on torchao's own classes, which no user can act on."""
    return at_level(logging.ERROR, logging.getLogger("torch.utils._pytree"))


def print_above_bar(write: Callable[[str], object] | None) -> None:
    """Write lines with `write`, above a progress bar; None: to stderr again."""
    _HANDLER.print_above = write
