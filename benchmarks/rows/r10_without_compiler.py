"""Lion and Adan where there is no C compiler."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Lion's and Adan's step without a compiler on the machine, ResNet-152"
STEPS = "benchmarks.arms_steps:steps"
NOTE = (
    "Why Lion does not reach 1.7: its seven operations over lists that stay in the cache keep both processors "
    "busy (68 ms of processor time, 36 ms of wall time; medians of 40). In turns with it: the same as one TorchScript "
    "function without Python's lock 1.02 (n = 40), with scratch memory kept and lists of a quarter of the size 1.07 "
    "(n = 15), two operations of the seven joined by torch's fused SGD 1.05 (n = 60). And lion-pytorch itself takes "
    "63 ms where the allocator gives freed memory back, as here, 49 ms where it keeps it (medians of 25)."
)
TARGETS = {"lion": ">= 1.7", "adan": ">= 2.5"}


def measure() -> list[Figure]:
    figures = []
    for name, target in TARGETS.items():
        options = {"model": "resnet152", "count": 4}
        ours = Arm("ours", STEPS, options | {"which": name}, {"EFFBENCH_KERNELS": "off"})
        package = f"{name}-pytorch"
        found = rounds([ours, Arm(package, STEPS, options | {"which": package})], 30, 6)
        figures.append(figure(f"{package} / ours", found, over(package, "ours"), target, milliseconds, NOTE))
    return figures
