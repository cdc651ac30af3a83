"""Data and networks small enough for thousands of steps a second, and a Trainer over them in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from effbench.data.batches import EvalBatches, TrainBatches
from effbench.data.images.augment import Augment
from effbench.data.images.batch_transform import BatchTransform
from effbench.data.images.modality import Images
from effbench.data.images.pixels import channel_statistics
from effbench.data.images.synthetic import synthetic
from effbench.data.splits import Splits
from effbench.metrics import Accuracy
from effbench.models.cnn import cnn
from effbench.models.mlp import mlp
from effbench.schedulers import Constant
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy, Loss
from effbench.training.callbacks import Callback, Callbacks
from effbench.training.state import Limits
from effbench.training.trainer import Trainer

CLASSES, SIDE = 4, 8


def data(num_train: int = 96, num_val: int = 40, noise: float = 0.8, channels: int = 1) -> Splits:
    """Gray 8 x 8 images of four classes, balanced."""
    return synthetic(num_train, num_val, 8, channels, SIDE, CLASSES, noise)


def unbalanced(splits: Splits) -> Splits:
    """Every other sample of class 0 relabelled as class 1, so that class weights matter."""
    zero = (splits.train.labels == 0).nonzero().flatten()[::2]
    splits.train.labels[zero] = 1
    return splits


def batch_transform(splits: Splits) -> BatchTransform:
    mean, std = channel_statistics(splits.train.images)
    return BatchTransform(tuple(mean), tuple(std))


def modality(splits: Splits, augment: Augment | None = None) -> Images:
    return Images(splits.shape, batch_transform(splits), augment)


def dense(seed: int = 0, hidden: Sequence[int] = (16,), dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return mlp(CLASSES, 1, (SIDE, SIDE), hidden, dropout)


def convolutional(seed: int = 0, dropout: float = 0.5) -> nn.Sequential:
    """With batch norm and dropout: everything that could break a bitwise resume."""
    torch.manual_seed(seed)
    return cnn(CLASSES, 1, (SIDE, SIDE), channels=(4,), hidden=8, dropout=dropout)


def sgd(net: nn.Module, lr: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr, momentum=0.9, **options)


def task(loss: Loss | None = None) -> Classification:
    return Classification(loss or CrossEntropy(), [Accuracy()], CLASSES)


def trainer(
    splits: Splits,
    net: nn.Module,
    steps: int,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Callable[[torch.optim.Optimizer], Any] = Constant,
    batch: dict[str, Any] | None = None,
    validate: bool = False,
    watch: Sequence[Callback] = (),
    loss: Loss | None = None,
    **parts: Any,
) -> Trainer:
    """A Trainer for `steps` optimizer steps; `batch` goes to TrainBatches, `parts` to Trainer."""
    optimizer = optimizer or sgd(net)
    settings = {"batch_size": 32, "num_classes": CLASSES, **(batch or {})}
    images = modality(splits, settings.pop("augment", None))
    assert splits.val is not None
    return Trainer(
        model=net,
        forward=parts.pop("forward", net),
        optimizer=optimizer,
        schedule=schedule(optimizer),
        train=TrainBatches(splits.train, modality=images, **settings),
        val=EvalBatches(splits.val, batch_size=16, modality=images) if validate else None,
        limits=parts.pop("limits", Limits(steps)),
        task=parts.pop("task", None) or task(loss),
        callbacks=Callbacks(watch),
        **parts,
    )


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, through dicts and lists."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


@dataclass
class Rows(Callback):
    """Keeps every row, of steps and of epochs, without the speeds, which differ from run to run."""

    rows: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)

    def logged(self, context: Any, values: Any) -> None:
        self.rows.append({"step": context.state.step, **{k: v for k, v in values.items() if "per_s" not in k}})

    def epoch_end(self, context: Any, values: Any) -> None:
        self.logged(context, values)
        self.epochs.append(self.rows[-1])


@dataclass
class At(Callback):
    """Calls `act(state)` after step `step`."""

    step: int
    act: Callable[[Any], None]

    def step_end(self, context: Any) -> None:
        if context.state.step == self.step:
            self.act(context.state)
