"""What training and evaluation sum over samples, by name: the loss, its weight, samples, and each metric's sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from effbench.metrics import LOSS, Metric

LOSS_SUM, WEIGHT, SAMPLES = "loss", "weight", "samples"
_OWN = (LOSS_SUM, WEIGHT, SAMPLES)  # of the vector's first places


class Tallies:
    """Lays the sums of a task out in one float64 vector, so that a step adds them up and ranks exchange them at once.

    num_outputs: of the model, K of its (B, K).
    """

    def __init__(self, metrics: Sequence[Metric], num_outputs: int):
        self.metrics = tuple(metrics)
        self._sizes = [metric.size(num_outputs) for metric in self.metrics]

    def __len__(self) -> int:
        return len(_OWN) + sum(self._sizes)

    def of(self, loss_sum: Tensor, outputs: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """float64 (len,) on the device for a batch; nothing is read.

        Args:
            loss_sum: () the summed loss. outputs: float (B, K). targets: as the task has them.
            weight: float64 () that the loss is divided by; by default the number of samples.
        """
        samples = torch.full((), len(outputs), dtype=torch.float64, device=outputs.device)
        own = torch.stack([loss_sum.detach().double(), samples if weight is None else weight, samples])
        seen = outputs.detach()
        return torch.cat([own, *(metric.sums(seen, targets) for metric in self.metrics)])

    def values(self, sums: Tensor) -> dict[str, float]:
        """Metric name -> value; {} without samples, no loss for samples of weight 0 alone."""
        numbers = sums.tolist()
        loss, weight, samples = numbers[: len(_OWN)]
        if samples == 0:
            return {}
        found = {LOSS: loss / weight} if weight else {}
        for metric, part in zip(self.metrics, self._parts(numbers[len(_OWN) :]), strict=True):
            value = metric.value(part, samples)
            if value is not None:
                found[metric.name] = value
        return found

    def named(self, sums: Tensor) -> dict[str, Tensor]:
        """The vector by name, as checkpoints hold it."""
        own = dict(zip(_OWN, sums[: len(_OWN)], strict=True))
        metrics = zip(self.metrics, self._parts(sums[len(_OWN) :]), strict=True)
        return {**own, **{f"metric/{metric.name}": part.clone() for metric, part in metrics}}

    def from_named(self, named: Mapping[str, Any]) -> Tensor:
        """The vector of `named`; zeros for a metric that was not measured then."""
        sums = torch.zeros(len(self), dtype=torch.float64)
        for place, name in enumerate(_OWN):
            sums[place] = named[name]
        for metric, part in zip(self.metrics, self._parts(sums[len(_OWN) :]), strict=True):
            before = named.get(f"metric/{metric.name}")
            if before is not None and len(before) == len(part):
                part.copy_(before)
        return sums

    def _parts(self, values: Any) -> list[Any]:
        """Cut into each metric's own."""
        ends = [sum(self._sizes[: index + 1]) for index in range(len(self._sizes))]
        return [values[end - size : end] for end, size in zip(ends, self._sizes, strict=True)]
