"""Timers: clocks that never overlap, so that they add up to the run's time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class Clock:
    """`with clock:` adds the seconds inside to `clock.seconds`."""

    seconds: float = 0.0
    _start: float = field(default=0.0, init=False)

    def __enter__(self) -> None:
        # perf_counter never goes back, as the time of day may
        self._start = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._start


@dataclass(eq=False)
class Clocks:
    """Clocks that never run at the same time: seconds of this process on the host, while a GPU may still compute."""

    data: Clock = field(default_factory=Clock)
    forward_backward: Clock = field(default_factory=Clock)
    optimizer: Clock = field(default_factory=Clock)
    statistics: Clock = field(default_factory=Clock)  # recomputing batch norm's statistics before a validation
    evaluation: Clock = field(default_factory=Clock)
    checkpoint: Clock = field(default_factory=Clock)
    compile: Clock = field(default_factory=Clock)
    _begun: float = field(default_factory=time.perf_counter, init=False)  # of the process's training, not of the run

    def seconds(self) -> dict[str, float]:
        """Return seconds by clock, `other` for all else, and `total`."""
        by_name = {name: part.seconds for name, part in vars(self).items() if isinstance(part, Clock)}
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
