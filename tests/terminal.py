"""effbench on a terminal of its own (a pty), as a person sits at it: what it writes is read, keys are typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.patience import patience

CTRL_C = b"\x03"
LONGEST_S = 60.0  # far more than any wait takes on an idle machine
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """`effbench WORDS` as the foreground job of a new terminal.

    Args:
        words: of the command.
        cwd: where it is run.
        columns: of the terminal, which has 24 lines.

    Attributes:
        process: of the command.
        raw: what it has written to stdout and stderr.
    """

    def __init__(self, words: Sequence[str], cwd: Path, columns: int = 120):
        self._screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *words],
            cwd=cwd, stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
            env={**environment, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(inside)
        self.raw = b""

    @property
    def text(self) -> str:
        """What was written, without the sequences that move the cursor and colour."""
        return _CONTROLS.sub("", self.raw.decode(errors="replace")).replace("\r\n", "\n")

    def wait_for(self, text: str) -> None:
        """Read until the text was written. Raises AssertionError if the process ends before."""
        deadline = time.monotonic() + patience(LONGEST_S)
        while text not in self.text:
            more = self._read()
            assert more or text in self.text, f"never wrote {text!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"has not written {text!r} yet:\n{self.text}"

    def type(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def ended(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + patience(LONGEST_S)
        while self._read():
            assert time.monotonic() < deadline, self.text
        return self.process.wait(patience(LONGEST_S))

    def _read(self) -> bool:
        """Read what there is, for a second at most; False at the end."""
        if not select.select([self._screen], [], [], 1.0)[0]:
            return True
        try:
            found = os.read(self._screen, 65536)
        except OSError:  # EIO: the last process of the terminal has closed it
            return False
        self.raw += found
        return bool(found)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._screen)


# Ctrl-C reaches a terminal's foreground group only if a session has the terminal, which the first process takes.
_BEGIN = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from effbench.cli import main; sys.exit(main(sys.argv[1:]))"
)
