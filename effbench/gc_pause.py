"""What makes a process slow to start."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps the collector away while libraries are imported: what they make stays, and a look at it all, again and
    again, is a third of the time that importing torch takes.

    Where torch came in, what there is now is left out of later collections too (and not copied by forked processes).
    """
    had_torch, was_on = "torch" in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if "torch" in sys.modules and not had_torch:
            gc.freeze()
        if was_on:
            gc.enable()
