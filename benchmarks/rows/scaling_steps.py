"""Optimizer steps from one to three hundred million parameters."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import exact
from benchmarks.rows.r11_memory import bytes_of
from benchmarks.scaling import Point, points

TITLE = "An optimizer's step by number of parameters"
ACROSS = "parameters"
NAMES = ("sgd", "adamw", "lion", "adan", "lion-pytorch", "adan-pytorch")
SIZES = {1: 200, 3: 80, 10: 20, 30: 8, 100: 3, 300: 1}  # million parameters: steps a slice


def measure() -> list[Point]:
    found = []
    for millions, count in SIZES.items():
        parameters = millions * 10**6
        options = {"model": f"size:{parameters}", "count": count}
        names = [name for name in NAMES if millions < 300 or "-" not in name]  # theirs would need 10 GB more
        arms = [Arm(name, "benchmarks.arms_steps:steps", options | {"which": name}) for name in names]
        seconds = rounds(arms, 9, 1, control=False)
        found += points("ms a step", ACROSS, parameters, seconds, lambda value: value * 1e3)
        for name in names:
            state, transient, _ = bytes_of(name, f"size:{parameters}")
            megabytes = exact((state + transient) / 1e6)
            found.append(Point("MB of state and of what a step holds", ACROSS, name, parameters, megabytes))
    return found
