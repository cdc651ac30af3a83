"""Standard output and error streams that survive a closed reader, a full disk or a closed descriptor.

Results go to stdout, log lines to stderr. A lost log line never ends a run. A result that could not be written makes
the exit code 1, because the caller needs it.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import logging
import os
import re
import select
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

log = logging.getLogger(__name__)

_ERRORS = "effbench.plain"  # name of `_replace_unencodable` in the codecs registry
_PLAIN = {"×": "x", "±": "+/-", "…": "...", "→": "->", "–": "-", "—": "-", "≥": ">=", "≤": "<=", "µ": "u", "█": "#"}
_KEPT = "\N{NO-BREAK SPACE}"  # textwrap breaks no line at it
_COMMAND = re.compile(r"\b(effbench|python3?|pip) [\w-]")
_WAIT_S = 1.0  # to wait for a reader of a non-blocking pipe


class _Channel(io.FileIO):
    """A descriptor whose write never fails. lost: the first error of a write."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None

    def write(self, content: Any) -> int:
        # a write to a pipe may take only a part
        left = memoryview(content).cast("B")
        size = len(left)
        while left:
            try:
                left = left[os.write(self.fileno(), left) :]
            except BlockingIOError as error:
                # a slow reader of a non-blocking pipe: wait for it, but not for ever
                if not select.select([], [self.fileno()], [], _WAIT_S)[1]:
                    # the first error tells why; later ones follow from it
                    self.lost = self.lost or error
                    break
            except OSError as error:
                self.lost = self.lost or error
                break
        return size


def guard() -> None:
    """Replace sys.stdout and sys.stderr by streams that never raise.

    Characters that their encoding lacks are written in ASCII. Streams that someone else installed (a notebook, a test)
    are not changed.
    """
    # closed descriptors are opened: else the next file would get the number and receive printed text
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        # not twice: `guard` may be called again by a notebook or a test
        if stream is None or (stream is getattr(sys, f"__{name}__") and _channel(stream) is None):
            setattr(sys, name, _guarded(stream, descriptor))


@contextmanager
def guarded() -> Iterator[None]:
    """Apply `guard` for the duration of the block."""
    before = sys.stdout, sys.stderr
    guard()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def final_exit_code(code: int) -> int:
    """Flush stdout and return the exit code: 1 instead of 0 if a result could not be written.

    A closed pipe is no failure: its reader has what it wanted (`| head -1`).
    """
    with suppress(OSError, ValueError):
        # what is in the buffer counts, too
        sys.stdout.flush()
    channel = _channel(sys.stdout)
    lost = channel.lost if channel else None
    if lost is None or lost.errno == errno.EPIPE:
        return code
    log.error(f"the result could not be written to stdout ({lost.strerror}).")
    return code or 1


def writes_unicode() -> bool:
    """Return True if stdout can write every character; otherwise JSON must be escaped."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def encodable(text: str, stream: TextIO) -> str:
    """Return the text with ASCII for characters that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    return text.encode(encoding, _ERRORS).decode(encoding)


def for_width(text: str, stream: TextIO) -> str:
    """Return the text with its lines broken between words, as a terminal would break them within; unchanged elsewhere.

    A line of fields, which two spaces separate, is broken between fields alone. A number stays with its unit, and a
    path in one piece. What continues a line is indented. A line with a command stays whole: it is made to be copied.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        line if len(line) <= width or _COMMAND.search(line) else _broken(line, width) for line in text.split("\n")
    )


def _broken(line: str, width: int) -> str:
    fields = re.split(r"(?<=\S)  +(?=\S)", line)
    if len(fields) > 1 and max(map(len, fields)) <= width - 2:
        line = "  ".join(field.replace(" ", _KEPT) for field in fields)
    line = re.sub(r"(?<=\d) (?=%|[a-zA-Zµ]{1,2}\b)", _KEPT, line)
    pieces = textwrap.wrap(
        line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    return "\n".join(pieces).replace(_KEPT, " ")


def _guarded(stream: TextIO | None, descriptor: int) -> TextIO:
    channel, encoding, through = _Channel(descriptor), "utf-8", True
    if stream is not None:  # None: it was closed when Python started
        with suppress(OSError, ValueError):
            stream.flush()
        encoding, through = stream.encoding, getattr(stream, "write_through", False)  # set by PYTHONUNBUFFERED
    # PYTHONUNBUFFERED: every print is written at once
    buffer: Any = channel if through else io.BufferedWriter(channel)
    # log lines appear at once; stdout as Python had set it up
    by_lines = descriptor == 2 or getattr(stream, "line_buffering", True)
    return io.TextIOWrapper(buffer, encoding, _ERRORS, line_buffering=by_lines, write_through=through)


def _channel(stream: Any) -> _Channel | None:
    """Return the channel of a guarded stream, or None."""
    buffer = getattr(stream, "buffer", None)
    return next((raw for raw in (buffer, getattr(buffer, "raw", None)) if isinstance(raw, _Channel)), None)


def _replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Replace characters that cannot be encoded by ASCII of the same meaning, else by \u00e9 as in JSON.

    Bytes of a file name that are not text in the file system's encoding stay unchanged.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    with suppress(UnicodeEncodeError):
        # Linux file names are bytes: those that are not text must stay usable
        return text.encode("ascii", "surrogateescape"), error.end
    return "".join(_PLAIN.get(letter) or json.dumps(letter)[1:-1] for letter in text), error.end


codecs.register_error(_ERRORS, _replace_unencodable)
