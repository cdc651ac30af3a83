"""Arms of the text rows: training steps of lstm_attention, and local attention beside the dense one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.turns import Turns

BATCH = 64  # data.batch_size=auto comes to it
HEADS, WIDTH, WINDOW = 4, 32, 128  # of the attention: heads, channels of a head, places to each side


# --- lstm_attention ---------------------------------------------------------------------------------------------------


class Packed(nn.Module):
    """effbench's LstmAttention as torch's documentation has it: one bidirectional LSTM on packed sequences.

    It computes the same numbers from the same weights: (B, T) token numbers -> logits (B, num_classes).

    Args:
        ours: the model whose parts and weights it takes over.
    """

    def __init__(self, ours: Any):
        super().__init__()
        [onward], [backward] = ours.forwards, ours.backwards
        self.ours = ours
        self.lstm = nn.LSTM(onward.input_size, onward.hidden_size, batch_first=True, bidirectional=True)
        weights = dict(onward.named_parameters())
        weights |= {f"{name}_reverse": value for name, value in backward.named_parameters()}
        with torch.no_grad():
            for name, parameter in self.lstm.named_parameters():
                parameter.copy_(weights[name])
        # only parts that are used: the optimizer would step over the others
        ours.forwards, ours.backwards = nn.ModuleList(), nn.ModuleList()

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, num_classes)."""
        mask_BT = tokens_BT != 0
        x_BTD = self.ours.dropout(self.ours.embedding(tokens_BT))
        packed = pack_padded_sequence(x_BTD, mask_BT.sum(1), batch_first=True, enforce_sorted=False)
        states_BTH, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        weights_BT = self.ours.attention(states_BTH, mask_BT)
        summary_BH = torch.bmm(weights_BT.unsqueeze(1), states_BTH).squeeze(1)
        logits: Tensor = self.ours.head(self.ours.dropout(summary_BH))
        return logits


def text_run(data_name: str) -> tuple[nn.Module, Any]:
    """Return (the model with a fixed seed, train batches as a run makes them) of a dataset that ships."""
    import effbench
    from effbench import build
    from effbench.data.batches import TrainBatches

    chosen = effbench.compose([f"data={data_name}", "model=lstm_attention", "device=cpu"])
    data = build.splits(chosen)
    modality = data.modality.fit(data, build.settings(chosen))
    torch.manual_seed(0)
    net = build.model(chosen, len(data.classes), modality)
    return net, TrainBatches(data.train, batch_size=BATCH, num_classes=len(data.classes), modality=modality)


def in_random_order(batches: Any) -> None:
    """Let batches take texts of any length, each padded to the batch's longest."""
    batches._lengths = None


def lstm(turns: Turns, data: str, count: int, packed: bool = False, bucketed: bool = True, threads: int = 2) -> None:
    """A slice: seconds of `count` training steps on the next batches of a dataset.

    Args:
        turns: of the coordinator.
        data: the dataset.
        count: steps of a slice.
        packed: by packed sequences instead of reversal by index.
        bucketed: batches of similar lengths, as a run makes them.
        threads: of torch.
    """
    from effbench.training.malloc import keeping_freed_memory

    torch.set_num_threads(threads)
    net, batches = text_run(data)
    if not bucketed:
        in_random_order(batches)
    run = (Packed(net) if packed else net).train()
    optimizer = torch.optim.AdamW(run.parameters(), lr=1e-3, fused=True)
    left = 3  # steps to warm up
    with keeping_freed_memory(torch.device("cpu")):
        for epoch in range(1_000_000):
            for step in range(batches.steps_per_epoch):
                batch = batches.make(epoch, step)
                F.cross_entropy(run(batch.inputs), batch.targets).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                left -= 1
                if left == 0:
                    turns.lap()
                    left = count


# --- local attention --------------------------------------------------------------------------------------------------


def attention(turns: Turns, kind: str, tokens: int, count: int, threads: int = 2) -> None:
    """A slice: seconds of `count` forward and backward passes, a pass each."""
    import time

    torch.set_num_threads(threads)
    run = attention_pass(kind, tokens)
    run()
    turns.lap()
    while True:
        begun = time.perf_counter()
        for _ in range(count):
            run()
        turns.lap((time.perf_counter() - begun) / count)


def attention_pass(kind: str, tokens: int) -> Any:
    """Return a function that attends forward and backward over one text, queries, keys and values given.

    Args:
        kind: 'local': effbench's blocks | 'dense': torch's SDPA with the same window as a prebuilt mask.
        tokens: T.
    """
    from effbench.models.attention import LocalAttention

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, tokens, WIDTH, requires_grad=True) for _ in range(3))
    upstream = torch.randn(1, HEADS, tokens, WIDTH)
    if kind == "local":
        layer = LocalAttention(HEADS * WIDTH, HEADS, WINDOW)
        out = lambda: layer.mixed(q, k, v, None)  # noqa: E731
    else:
        mask = window_mask(tokens)
        out = lambda: F.scaled_dot_product_attention(q, k, v, mask)  # noqa: E731

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out(), (q, k, v), upstream)

    return run


def window_mask(tokens: int) -> Tensor:
    """Return float (T, T): 0 within the window, minus infinity outside."""
    near = torch.ones(tokens, tokens, dtype=torch.bool).triu(-WINDOW).tril(WINDOW)
    # numbers, as SDPA would make them of a bool mask at every call
    return torch.zeros(tokens, tokens).masked_fill_(~near, -torch.inf)
