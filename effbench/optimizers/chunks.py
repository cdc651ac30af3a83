"""Optimizer updates in cache-sized chunks, used where no C compiler is available.

An update of seven operations moves a tensor seven times between memory and cache if the tensor is larger than the
cache. In chunks of ELEMENTS elements it moves once. Small tensors share a chunk, so that torch's foreach functions loop
over them. Each thread works on separate chunks, because torch's own threads would synchronize after every operation.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch
from torch import Tensor

from effbench.cpu.tensors import PLAIN_TYPES, layout_of

ELEMENTS = 2**18  # 1 MB of float32 a chunk; 2**15 to 2**17 were slower, 2**19 equal (EPYC, 2 threads, n = 14)
FEW = 4  # chunks a thread; with fewer, starting the threads costs more than it saves
_START_S = 60.0  # limit for starting the threads, so that a machine without free threads shows an error

Update = Callable[[list[list[Tensor]]], None]


def copy_all(into: list[Tensor], values: list[Tensor]) -> None:
    """Copy each value into its tensor."""
    if PLAIN_TYPES.issuperset(map(type, into)):
        torch._foreach_copy_(into, values)
        return
    for tensor, value in zip(into, values, strict=True):  # torch 2.14 has no foreach copy of DTensors
        tensor.copy_(value)


def update_in_chunks(rows: Sequence[Sequence[Tensor]], update: Update) -> None:
    """Call update(columns) for every chunk of the rows, on as many threads as torch uses.

    Args:
        rows: for each parameter: the parameter, its gradient and its states, all of one shape.
        update: changes the tensors of a chunk in place; it gets one list a column.
    """
    lists, threads = chunks(rows), torch.get_num_threads()
    elements = sum(row[0].numel() for row in rows if row[0].device.type == "cpu")
    # elements on other devices do not count: their kernels run there, and this thread only starts them
    if threads == 1 or elements < FEW * threads * ELEMENTS:
        for columns in lists:
            update(columns)
        return
    taking = threading.Lock()

    def share() -> None:
        """Take chunks until none is left: one thread cuts the next chunk while others compute."""
        while True:
            with taking:  # a generator cannot be advanced by two threads at once
                columns = next(lists, None)
            if columns is None:
                return
            update(columns)

    shares = [_pool(threads).submit(share) for _ in range(threads)]
    wait(shares)  # also if one fails: no thread may still write when this function returns
    for done in shares:
        done.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads use one torch thread each and record no gradients."""
    started = threading.Barrier(threads + 1, timeout=_START_S)

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # applies the setting to this thread now; later, torch would apply a newer value
        torch.set_grad_enabled(False)  # gradient mode belongs to a thread: the caller's no_grad does not reach here

    pool = ThreadPoolExecutor(threads, "effbench-chunks", alone)
    try:
        # the barrier makes the pool start all its threads: an idle one would take the next task instead
        for _ in range(threads):
            pool.submit(started.wait)
        started.wait()
    except BaseException:
        started.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(threads)  # the pool's setting of 1 became the default for new threads: restore it
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process does not inherit threads


def chunks(rows: Sequence[Sequence[Tensor]]) -> Iterator[list[list[Tensor]]]:
    """Yield chunks to update together, each as a list of columns.

    A row is cut into flat views if all its tensors share the memory layout of its first tensor; tensors with gaps in
    memory stay whole. On a GPU there is one chunk: fewer, larger kernels are faster there.

    Args:
        rows: for each parameter: the parameter, its gradient and its states.
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
    # a subclass, such as a DTensor, may have no memory of the usual kind to take views of
    layout = layout_of(row[0]) if PLAIN_TYPES.issuperset(map(type, row)) else None
    alike = layout is not None and all(tensor.is_contiguous(memory_format=layout) for tensor in row)
    if layout is None or not alike or row[0].numel() <= ELEMENTS:
        yield tuple(row)
        return
    # views of all elements in memory order: channels are the last dimension there in both channels-last formats
    flat = [(each if layout is torch.contiguous_format else each.movedim(1, -1)).view(-1) for each in row]
    yield from zip(*(each.split(ELEMENTS) for each in flat), strict=True)
