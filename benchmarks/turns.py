"""One arm of a comparison, in a process of its own: python -m benchmarks.turns module:function '{"option": …}'

The function gets a Turns object and calls `turns.lap()` once when it is warm and then after each slice of its work; in
between the coordinator (alternate.py) keeps the whole process stopped, so that arms take turns within seconds of one
another.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from typing import Any


class Over(BaseException):
    """The coordinator has seen enough."""


class Turns:
    """Talks to the coordinator over the process's first stdin and stdout; prints of the arm go to stderr."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._since = 0.0

    def lap(self, value: float | None = None) -> None:
        """Reports `value`, or the seconds since the last lap was let go, and waits for the next turn."""
        self.report(time.perf_counter() - self._since if value is None else value)

    def report(self, value: Any) -> None:
        self._replies.write(json.dumps(value) + "\n")
        self._replies.flush()
        if sys.stdin.readline().strip() != "go":
            raise Over
        self._since = time.perf_counter()


def main() -> None:
    place, options = sys.argv[1:]
    _end_with_coordinator()
    turns = Turns()
    module, name = place.split(":")
    try:
        getattr(importlib.import_module(module), name)(turns, **json.loads(options))
    except Over:
        sys.stderr.flush()
        os._exit(0)  # whatever else it has running: nothing of it is to be kept
    raise SystemExit(f"{place} ended before the coordinator did")


def _end_with_coordinator() -> None:
    """A stopped process cannot see that its coordinator was killed, and would keep its memory."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
