"""Evaluation: the plain loss and the metrics of a model over a split."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from effbench.data.batches import Batch
from effbench.tasks.task import PredictionCheck, Task
from effbench.training.distributed import DistributedContext
from effbench.training.precision import Precision


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    precision: Precision,
    ranks: DistributedContext,
    task: Task,
    check: PredictionCheck | None = None,
) -> dict[str, float]:
    """Return metric name -> value over all samples of all ranks, with the loss; leave the model in eval mode.

    The loss is the task's plain one, without smoothing and weights, so that runs with different losses compare.

    Args:
        model: the model.
        batches: this rank's part of the split.
        precision: number formats of the forward passes.
        ranks: the processes whose sums are added.
        task: the task.
        check: also gets the predictions.
    """
    model.eval()
    # Summed, not averaged over batches: the last batch may be smaller, and ranks may have different numbers of samples.
    sums = torch.zeros(len(task.tallies), dtype=torch.float64)
    for batch in batches:
        with precision.autocast():
            outputs, targets = task.rows(model(batch.inputs), batch.targets)
        # float(): in bfloat16 the loss of a sample would have 3 digits.
        one = task.tallies.of(task.plain_loss(outputs.float(), targets), outputs, targets)
        if check is not None:
            check.add(outputs, targets)
        sums = sums.to(one.device) + one  # stays on the device: reading it here would wait for each batch
    if check is not None:
        check.agree(ranks)
    return task.tallies.values(ranks.sum(sums))
