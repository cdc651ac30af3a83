"""What the Trainer costs beside a loop by hand, with its logging, progress, validation and checkpoints on."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.compiled import NOTE as COMPILED
from benchmarks.compiled import compiled_arms
from benchmarks.figures import Figure, figure, over

TITLE = "Throughput of the Trainer beside a hand-written loop, MobileNetV3-small, 32 px, batch 128"
PLACE = "benchmarks.arms_train:"
EPOCH = 42  # steps: so many hold one validation and one checkpoint
TURN = 7
NOTE = "The loop by hand has the same model, batches, fused AdamW, clipping and validation; it logs and keeps nothing."


def measure() -> list[Figure]:
    options = {"model": "mobilenet", "slice_steps": TURN}
    found = rounds(
        [Arm("ours", PLACE + "ours", options), Arm("by hand", PLACE + "hand_written", options | {"validate": True})],
        18,
        6,
        parts=EPOCH // TURN,
    )

    def images_per_s(seconds: float) -> str:
        return f"{TURN * 128 / seconds:.0f} images/s"

    arms = [
        Arm("ours", PLACE + "ours", options),
        *compiled_arms("by hand, torch.compile", PLACE + "hand_written", options | {"validate": True}),
    ]
    compiled = rounds(arms, 9, 3, parts=EPOCH // TURN)
    return [
        figure("Trainer / by hand, images/s", found, over("by hand", "ours"), ">= 0.99", images_per_s, NOTE),
        *(
            figure(f"Trainer / {name}, images/s", compiled, over(name, "ours"), "", images_per_s, COMPILED)
            for name in (arm.name for arm in arms[1:])
        ),
    ]
