"""Lion and Adan where there is no C compiler."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Lion's and Adan's step without a compiler on the machine, ResNet-152"
STEPS = "benchmarks.arms_steps:steps"
TARGETS = {"lion": ">= 1.7", "adan": ">= 2.5"}


def measure() -> list[Figure]:
    figures = []
    for name, target in TARGETS.items():
        options = {"model": "resnet152", "count": 4}
        ours = Arm("ours", STEPS, options | {"which": name}, {"EFFBENCH_KERNELS": "off"})
        package = f"{name}-pytorch"
        found = rounds([ours, Arm(package, STEPS, options | {"which": package})], 30, 2)
        figures.append(figure(f"{package} / ours", found, over(package, "ours"), target, milliseconds))
    return figures
