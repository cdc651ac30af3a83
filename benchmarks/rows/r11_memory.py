"""Memory of the optimizers: what they keep, and what a step takes beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.alternate import ROOT
from benchmarks.arms_steps import STATE_BYTES
from benchmarks.figures import Figure, exact

TITLE = "Optimizer state and a step's transient memory over the ideal state, ResNet-152"
NOTE = (
    "Bytes, from torch's own record of allocations (torch.profiler, profile_memory): the state's tensors and the most "
    "that a step held beside them. Ideal: "
    + ", ".join(f"{name} {count}" for name, count in STATE_BYTES.items())
    + " bytes a parameter. Without a compiler each thread's lists need 1 MB (Lion) or 2 (Adan) beside, in threads that "
    "the profiler does not see: 0.9 and 0.4 % of the state with two."
)
NAMES = ("lion", "adan", "lion-pytorch", "adan-pytorch", "timm-adan")


def measure() -> list[Figure]:
    figures = []
    for name in NAMES:
        for kernels in ("on", "off") if "-" not in name else ("on",):
            ratio, text = _measured(name, kernels)
            what = name + (" without a compiler" if kernels == "off" else "")
            target = "<= 1.05" if "-" not in name else ""
            figures.append(Figure(what, exact(ratio), target, None, {"state and transient": text}, NOTE))
    return figures


def _measured(name: str, kernels: str) -> tuple[float, str]:
    state, transient, ideal = bytes_of(name, "resnet152", kernels)
    return (state + transient) / ideal, f"{state / 1e6:.1f} MB and {transient / 1e6:.2f} MB"


def bytes_of(name: str, model: str, kernels: str = "on") -> tuple[int, int, int]:
    """State, the most a step held beside it, and the ideal state of this optimizer over this model, in bytes."""
    environment = {**os.environ, "EFFBENCH_KERNELS": kernels, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.memory", name, model]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    state, transient, ideal = json.loads(done.stdout.splitlines()[-1])
    return state, transient, ideal
