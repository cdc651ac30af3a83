"""Sums over samples, by name: the loss, its weight, the number of samples, and the sums of each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from effbench.metrics import LOSS, Metric

LOSS_SUM, WEIGHT, SAMPLES = "loss", "weight", "samples"
_OWN = (LOSS_SUM, WEIGHT, SAMPLES)  # the first entries of the vector


class Tallies:
    """All sums of a task in one float64 vector, so that a step adds and ranks exchange them in one operation.

    Args:
        metrics: the task's metrics.
        num_outputs: outputs of the model, K of (B, K).
    """

    def __init__(self, metrics: Sequence[Metric], num_outputs: int):
        self.metrics = tuple(metrics)
        self._sizes = [metric.size(num_outputs) for metric in self.metrics]

    def __len__(self) -> int:
        return len(_OWN) + sum(self._sizes)

    def of(self, loss_sum: Tensor, outputs: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the vector of a batch, float64 (len,) on the device. Nothing is read from the device.

        Args:
            loss_sum: the summed loss, ().
            outputs: float (B, K).
            targets: as the task has them.
            weight: float64 (), what the loss is divided by; None: the number of samples.
        """
        # created on the device: a copy from the host would synchronize a GPU
        samples = torch.full((), len(outputs), dtype=torch.float64, device=outputs.device)
        own = torch.stack([loss_sum.detach().double(), samples if weight is None else weight, samples])
        seen = outputs.detach()  # metrics must not keep the graph, and so the activations, alive
        return torch.cat([own, *(metric.sums(seen, targets) for metric in self.metrics)])

    def values(self, sums: Tensor) -> dict[str, float]:
        """Return metric name -> value: {} without samples, no loss if all samples have weight 0."""
        numbers = sums.tolist()  # the only read from the device
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
        """Return the vector as name -> tensor, as checkpoints hold it."""
        own = dict(zip(_OWN, sums[: len(_OWN)], strict=True))
        metrics = zip(self.metrics, self._parts(sums[len(_OWN) :]), strict=True)
        return {**own, **{f"metric/{metric.name}": part.clone() for metric, part in metrics}}

    def from_named(self, named: Mapping[str, Any]) -> Tensor:
        """Return the vector of `named`, with zeros for a metric that was not measured then."""
        sums = torch.zeros(len(self), dtype=torch.float64)
        for place, name in enumerate(_OWN):
            sums[place] = named[name]
        # By name, not by position: a resumed run may have other metrics, or the same in another order.
        for metric, part in zip(self.metrics, self._parts(sums[len(_OWN) :]), strict=True):
            before = named.get(f"metric/{metric.name}")
            if before is not None and len(before) == len(part):
                part.copy_(before)
        return sums

    def _parts(self, values: Any) -> list[Any]:
        """Cut the values into the parts of each metric."""
        ends = [sum(self._sizes[: index + 1]) for index in range(len(self._sizes))]
        return [values[end - size : end] for end, size in zip(ends, self._sizes, strict=True)]
