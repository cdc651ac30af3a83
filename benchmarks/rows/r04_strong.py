"""The `strong` augmentation: by the batch, and by the sample with torchvision's v2."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.arms_data import STRONG, images_per_second
from benchmarks.figures import Figure, figure
from benchmarks.rows.r03_batches import NOTE, PEERS, over_best

TITLE = "Strong augmentation: crop, flip, affine map, light, a hole; 32-pixel RGB"


def measure() -> list[Figure]:
    arms = [Arm("ours", "benchmarks.arms_data:ours", {"augment": STRONG})]
    arms += [Arm(name, "benchmarks.arms_data:peer", {"kind": "strong", "workers": n}) for name, n in PEERS.items()]
    found = rounds(arms, 24, 8)
    return [figure("images/s: ours / torchvision v2 at its best", found, over_best, ">= 5", images_per_second, NOTE)]
