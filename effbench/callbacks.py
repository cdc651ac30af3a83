"""Callbacks of conf/callbacks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import save

from effbench.config.options import COUNT
from effbench.records import replacing
from effbench.training.callbacks import Callback, Context


class KeepWeights(Callback):
    """Writes the evaluated weights (with ema=on the averaged ones) every `every_n_epochs` epochs.

    Checkpoints keep only the best and the newest weights. model.pretrained=FILE reads these files.

    Args:
        every_n_epochs: epochs between two files, >= 1.

    Raises:
        OptionError: every_n_epochs is not a whole number >= 1.
    """

    def __init__(self, every_n_epochs: int = 1):
        self._every: int = COUNT.check(
            every_n_epochs, "callbacks.keep_weights.every_n_epochs", remedy="1 keeps the weights of every epoch."
        )

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        state = context.state
        if state.batch or state.epoch % self._every:
            return
        # on every rank, because it may change the state that a checkpoint holds (batch norm statistics, splits)
        weights = context.evaluated_weights()
        if not context.is_main:
            return
        path = context.folder / "weights" / f"epoch-{state.epoch:04d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        # contiguous: safetensors refuses channels-last tensors
        packed = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
        with replacing(path) as stream:
            stream.write(save(packed))
