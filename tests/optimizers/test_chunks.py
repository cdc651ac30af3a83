"""Lists of tensors shared out over threads: the same bits, errors heard, nothing of it left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from effbench.optimizers import Lion, fused
from effbench.optimizers.chunks import ELEMENTS, FEW, chunks, update_in_chunks
from tests.patience import patience

MANY = 3 * FEW  # lists, enough for the threads of two and three


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "library", lambda: None)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def weights(steps: int) -> list[Tensor]:
    """Lion's, of a tensor of many lists and some small ones."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(size, generator=generator).requires_grad_() for size in (MANY * ELEMENTS + 5, 3, 1000)]
    optimizer = Lion(parameters, lr=1e-3, weight_decay=0.1)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit():
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(weights(2))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


def test_lists_are_worked_on_in_other_threads_and_each_once():
    torch.set_num_threads(2)
    seen: dict[int, str] = {}
    tensor = torch.zeros(MANY * ELEMENTS)

    def update(columns: list[list[Tensor]]) -> None:
        seen[columns[0][0].data_ptr()] = threading.current_thread().name
        assert torch.get_num_threads() == 1
        columns[0][0].add_(1)

    update_in_chunks([(tensor,)], update)
    assert bool((tensor == 1).all())
    assert len(seen) == len(list(chunks([(tensor,)]))) == MANY
    assert threading.main_thread().name not in seen.values()


def test_torch_keeps_its_threads_here_and_in_new_threads():
    torch.set_num_threads(2)
    weights(1)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), found) == (2, [2])


def test_an_error_in_another_thread_is_heard():
    torch.set_num_threads(2)

    def fail(_: list[list[Tensor]]) -> None:
        raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        update_in_chunks([(torch.zeros(MANY * ELEMENTS),)], fail)


def test_few_lists_wake_no_thread():
    torch.set_num_threads(2)
    names = []
    update_in_chunks([(torch.zeros(10),)], lambda _: names.append(threading.current_thread().name))
    assert names == [threading.main_thread().name]


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own():
    torch.set_num_threads(2)
    shared, own = (torch.zeros(MANY * ELEMENTS) for _ in range(2))
    shared.share_memory_()
    update_in_chunks([(own,)], add_one)
    child = os.fork()
    if child == 0:
        update_in_chunks([(shared,)], add_one)
        os._exit(0)
    deadline = time.monotonic() + patience(60)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked process waits for threads that it does not have")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert torch.equal(shared, own)


def add_one(columns: list[list[Tensor]]) -> None:
    torch._foreach_add_(columns[0], 1)
