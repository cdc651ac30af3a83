"""Crop, flip and normalise: by the batch, and by the sample as torchvision's tutorials do."""

from __future__ import annotations

from benchmarks.alternate import Arm, Round, rounds
from benchmarks.arms_data import BASIC, images_per_second
from benchmarks.figures import Figure, figure

TITLE = "Batch pipeline: crop with padding 4, flip, normalise; 32-pixel RGB"
PEERS = {f"v2, {workers} workers": workers for workers in (0, 1, 2)}
NOTE = "Freed memory is kept on both sides, as in a training of effbench's."


def measure() -> list[Figure]:
    arms = [Arm("ours", "benchmarks.arms_data:ours", {"augment": BASIC})]
    arms += [Arm(name, "benchmarks.arms_data:peer", {"kind": "basic", "workers": n}) for name, n in PEERS.items()]
    found = rounds(arms, 24, 12)
    return [figure("images/s: ours / torchvision v2 at its best", found, over_best, ">= 10", images_per_second, NOTE)]


def over_best(values: Round) -> float:
    return min(values[name] for name in PEERS) / values["ours"]
