"""What it costs training that its batches are cropped, flipped and normalised."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, over

TITLE = "Training on real batches beside batches that are made already, MobileNetV3-small"
PLACE = "benchmarks.arms_train:"
STEPS = 6


def measure() -> list[Figure]:
    options = {"model": "mobilenet", "slice_steps": STEPS, "words": ["trainer.check_val_every_n_epoch=1000000"]}
    found = rounds(
        [Arm("real", PLACE + "ours", options), Arm("resident", PLACE + "ours", options | {"resident": True})], 40, 5
    )

    def images_per_s(seconds: float) -> str:
        return f"{STEPS * 128 / seconds:.0f} images/s"

    return [figure("real / resident, images/s", found, over("resident", "real"), ">= 0.97", images_per_s)]
