"""Prefetch batches with threads, in order. Errors and timeouts name the batch and its samples."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Generic, TypeVar

from torch import Tensor

from effbench.errors import EffbenchError

Item = TypeVar("Item")
Result = TypeVar("Result")

GRACE_S = 5.0  # time for threads to finish; one that hangs is abandoned
_SHOWN = 64  # samples listed in one message


class BatchError(EffbenchError):
    """A batch could not be made, or not in time."""


class BatchTimeoutError(EffbenchError):
    """A batch took longer than the limit."""


def prefetch(
    make: Callable[[Item], Result], items: Iterable[Item], workers: int, timeout_s: float | None = None
) -> Iterator[Callable[[], Result]]:
    """Yield, in order, a callable for each item that returns make(item) or re-raises its exception.

    Callables may be left uncalled.

    Args:
        make: makes a result.
        items: arguments of `make`.
        workers: number of threads; they work up to 2 * workers items ahead. 0: results are made when called for.
        timeout_s: seconds to wait for a result; None for no limit.

    Raises:
        BatchTimeoutError: raised by a callable if `timeout_s` is exceeded.
    """
    # the caller's own thread makes each result when it takes it: nothing can be timed
    if workers == 0:
        yield from (partial(make, item) for item in items)
        return
    waiting: deque[Future[Result]] = deque()
    threads = _Threads[Result](workers)
    try:
        for item in items:
            waiting.append(threads.submit(partial(make, item)))
            if len(waiting) > 2 * workers:  # limits the memory of finished batches
                yield partial(_result, waiting.popleft(), timeout_s)
        while waiting:
            yield partial(_result, waiting.popleft(), timeout_s)
    finally:  # also if the reader stops early
        for future in waiting:
            future.cancel()
        threads.close()


def wait_for_batch(get: Callable[[], Result], batch_name: str, samples: Callable[[], slice | Tensor]) -> Result:
    """Call `get`; its errors become BatchErrors that name the batch and its samples.

    Args:
        get: a callable of `prefetch`.
        batch_name: where the batch belongs, such as 'epoch 3, step 4 of 5'.
        samples: returns the indices of its samples; called only for a message.
    """
    try:
        return get()
    except BatchTimeoutError as error:
        raise BatchError(_message(batch_name, samples(), f"{error}. Raise that if it was only slow")) from error
    except EffbenchError:  # it names its own cause and remedy
        raise
    except Exception as error:
        why = f"cannot be made: {type(error).__name__}: {error}"
        raise BatchError(_message(batch_name, samples(), why)) from error


def _message(batch_name: str, samples: slice | Tensor, why: str) -> str:
    indices = list(range(samples.start, samples.stop)) if isinstance(samples, slice) else samples.tolist()
    more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
    listed = ", ".join(map(str, indices[:_SHOWN])) + more
    return (
        f"the batch of {batch_name} (samples {listed}) {why}. The run can go on from its last checkpoint: resume=RUN."
    )


def _result(future: Future[Result], timeout_s: float | None) -> Result:
    # not future.result(timeout_s): a TimeoutError that make() raises itself would look the same
    if not wait([future], timeout_s).done:
        raise BatchTimeoutError(f"took longer than data.timeout_s={timeout_s:g}")
    return future.result()


class _Threads(Generic[Result]):
    """Daemon threads: unlike those of a ThreadPoolExecutor, one that hangs does not keep the process from ending."""

    def __init__(self, count: int):
        self._tasks: SimpleQueue[tuple[Future[Result], Callable[[], Result]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"effbench-data_{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, make: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self._tasks.put((future, make))
        return future

    def close(self) -> None:
        """Wait for the threads: one that runs torch code when the interpreter ends would abort the process."""
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + GRACE_S
        for thread in self._threads:
            if thread is not current_thread():  # the garbage collector runs in any thread, also in one of these
                thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, make = task
            # False for a batch that was cancelled while it waited: nobody takes it any more
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(make())
                except BaseException as error:  # noqa: BLE001 - re-raised when the batch is taken
                    future.set_exception(error)
            del task, future, make  # else the batch would stay in memory until the next one
