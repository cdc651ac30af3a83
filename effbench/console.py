"""Standard output and standard error that may go away: a reader that left, a full disk, a closed descriptor.

Results go to stdout, narration to stderr. Losing narration never ends a run. A result that could not be written
makes the exit code 1, because the caller was promised it.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

log = logging.getLogger(__name__)

_ERRORS = "effbench.plain"  # the name under which `_in_plain_words` is known to the codecs
_PLAIN = {"×": "x", "±": "+/-", "…": "...", "→": "->", "–": "-", "—": "-", "≥": ">=", "≤": "<=", "µ": "u", "█": "#"}
_WAIT_S = 1.0  # for a reader of a non-blocking pipe


class _Channel(io.FileIO):
    """A descriptor whose write never fails. lost: the first error that a write met."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        while left:
            try:
                left = left[os.write(self.fileno(), left) :]
            except BlockingIOError as error:
                if not select.select([], [self.fileno()], [], _WAIT_S)[1]:
                    self.lost = self.lost or error
                    break
            except OSError as error:
                self.lost = self.lost or error
                break
        return size


def guard() -> None:
    """Makes sys.stdout and sys.stderr streams that never raise, where they are the process's own.

    Characters that their encoding lacks are written in ASCII. Streams that someone else has put there (a notebook,
    a test) are left as they are.
    """
    _open_closed_descriptors()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and _channel(stream) is None):
            setattr(sys, name, _guarded(stream, descriptor))


@contextmanager
def guarded() -> Iterator[None]:
    """`guard` for as long as the block runs."""
    before = sys.stdout, sys.stderr
    guard()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def settled(code: int) -> int:
    """The exit code, after stdout is flushed: 1 instead of 0 where a result could not be written.

    A reader that left has what it wanted (`| head -1`): that is no failure.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    channel = _channel(sys.stdout)
    lost = channel.lost if channel else None
    if lost is None or lost.errno == errno.EPIPE:
        return code
    log.error(f"the result could not be written to stdout ({lost.strerror}).")
    return code or 1


def writes_unicode() -> bool:
    """Whether stdout takes every character; JSON is escaped where it does not, so that nothing is replaced."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def encodable(text: str, stream: TextIO) -> str:
    """The text with ASCII for the characters that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    return text.encode(encoding, _ERRORS).decode(encoding)


def _open_closed_descriptors() -> None:
    """A closed 0, 1 or 2 would be the next file's number, and what a library prints would go into that file."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


def _guarded(stream: TextIO | None, descriptor: int) -> TextIO:
    channel, encoding, through = _Channel(descriptor), "utf-8", True
    if stream is not None:  # else it was closed when Python started
        with suppress(OSError, ValueError):
            stream.flush()
        encoding, through = stream.encoding, getattr(stream, "write_through", False)  # PYTHONUNBUFFERED asks for it
    buffer: Any = channel if through else io.BufferedWriter(channel)
    by_lines = descriptor == 2 or getattr(stream, "line_buffering", True)
    return io.TextIOWrapper(buffer, encoding, _ERRORS, line_buffering=by_lines, write_through=through)


def _channel(stream: Any) -> _Channel | None:
    """What a guarded stream writes through."""
    buffer = getattr(stream, "buffer", None)
    return next((raw for raw in (buffer, getattr(buffer, "raw", None)) if isinstance(raw, _Channel)), None)


def _in_plain_words(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""What stands for characters that cannot be encoded: ASCII of the same meaning, else \u00e9 as JSON has it.

    Bytes of a file's name that are no text in the file system's encoding stay those bytes.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    with suppress(UnicodeEncodeError):
        return text.encode("ascii", "surrogateescape"), error.end
    return "".join(_PLAIN.get(letter) or json.dumps(letter)[1:-1] for letter in text), error.end


codecs.register_error(_ERRORS, _in_plain_words)
