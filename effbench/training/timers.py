"""Timers: clocks that never overlap, so that they add up to the run's time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
NAMES = ("data", "forward_backward", "optimizer", "statistics", "evaluation", "checkpoint", "compile")


class Clock:
    """`with clock:` adds the seconds inside to `clock.seconds`."""

    __slots__ = ("_start", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._start


class Clocks:
    """One clock for each name in NAMES: seconds of this process on the host, while a GPU may still compute."""

    def __init__(self) -> None:
        self.data, self.forward_backward, self.optimizer = Clock(), Clock(), Clock()
        self.evaluation, self.checkpoint, self.compile = Clock(), Clock(), Clock()
        self.statistics = Clock()  # recomputing batch norm's statistics before a validation
        self._begun = time.perf_counter()  # of the process's training, not of the run

    def seconds(self) -> dict[str, float]:
        """Return seconds by clock, `other` for all else, and `total`."""
        by_name = {name: getattr(self, name).seconds for name in NAMES}
        total = time.perf_counter() - self._begun
        return {**by_name, "other": total - sum(by_name.values()), "total": total}

    @property
    def training(self) -> float:
        """Seconds of training: data, forward and backward, optimizer."""
        return self.data.seconds + self.forward_backward.seconds + self.optimizer.seconds

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and count the wait for each on the data clock."""
        iterator = iter(items)
        while True:
            with self.data:
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]  # outside of the clock: the consumer's time is not data time


_END = object()  # not None, which could be an item
