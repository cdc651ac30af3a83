"""What topics share: shipped data, and small models trained within seconds.

Models are trained in float64: the numbers that a text shows are then the same on all processors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench import build
from effbench.config.compose import compose
from effbench.data.splits import Split, Splits


def shipped(*words: str) -> Splits:
    """Return a dataset that ships with effbench, by overrides such as 'data=fashion_mnist'."""
    return build.splits(compose(list(words)))


def pixels(split: Split) -> Tensor:
    """Return the images of a split as float64 (N, features) in [-1, 1]."""
    return split.inputs.flatten(1).double() / 127.5 - 1


def shuffled_batches(count: int, batch_size: int, epochs: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (epoch, the samples of a batch); every epoch has another order.

    Args:
        count: samples.
        batch_size: of a batch; the last one of an epoch may be smaller.
        epochs: passes over the samples.
        seed: of the orders.
    """
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for batch in torch.randperm(count, generator=generator).split(batch_size):
            yield epoch, batch


def trained(
    model: nn.Module, samples: Tensor, labels: Tensor, epochs: int, lr: float = 1e-3, seed: int = 0
) -> nn.Module:
    """Train a classifier with AdamW on batches of 64 and return it in eval mode.

    Args:
        model: samples -> logits.
        samples: inputs.
        labels: int64 (N,).
        epochs: passes over the samples.
        lr: learning rate.
        seed: of the order.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _, batch in shuffled_batches(len(labels), 64, epochs, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(samples[batch]), labels[batch]).backward()
        optimizer.step()
    return model.eval()


def agreement(a: Sequence[float] | Tensor, b: Sequence[float] | Tensor) -> str:
    """Return 'to N decimals': in how many two results agree, at most 12, which rounding of float64 leaves."""
    difference = float((torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max())
    return f"to {math.floor(-math.log10(max(2 * difference, 1e-12)))} decimals"


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], samples: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose largest logit is that of their class.

    Args:
        model: samples -> logits.
        samples: inputs.
        labels: int64 (N,).
    """
    return float((model(samples).argmax(1) == labels).double().mean())
