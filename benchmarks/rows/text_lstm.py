"""lstm_attention: reversal by index beside packed sequences, and batches of similar lengths beside random ones."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.arms_text import BATCH, text_run
from benchmarks.figures import Figure, exact, figure, over

TITLE = "lstm_attention on language_id, training steps of 64 texts"
PLACE = "benchmarks.arms_text:lstm"
COUNT = 8
NOTE = (
    "Packed: one bidirectional torch.nn.LSTM of the same weights on pack_padded_sequence(enforce_sorted=False), in the "
    "same batches; a step of both is batch, forward, backward and fused AdamW. In random order: batches of any "
    "lengths, each padded to its longest. Waste: the part of an epoch's positions that is padding, counted."
)


def measure() -> list[Figure]:
    options = {"count": COUNT}
    ours = Arm("ours", PLACE, options)
    arms = [ours, Arm("packed", PLACE, {**options, "packed": True})]
    arms.append(Arm("in random order", PLACE, {**options, "bucketed": False}))
    found = rounds(arms, 18, 3)

    def texts_per_s(seconds: float) -> str:
        return f"{COUNT * BATCH / seconds:.0f} texts/s"

    _, batches = text_run([])
    waste, lengths = batches.padding(), batches.split.inputs.ne(0).sum(1)
    apart = random_waste(lengths.tolist())
    return [
        figure("ours / packed, texts/s", found, over("packed", "ours"), ">= 3", texts_per_s, NOTE),
        figure("ours / in random order, texts/s", found, over("in random order", "ours"), ">= 1.6", texts_per_s, NOTE),
        Figure("padding waste of our batches", exact(waste), "<= 0.05", note=NOTE),
        Figure("padding waste in random order", exact(apart), note=NOTE),
    ]


def random_waste(lengths: list[int], seed: int = 0) -> float:
    """The part of the positions that is padding in batches of BATCH texts in random order."""
    import random

    shuffled = random.Random(seed).sample(lengths, len(lengths))
    batches = [shuffled[start : start + BATCH] for start in range(0, len(shuffled) - BATCH + 1, BATCH)]
    return 1 - sum(map(sum, batches)) / sum(len(batch) * max(batch) for batch in batches)
