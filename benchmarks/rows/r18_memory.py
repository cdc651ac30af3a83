"""Peak memory of a run beside that of a loop by hand."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, over

TITLE = "Peak resident memory of the process, MobileNetV3-small, 32 px, batch 128"
PLACE = "benchmarks.arms_train:"
NOTE = "After an epoch with validation and a checkpoint (ours), or the same steps and validation (by hand)."


def measure() -> list[Figure]:
    options = {"model": "mobilenet", "slice_steps": 42, "warm_up": 6, "memory": True}
    arms = [Arm("ours", PLACE + "ours", options), Arm("by hand", PLACE + "hand_written", options | {"validate": True})]
    found = rounds(arms, 36, 36, parts=1)
    return [figure("ours / by hand", found, over("ours", "by hand"), "<= 1.03", _megabytes, NOTE)]


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"
