"""Callbacks of conf/callbacks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import save

from effbench.config.options import COUNT
from effbench.data.batches import EvalBatches
from effbench.records import replacing
from effbench.training.callbacks import Callback, Context

PREDICTIONS = "predictions.csv"


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


class KeepPredictions(Callback):
    """Writes the predictions for the test split as predictions.csv: `target,predicted,probability`, a line a sample.

    The samples are in the order of the test split, all of them; the weights are those that were tested. For
    classification only; other tasks get no file.
    """

    @torch.inference_mode()
    def tested(self, context: Context, values: Mapping[str, float]) -> None:
        trainer, splits = context.trainer, context.splits
        if not context.is_main or splits is None or splits.test is None or trainer.task.kind != "class":
            return
        size = trainer.val.batch_size if trainer.val is not None else trainer.train.batch_size
        model = trainer.averaged.model.eval()
        lines = ["target,predicted,probability"]
        for batch in EvalBatches(splits.test, batch_size=size, modality=trainer.train.modality):
            with trainer.precision.autocast():
                outputs = model(batch.inputs)
            predicted_B = outputs.argmax(1)  # as the accuracy counts them
            chances_B = trainer.task.answers(outputs.float()).gather(1, predicted_B.unsqueeze(1)).squeeze(1)
            rows = zip(batch.targets.tolist(), predicted_B.tolist(), chances_B.tolist(), strict=True)
            lines += [f"{target},{predicted},{chance:.6f}" for target, predicted, chance in rows]
        with replacing(context.folder / PREDICTIONS) as stream:
            stream.write("\n".join([*lines, ""]).encode())
