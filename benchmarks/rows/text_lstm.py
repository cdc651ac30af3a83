"""lstm_attention: reversal by index beside packed sequences, and batches of similar lengths beside random ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.alternate import Arm, rounds
from benchmarks.arms_text import BATCH, text_run
from benchmarks.figures import Figure, exact, figure, over

TITLE = "lstm_attention, training steps of 64 texts"
PLACE = "benchmarks.arms_text:lstm"
COUNTS = {"language_id": 8, "kjv_kinds": 1}  # steps of a slice: strings of at most 63 bytes, passages of 320 words
NOTE = (
    "Packed: one bidirectional torch.nn.LSTM of the same weights on pack_padded_sequence(enforce_sorted=False), in the "
    "same batches; a step of both is batch, forward, backward and fused AdamW. In random order: batches of any "
    "lengths, each padded to its longest. Waste: the part of an epoch's positions that is padding, counted."
)


def measure() -> list[Figure]:
    return [found for data in COUNTS for found in _of(data)]


def _of(data: str) -> list[Figure]:
    options = {"data": data, "count": COUNTS[data]}
    arms = [
        Arm("ours", PLACE, options),
        Arm("packed", PLACE, {**options, "packed": True}),
        Arm("in random order", PLACE, {**options, "bucketed": False}),
    ]
    found = rounds(arms, 12, 3)

    def texts_per_s(seconds: float) -> str:
        return f"{COUNTS[data] * BATCH / seconds:.0f} texts/s"

    _, batches = text_run(data)
    apart = random_waste(batches.split.inputs.ne(0).sum(1).tolist())
    beside = over("in random order", "ours")
    return [
        figure(f"{data}: ours / packed, texts/s", found, over("packed", "ours"), ">= 3", texts_per_s, NOTE),
        figure(f"{data}: ours / in random order, texts/s", found, beside, ">= 1.6", texts_per_s, NOTE),
        Figure(f"{data}: padding waste of our batches", exact(batches.padding()), "<= 0.05", note=NOTE),
        Figure(f"{data}: padding waste in random order", exact(apart), note=NOTE),
    ]


def random_waste(lengths: Sequence[int], seed: int = 0) -> float:
    """The part of the positions that is padding in batches of BATCH texts in random order."""
    shuffled = random.Random(seed).sample(lengths, len(lengths))
    batches = [shuffled[start : start + BATCH] for start in range(0, len(shuffled) - BATCH + 1, BATCH)]
    return 1 - sum(map(sum, batches)) / sum(len(batch) * max(batch) for batch in batches)
