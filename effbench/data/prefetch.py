"""Prefetch batches with threads, in order. Errors and timeouts name the batch and its samples."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from effbench.errors import EffbenchError

Place = TypeVar("Place")
Made = TypeVar("Made")

GRACE_S = 5.0  # time for threads to finish; one that hangs is abandoned
_SHOWN = 64  # samples listed in one message


class BatchError(EffbenchError):
    """A batch could not be made, or not in time."""


class BatchTimeoutError(EffbenchError):
    """A batch took longer than the limit."""


def in_order(
    make: Callable[[Place], Made], places: Iterable[Place], workers: int, timeout_s: float | None = None
) -> Iterator[Callable[[], Made]]:
    """Yield, in order, a callable for each place that returns make(place) or re-raises its exception.

    Callables may be left uncalled.

    Args:
        make: makes an item.
        places: arguments of `make`.
        workers: number of threads; they work up to 2 * workers items ahead. 0: items are made when called for.
        timeout_s: seconds to wait for an item; None for no limit.

    Raises:
        BatchTimeoutError: raised by a callable if `timeout_s` is exceeded.
    """
    if workers == 0:
        yield from (partial(make, place) for place in places)
        return
    waiting: deque[Future[Made]] = deque()
    threads = _Threads[Made](workers)
    try:
        for place in places:
            waiting.append(threads.submit(partial(make, place)))
            if len(waiting) > 2 * workers:
                yield partial(_result, waiting.popleft(), timeout_s)
        while waiting:
            yield partial(_result, waiting.popleft(), timeout_s)
    finally:
        for future in waiting:
            future.cancel()
        threads.close()


def received(take: Callable[[], Made], place: Callable[[], str], samples: Callable[[], list[int]]) -> Made:
    """Call `take`; its errors become BatchErrors that name the batch and its samples.

    Args:
        take: makes the batch.
        place: returns the name of the batch.
        samples: returns the indices of its samples.
    """
    try:
        return take()
    except BatchTimeoutError as error:
        raise BatchError(_told(place(), samples(), f"{error}. Raise that if it was only slow")) from error
    except EffbenchError:
        raise
    except Exception as error:
        raise BatchError(_told(place(), samples(), f"cannot be made: {type(error).__name__}: {error}")) from error


def _told(place: str, samples: list[int], why: str) -> str:
    more = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
    listed = ", ".join(map(str, samples[:_SHOWN])) + more
    return f"the batch of {place} (samples {listed}) {why}. The run can go on from its last checkpoint: resume=RUN."


def _result(future: Future[Made], timeout_s: float | None) -> Made:
    if not wait([future], timeout_s).done:
        raise BatchTimeoutError(f"took longer than data.timeout_s={timeout_s:g}")
    return future.result()


class _Threads(Generic[Made]):
    """Daemon threads: unlike those of a ThreadPoolExecutor, one that hangs does not keep the process from ending."""

    def __init__(self, count: int):
        self._tasks: SimpleQueue[tuple[Future[Made], Callable[[], Made]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"effbench-data_{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, make: Callable[[], Made]) -> Future[Made]:
        future: Future[Made] = Future()
        self._tasks.put((future, make))
        return future

    def close(self) -> None:
        """Wait for the threads: one that runs torch code when the interpreter ends would abort the process."""
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + GRACE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, make = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(make())
                except BaseException as error:  # noqa: BLE001 - re-raised when the batch is taken
                    future.set_exception(error)
            del task, future, make  # else the batch would stay in memory until the next one
