"""One loop in a process of its own: a whole run, or its steps in turns with the other loops'.

python -m benchmarks.frameworks.one NAME SEED EPOCHS   # prints a line of JSON
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.frameworks import task
from benchmarks.turns import Turns

ENDLESS = 1_000_000  # epochs of an arm, which the coordinator ends


def peer(name: str) -> Any:
    """Import the user's file of a framework, and set one thread."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what a framework warns of at each start is no part of its loop
    return importlib.import_module(f"benchmarks.frameworks.peers.{name}")


def steps(turns: Turns, name: str, slice_steps: int, warm_up: int) -> None:
    """An arm: mean seconds of a step, over slices of `slice_steps` steps.

    A step lasts from one forward pass of training to the next; the pause between epochs, with validation in it, is
    left out.

    Args:
        turns: of the coordinator.
        name: of the framework.
        slice_steps: steps of a slice.
        warm_up: steps before the first slice.
    """
    module = peer(name)
    clock = StepClock(turns, slice_steps, warm_up)
    task.on_train_step, task.on_evaluation = clock.train_step, clock.evaluation
    module.train(0, ENDLESS)


class StepClock:
    """Sums the seconds between forward passes of training, and tells their mean after each slice.

    Args:
        turns: of the coordinator; any object with `lap`.
        slice_steps: steps of a slice.
        warm_up: steps before the first slice.
    """

    def __init__(self, turns: Any, slice_steps: int, warm_up: int):
        self._turns, self._slice_steps, self._warm_up = turns, slice_steps, warm_up
        self._since: float | None = None
        self._spent, self._count = 0.0, 0

    def train_step(self) -> None:
        """A forward pass of training begins."""
        if self._since is not None:
            self._spent += time.perf_counter() - self._since
            self._count += 1
        if self._count == (self._warm_up or self._slice_steps):
            self._turns.lap(self._spent / self._count)
            self._spent, self._count, self._warm_up = 0.0, 0, 0
        self._since = time.perf_counter()

    def evaluation(self) -> None:
        """A forward pass of an evaluation begins: what has passed since the last one of training is no step."""
        self._since = None


def main() -> None:
    name, seed, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    module = peer(name)
    begun = time.perf_counter()
    accuracy = module.train(seed, epochs)
    found = {"accuracy": float(accuracy), "train_s": time.perf_counter() - begun, "peak_bytes": peak_bytes()}
    print(json.dumps(found))


def peak_bytes() -> int:
    """Return the most memory that this process had resident (Linux)."""
    # not getrusage: it counts the parent's memory before exec, too
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main()
