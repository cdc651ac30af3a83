"""For how long a checkpoint stops training."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Training's pause for a checkpoint, ResNet-152 + Adan"
PLACE = "benchmarks.arms_save:"
NOTE = (
    "The checkpoint is written, digested, fsynced and renamed as before, by a thread, from a copy in memory; the pause "
    "is a look for numbers that are not finite and the copy."
)


def measure() -> list[Figure]:
    ours = Arm("ours", PLACE + "ours")
    found = rounds([ours, Arm("torch.save", PLACE + "torch_save")], 48, 12)
    synced = rounds([ours, Arm("torch.save and fsync", PLACE + "torch_save", {"synced": True})], 5, 1, control=False)
    waiting = Arm("checkpoint.background=false", PLACE + "ours", {"background": False})
    waited = rounds([ours, waiting], 3, 1, control=False)
    beside = rounds(
        [
            Arm("no save", PLACE + "steps_beside", {"saves": False}),
            Arm("a save", PLACE + "steps_beside", {"saves": True}),
        ],
        5,
        1,
        parts=1,
        control=False,
    )
    return [
        figure(
            "pause / torch.save of the same state", found, over("ours", "torch.save"), "<= 0.25", milliseconds, NOTE
        ),
        figure("pause / torch.save and fsync", synced, over("ours", "torch.save and fsync"), "", milliseconds),
        figure("pause / the same save, waited for", waited, over("ours", waiting.name), "", milliseconds),
        figure(
            "seconds a step over the 8 s after a save / without one",
            beside,
            over("a save", "no save"),
            "",
            milliseconds,
        ),
    ]
