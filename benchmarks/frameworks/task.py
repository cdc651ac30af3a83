"""The task that every loop trains, and nothing else: images, loaders, module and settings. These lines are not counted.

5,400 / 600 / 2,000 images of 28 px (the embedded Fashion-MNIST, effbench's split), 54 steps an epoch, AdamW at one
learning rate, no augmentation, accuracy on the validation split after each epoch and on the test split at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCH = 100  # divides the train split: no loop has an incomplete step, whatever it does with one
EVAL_BATCH = 512
LR, WEIGHT_DECAY = 1e-3, 0.01
DATA = "FRAMEWORKS_DATA"  # environment variable with the path that `prepare` wrote

# Set by the measuring process; called at the start of each forward pass.
on_train_step: Callable[[], None] | None = None
on_evaluation: Callable[[], None] | None = None


class Net(nn.Module):
    """Two convolutions and two linear layers, 52,138 parameters: (B, 1, 28, 28) -> logits (B, num_classes).

    Small, so that a step is short and what a loop adds to it shows.

    Args:
        num_classes: number of logits.
    """

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, num_classes),
        )  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # the clock is in the module, the one part that all loops call: none needs a callback for it
        told = on_train_step if self.training else on_evaluation
        if told is not None:
            told()
        logits: Tensor = self.layers(x_BCHW)
        return logits


def prepare(path: Path) -> None:
    """Write the three splits as an .npz file: float32 images, normalised by train's mean and deviation, and labels.

    The loops read this file, so that only effbench's own imports effbench.
    """
    from effbench.data.images.fashion_mnist import fashion_mnist

    splits = fashion_mnist().named()
    train = splits["train"].images / 255
    mean, std = train.mean(), train.std()
    arrays = {which: ((split.images / 255 - mean) / std).numpy() for which, split in splits.items()}
    labels = {f"{which}_labels": split.labels.numpy() for which, split in splits.items()}
    np.savez(path, **arrays, **labels)


@cache
def tensors(which: str) -> tuple[Tensor, Tensor]:
    """Return images float32 (N, 1, 28, 28) and labels int64 (N,) of train, val or test."""
    with np.load(os.environ[DATA]) as arrays:
        return torch.from_numpy(arrays[which]), torch.from_numpy(arrays[f"{which}_labels"])


class Samples(TensorDataset):
    """torch's TensorDataset, which also reads a batch by one indexing (torch's DataLoader asks for __getitems__).

    Joining single samples would take several times as long as a step of this module.
    """

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, ...]:
        """Return images (B, 1, 28, 28) and labels (B,)."""
        return self[rows]  # type: ignore[index, no-any-return]


def dataset(which: str) -> Samples:
    """Return a split as a dataset for torch's DataLoader with collate_fn=as_is."""
    return Samples(*tensors(which))


def as_is(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the batch, which needs no joining."""
    return batch


def loaders() -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
    """Return loaders of train (shuffled), val and test."""
    train = DataLoader(dataset("train"), BATCH, shuffle=True, collate_fn=as_is)
    val, test = (DataLoader(dataset(which), EVAL_BATCH, collate_fn=as_is) for which in ("val", "test"))
    return train, val, test
