"""Optimizer steps from one to three hundred million parameters."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Optimizer steps by number of parameters"
NAMES = ("sgd", "adamw", "lion", "adan", "lion-pytorch", "adan-pytorch")
SIZES = {1: 200, 3: 80, 10: 20, 30: 8, 100: 3, 300: 1}  # million parameters: steps a slice


def measure() -> list[Figure]:
    figures = []
    for millions, count in SIZES.items():
        options = {"model": f"size:{millions * 10**6}", "count": count}
        names = [name for name in NAMES if millions < 300 or "-" not in name]  # theirs would need 10 GB more
        arms = [Arm(name, "benchmarks.arms_steps:steps", options | {"which": name}) for name in names]
        found = rounds(arms, 9, 1, control=False)
        figures.append(
            figure(f"{millions}M parameters: Lion / fused AdamW", found, over("lion", "adamw"), "", milliseconds)
        )
    return figures
