"""Loss and accuracy of a model over a split, from exact counts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.data.batches import Batch
from effbench.training.class_counts import ClassCounts
from effbench.training.distributed import Ranks
from effbench.training.precision import Precision


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    precision: Precision,
    ranks: Ranks,
    by_class: ClassCounts | None = None,
) -> tuple[float, float]:
    """(mean cross-entropy in nats, accuracy in [0, 1]) over every sample of every rank; leaves the model in eval mode.

    The loss is plain: no smoothing, no class weights, so that runs which train on other losses can be compared.
    by_class: what counts the predictions of each class, too.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    on_device: Tensor | None = None
    for batch in batches:
        with precision.autocast():
            logits_BK = model(batch.inputs)
        on_device = counts(F.cross_entropy(logits_BK.float(), batch.targets, reduction="sum"), logits_BK, batch)
        if by_class is not None:
            by_class.add(logits_BK, batch.targets)
        sums = sums.to(on_device.device)
        sums += on_device
    if by_class is not None:
        by_class.agree(ranks)
    loss, correct, samples, _ = ranks.sum(sums).tolist()
    return loss / samples, correct / samples


def counts(loss_sum: Tensor, logits_BK: Tensor, batch: Batch, weight: Tensor | None = None) -> Tensor:
    """float64 (4,) on the device: summed loss, correct predictions, samples, and what the loss is to be divided by.

    weight: that divisor, by default the number of samples. Mixed labels count by their largest.
    """
    labels = batch.targets if batch.targets.dim() == 1 else batch.targets.argmax(1)
    correct = (logits_BK.detach().argmax(1) == labels).sum(dtype=torch.float64)
    samples = torch.full_like(correct, len(batch))
    return torch.stack([loss_sum.detach().double(), correct, samples, samples if weight is None else weight])
