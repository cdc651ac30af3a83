"""What the Trainer adds to a step so short that it shows."""

from __future__ import annotations

from benchmarks.alternate import Arm, Round, rounds
from benchmarks.figures import Figure, figure, over

TITLE = "The Trainer's own time in a step, MLP 256-128, batch 128"
PLACE = "benchmarks.arms_train:"
STEPS, TURNS = 60, 4


def measure() -> list[Figure]:
    options = {"model": "mlp", "slice_steps": STEPS}
    alike = ["trainer.check_val_every_n_epoch=1000000", "optimizer.no_decay=false"]  # one parameter group on all sides
    unvalidated = options | {"words": alike}
    arms = [
        Arm("ours", PLACE + "ours", unvalidated),
        Arm("by hand", PLACE + "hand_written", options),
        Arm("pytorch-lightning", PLACE + "lightning", options),
        Arm("accelerate", PLACE + "accelerate", options),
    ]
    found = rounds(arms, 60, 3, parts=TURNS)

    def a_step(seconds: float) -> str:
        return f"{seconds / STEPS * 1e3:.3g} ms a step"

    def beside_lightning(values: Round) -> float:
        return (values["ours"] - values["by hand"]) / (values["pytorch-lightning"] - values["by hand"])

    return [
        figure("ours / by hand", found, over("ours", "by hand"), "<= 1.08", a_step),
        figure("overhead of ours / of pytorch-lightning", found, beside_lightning, "<= 0.1", a_step),
        figure("pytorch-lightning / by hand", found, over("pytorch-lightning", "by hand"), "", a_step),
        figure("accelerate / by hand", found, over("accelerate", "by hand"), "", a_step),
    ]
