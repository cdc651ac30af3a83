"""How soon a sweep's next job trains, and whether its memory is told as its own."""

from __future__ import annotations

from benchmarks.arms_start import sweep
from benchmarks.figures import Figure, exact
from effbench.stats import median_interval

TITLE = "The jobs of a sweep"
JOBS = 20
LARGE, SMALL = 1024, 32  # data.batch_size


def measure() -> list[Figure]:
    _, *later = (seconds for seconds, _ in sweep([], f"seed=range({JOBS + 1})"))
    (_, large), (_, small) = sweep([], f"data.batch_size={LARGE},{SMALL}")
    [(_, alone)] = sweep([f"data.batch_size={SMALL}"], "seed=0")
    names = f"batch {LARGE}, then batch {SMALL}", f"batch {SMALL} alone"
    megabytes = {names[0]: f"{large / 1e6:.0f}, {small / 1e6:.0f} MB", names[1]: f"{alone / 1e6:.0f} MB"}
    return [
        Figure("seconds from a job's fork to its first step, MobileNetV3-small", median_interval(later), "<= 0.6"),
        Figure("peak memory of a job after a larger one / of the same job alone", exact(small / alone), arms=megabytes),
    ]
