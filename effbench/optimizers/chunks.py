"""Many tensors cut into lists that stay in the cache from one operation to the next: the way without a compiler.

An update of seven operations over a tensor that does not fit into the cache moves it seven times; in lists of
ELEMENTS elements it moves once. Small tensors share a list, so that torch's foreach functions loop over them. Each
thread has lists of its own: torch would have all threads meet after every operation.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch
from torch import Tensor

from effbench.cpu.tensors import OWN, layout_of

ELEMENTS = 2**18  # a MB of float32 a list; 2**15 to 2**17 were slower, 2**19 alike (EPYC, 2 threads, n = 14)
FEW = 4  # lists a thread, under which it is not worth waking them
_START_S = 60.0

Update = Callable[[list[list[Tensor]]], None]


def in_layout(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """The tensor itself, or a copy where its elements lie in another order."""
    return tensor if tensor.is_contiguous(memory_format=layout) else tensor.contiguous(memory_format=layout)


def copy_all(into: list[Tensor], values: list[Tensor]) -> None:
    """Each value into its tensor."""
    if OWN.issuperset(map(type, into)):
        torch._foreach_copy_(into, values)
        return
    for tensor, value in zip(into, values, strict=True):  # torch 2.14 has no foreach copy of DTensors
        tensor.copy_(value)


def update_in_chunks(rows: Sequence[Sequence[Tensor]], update: Update) -> None:
    """Calls update(columns) for every list of `chunks(rows)`, on as many threads as torch has."""
    lists, threads = chunks(rows), torch.get_num_threads()
    if threads == 1 or _on_cpu(rows) < FEW * threads * ELEMENTS:
        for columns in lists:
            update(columns)
        return
    taking = threading.Lock()

    def share() -> None:
        """Takes lists as long as there are any: one is cut while another thread is at work on its own."""
        while columns := _next(lists, taking):
            update(columns)

    shares = [_pool(threads).submit(share) for _ in range(threads)]
    wait(shares)  # all of them, also where one fails: none may go on behind the caller's back
    for done in shares:
        done.result()


def _on_cpu(rows: Sequence[Sequence[Tensor]]) -> int:
    """How many elements the CPU has to update."""
    return sum(row[0].numel() for row in rows if row[0].device.type == "cpu")


def _next(lists: Iterator[list[list[Tensor]]], taking: threading.Lock) -> list[list[Tensor]] | None:
    with taking:
        return next(lists, None)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch keeps to one, and no gradient is recorded."""
    started = threading.Barrier(threads + 1, timeout=_START_S)

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # takes up what was set for this thread; later it would be what holds by then
        torch.set_grad_enabled(False)

    pool = ThreadPoolExecutor(threads, "effbench-chunks", alone)
    try:
        for _ in range(threads):
            pool.submit(started.wait)
        started.wait()
    except BaseException:
        started.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(threads)  # theirs is the default of threads to come until it is said again here
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of the threads


def chunks(rows: Sequence[Sequence[Tensor]]) -> Iterator[list[list[Tensor]]]:
    """Lists to update together, column by column. rows: for each parameter itself, its gradient and its states.

    What shares the layout of its row's first tensor is cut into flat views; what has gaps comes whole. On a GPU
    everything comes at once: there fewer, larger kernels are faster.
    """
    if rows and rows[0][0].device.type != "cpu":
        yield [list(column) for column in zip(*rows, strict=True)]
        return
    waiting: list[tuple[Tensor, ...]] = []
    elements = 0
    for row in rows:
        for piece in _pieces(row):
            size = piece[0].numel()
            if waiting and elements + size > ELEMENTS:
                yield [list(column) for column in zip(*waiting, strict=True)]
                waiting, elements = [], 0
            waiting.append(piece)
            elements += size
    if waiting:
        yield [list(column) for column in zip(*waiting, strict=True)]


def _pieces(row: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    layout = layout_of(row[0]) if OWN.issuperset(map(type, row)) else None
    alike = layout is not None and all(tensor.is_contiguous(memory_format=layout) for tensor in row)
    if layout is None or not alike or row[0].numel() <= ELEMENTS:
        yield tuple(row)
        return
    yield from zip(*(_flat(tensor, layout).split(ELEMENTS) for tensor in row), strict=True)


def _flat(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """A view of all elements in the order they lie in memory."""
    if layout is torch.contiguous_format:
        return tensor.view(-1)
    return tensor.movedim(1, -1).view(-1)
