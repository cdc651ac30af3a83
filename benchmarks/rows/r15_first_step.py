"""From the command's start to its first optimizer step, against a script that does no more."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, over

TITLE = "From the command to the first step"
OURS, BARE = "effbench train", "bare script"


def measure() -> list[Figure]:
    arms = [
        Arm(OURS, "benchmarks.arms_start:first_step", {"words": []}),
        Arm(BARE, "benchmarks.arms_start:bare_first_step"),
    ]
    found = rounds(arms, 18, 2)
    return [
        figure("effbench train / bare script, MobileNetV3-small", found, over(OURS, BARE), "<= 1.05", "{:.2f} s".format)
    ]
