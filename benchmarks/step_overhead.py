"""What the loop itself costs a step, against another revision: python -m benchmarks.step_overhead REV [--pairs 9]

A tiny MLP (under a millisecond a step), so that the loop shows; the least mean of 20 steps in 1,500, which a busy
machine disturbs little. In alternation, each time in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.alternate import alternate, ratio

ROOT = Path(__file__).parents[1]
MEASURE = """
import time, torch
from effbench.training.callbacks import Callback
from tests.training.tiny import data, dense, trainer
torch.set_num_threads(1)
class Clock(Callback):
    times = []
    def step_end(self, state):
        self.times.append(time.perf_counter())
trainer(data(num_train=128 * 40), dense(hidden=(64,)), 1500, batch={"batch_size": 128}, watch=[Clock()]).fit()
print(min((b - a) / 20 for a, b in zip(Clock.times[::20], Clock.times[20::20])))
"""


def seconds_a_step(source: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "other"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(other)], check=True)
        subprocess.run(["git", "checkout", "--quiet", arguments.revision], cwd=other, check=True)
        values = alternate(partial(seconds_a_step, ROOT), partial(seconds_a_step, other), arguments.pairs)
    more = sorted(a - b for a, b in values)[len(values) // 2]
    print(f"this checkout / {arguments.revision}: {ratio(values)}; median difference {more * 1e6:.1f} us a step")


if __name__ == "__main__":
    main()
