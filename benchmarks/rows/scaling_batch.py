"""Throughput and memory by batch size."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.scaling import Point, points

TITLE = "Images a second and peak memory by batch size, MobileNetV3-small, 28 px"
ACROSS = "images a batch"
PLACE = "benchmarks.arms_train:ours"
IMAGES = 2048  # a slice


def measure() -> list[Point]:
    speed, memory = "images/s", "MB, peak resident"
    found = []
    for batch in (8, 32, 128, 512):
        options = {
            "model": "mobilenet",
            "slice_steps": IMAGES // batch,
            "warm_up": 5,
            "words": [f"data.batch_size={batch}", "trainer.check_val_every_n_epoch=1000000"],
        }
        timed = rounds([Arm("effbench train", PLACE, options)], 9, 3, control=False)
        found += points(speed, ACROSS, batch, timed, lambda seconds: IMAGES / seconds)
        peaks = rounds([Arm("effbench train", PLACE, options | {"memory": True})], 3, 3, parts=1, control=False)
        found += points(memory, ACROSS, batch, peaks, lambda count: count / 1e6)
    return found
