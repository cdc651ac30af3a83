"""Squared errors against the variance of the targets, to warn about a model that is no better than their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from effbench.metrics import RootMeanSquaredError
from effbench.tasks.class_counts import LEAST_FOR_SHARE
from effbench.tasks.task import SummedCheck

_SHOWN = 3  # values in a message


class TargetSpread(SummedCheck):
    """Sums of one evaluation for each target: samples, squared errors, targets and their squares."""

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        y_BD = targets.double()
        rows = (torch.ones_like(y_BD), (outputs.double() - y_BD).square(), y_BD, y_BD.square())
        return torch.stack([row_BD.sum(0) for row_BD in rows])

    def complaint(
        self, which: str, values: Mapping[str, float], classes: Sequence[str], unit: str = "image", seen: bool = True
    ) -> str | None:
        if self._sums is None:
            return None
        counts, errors, sums, squares = self._sums.tolist()
        samples = int(counts[0])
        if samples < LEAST_FOR_SHARE:
            return None
        variances = [_variance(y / samples, square / samples) for y, square in zip(sums, squares, strict=True)]
        if seen:
            found = [
                f"'{name}' (rmse {math.sqrt(error / samples):.4g}, standard deviation {math.sqrt(variance):.4g})"
                for name, error, variance in zip(classes, errors, variances, strict=True)
                if error / samples >= variance > 0
            ]
        else:
            # of other weights the ranking alone tells a value, over all targets
            rmse, spread = values.get(RootMeanSquaredError.name, 0.0), math.sqrt(sum(variances) / len(variances))
            found = [f"the targets (rmse {rmse:.4g}, standard deviation {spread:.4g})"] if rmse >= spread > 0 else []
        if not found:
            return None
        more = f" … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return (
            f"{which}: the predictions are no better than the mean over all {samples} {unit}s for "
            f"{', '.join(found[:_SHOWN])}{more}. Train longer (trainer.max_epochs), or try another optimizer.lr"
        )


def _variance(mean: float, mean_square: float) -> float:
    """Return the variance; 0 for a constant target, where rounding leaves some."""
    variance = mean_square - mean**2
    return variance if variance > 1e-12 * mean_square else 0.0
