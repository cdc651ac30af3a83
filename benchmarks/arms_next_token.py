"""Arms of the row on next-token prediction: effbench's own command, and the loop of nanoGPT's train.py by hand.

Both train the same module on the King James Bible with as many windows a step, fused AdamW and clipping, one thread.
"""

from __future__ import annotations

import math
import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.arms_train import NO_VALIDATION, Laps, network
from benchmarks.turns import Turns

THREADS, BATCH, CONTEXT = 1, 16, 128
WORDS = (
    "data=kjv", "task=next_token", "task.length=0", "model=gpt", "optimizer=adamw", "early_stopping=off",
    "trainer.max_epochs=100000", "device=cpu", f"device.threads={THREADS}", f"data.batch_size={BATCH}",
    f"data.context={CONTEXT}", *NO_VALIDATION,
)  # fmt: skip


def ours(turns: Turns, slice_steps: int, warm_up: int = 10) -> None:
    """`effbench train`, with its logging; nothing is validated."""
    import effbench

    laps = Laps(turns, slice_steps, warm_up)

    class Lap(effbench.Callback):
        def step_end(self, context: Any) -> None:
            laps.step()

    with tempfile.TemporaryDirectory() as folder:
        effbench.train(list(WORDS), f"{folder}/run", callbacks=[Lap()])


def hand_written(turns: Turns, slice_steps: int, warm_up: int = 10) -> None:
    """nanoGPT's loop: windows at random places of one array, a cosine over the learning rate, clipping at 1."""
    import effbench
    from effbench import build

    torch.set_num_threads(THREADS)
    laps = Laps(turns, slice_steps, warm_up)
    chosen = effbench.compose(list(WORDS))
    data = build.splits(chosen)
    net = network(chosen, data).train()
    stream = torch.cat([data.train.inputs.flatten(), data.train.labels[-1, -1:]])
    stream = stream[stream > 0]  # without the padding of the last window
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    total = 1_000_000
    for step in range(total):
        starts = torch.randint(len(stream) - CONTEXT - 1, (BATCH,)).tolist()
        x = torch.stack([stream[start : start + CONTEXT].long() for start in starts])
        y = torch.stack([stream[start + 1 : start + 1 + CONTEXT].long() for start in starts])
        logits = net(x)
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * (1 + math.cos(math.pi * step / total))
        laps.step()
