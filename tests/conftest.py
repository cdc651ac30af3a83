"""One thread: these networks are small, and idle OpenMP threads on busy cores made single tests take 15 s."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Before each test, since training in this process sets its own number."""
    torch.set_num_threads(1)
