"""Throughput and memory by batch size."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure

TITLE = "Images a second and peak memory by batch size, MobileNetV3-small, 32 px"
PLACE = "benchmarks.arms_train:ours"
IMAGES = 2560  # a slice


def measure() -> list[Figure]:
    figures = []
    for batch in (8, 32, 128, 512):
        options = {
            "model": "mobilenet",
            "slice_steps": IMAGES // batch,
            "warm_up": 5,
            "words": [f"data.batch_size={batch}", "trainer.check_val_every_n_epoch=1000000"],
        }
        arms = [Arm("time", PLACE, options), Arm("memory", PLACE, options | {"memory": True})]
        found = rounds(arms, 5, 1, control=False)
        figures.append(
            figure(f"batch {batch}, images/s", found, lambda values: IMAGES / values["time"], "", "{:.4g}".format)
        )
    return figures
