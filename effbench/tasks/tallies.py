"""Sums over samples, by name: the loss, its weight, the number of samples, and the sums of each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from effbench.errors import ConfigError
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
        ends = list(accumulate((metric.size(num_outputs) for metric in self.metrics), initial=len(_OWN)))
        self._length = ends[-1]
        # The numbers of each metric in the vector: (metric, slice).
        self._parts = list(zip(self.metrics, map(slice, ends, ends[1:]), strict=True))

    def __len__(self) -> int:
        return self._length

    def of(self, loss_sum: Tensor, outputs: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the vector of a batch, float64 (len,) on the device. Nothing is read from the device.

        Args:
            loss_sum: the summed loss, ().
            outputs: float (B, K), a row for each target that counts.
            targets: as the task has them.
            weight: float64 (), what the loss is divided by; None: the number of samples.
        """
        # created on the device: a copy from the host would synchronize a GPU
        samples = torch.full((), len(outputs), dtype=torch.float64, device=outputs.device)
        own = torch.stack([loss_sum.detach().double(), samples if weight is None else weight, samples])
        seen = outputs.detach()  # metrics must not keep the graph, and so the activations, alive
        return torch.cat([own, *(_sums(metric, seen, targets, part) for metric, part in self._parts)])

    def values(self, sums: Tensor, prefix: str = "") -> dict[str, float]:
        """Return metric name -> value: {} without samples, no loss if all samples have weight 0.

        Args:
            sums: the vector.
            prefix: of the names, such as 'train/'.
        """
        numbers = sums.tolist()  # the only read from the device
        loss, weight, samples = numbers[: len(_OWN)]
        if samples == 0:
            return {}
        found = {f"{prefix}{LOSS}": loss / weight} if weight else {}
        for metric, part in self._parts:
            value = metric.value_with_loss(numbers[part], samples, loss)
            if value is not None:
                if not isinstance(value, int | float) or isinstance(value, bool):
                    raise ConfigError(
                        f"task.metrics: {_name(metric)}.value must return a number or None; got "
                        f"{type(value).__name__}. Write float(...)."
                    )
                found[f"{prefix}{metric.name}"] = value
        return found

    def named(self, sums: Tensor) -> dict[str, Tensor]:
        """Return the vector as name -> tensor, as checkpoints hold it."""
        own = dict(zip(_OWN, sums[: len(_OWN)], strict=True))
        # clone: torch.save writes the whole memory behind a view, for each metric again
        return {**own, **{f"metric/{metric.name}": sums[part].clone() for metric, part in self._parts}}

    def from_named(self, named: Mapping[str, Any]) -> Tensor:
        """Return the vector of `named`, with zeros for a metric that was not measured then."""
        sums = torch.zeros(len(self), dtype=torch.float64)
        for place, name in enumerate(_OWN):
            sums[place] = named[name]
        # By name, not by position: a resumed run may have other metrics, or the same in another order.
        for metric, part in self._parts:
            before = named.get(f"metric/{metric.name}")
            # Another length: the metric of a user's may count something else since.
            if before is not None and len(before) == len(sums[part]):
                sums[part] = before
        return sums


def _sums(metric: Metric, outputs: Tensor, targets: Tensor, part: slice) -> Tensor:
    """Return a metric's sums of a batch. Raises ConfigError unless they are as many as its size."""
    sums, size = metric.sums(outputs, targets), part.stop - part.start
    # others would move the numbers of the metrics after it
    if not isinstance(sums, Tensor) or tuple(sums.shape) != (size,):
        got = tuple(sums.shape) if isinstance(sums, Tensor) else type(sums).__name__
        raise ConfigError(f"task.metrics: {_name(metric)}.sums must return its size, a ({size},) tensor; got {got}.")
    return sums


def _name(metric: Metric) -> str:
    return f"{type(metric).__module__}.{type(metric).__qualname__}"
