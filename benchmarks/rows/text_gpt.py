"""Next-token prediction: tokens a second of the Trainer beside a loop by hand."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.arms_next_token import BATCH, CONTEXT
from benchmarks.figures import Figure, figure, over

TITLE = "Next-token prediction: the Trainer beside a loop by hand, GPT of 0.84M parameters, 16 x 128 bytes, 1 thread"
PLACE = "benchmarks.arms_next_token:"
STEPS, TURNS = 4, 8
NOTE = (
    "The loop by hand has the same module, windows a step, fused AdamW and clipping; it logs, counts and keeps nothing."
)


def measure() -> list[Figure]:
    options = {"slice_steps": STEPS}
    arms = [Arm("ours", PLACE + "ours", options), Arm("by hand", PLACE + "hand_written", options)]
    found = rounds(arms, 40, 5, parts=TURNS)

    def tokens_per_s(seconds: float) -> str:
        return f"{STEPS * BATCH * CONTEXT / seconds:.0f} tokens/s"

    return [figure("Trainer / by hand, tokens/s", found, over("by hand", "ours"), ">= 0.99", tokens_per_s, NOTE)]
