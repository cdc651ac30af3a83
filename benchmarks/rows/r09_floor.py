"""Optimizer steps against what the memory allows."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.arms_steps import BYTES
from benchmarks.figures import Figure, figure

TITLE = "Optimizer steps over the floor of memory traffic, ResNet-152"
NOTE = (
    "The floor: "
    + ", ".join(f"{name} {count}" for name, count in BYTES.items())
    + " bytes a parameter and step, at the "
    "bandwidth that c = a + 3 b over three arrays of 128 MB reaches between the steps of the same process (12 bytes an "
    "element). Under 1, because a step writes where it has just read, and the triad does not: with the line that a "
    "processor reads before it writes there the triad moves 16 bytes, and three quarters are what memory allows."
)


def measure() -> list[Figure]:
    arms = [
        Arm(name, "benchmarks.arms_steps:over_floor", {"which": name, "model": "resnet152", "count": 4})
        for name in BYTES
    ]
    found = rounds(arms, 24, 12)
    return [figure(name, found, lambda values, name=name: values[name], "<= 1.3", note=NOTE) for name in BYTES]
