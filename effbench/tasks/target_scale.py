"""The unit of a regression's outputs: that of the targets, or standard deviations of the train targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MEAN, STD = "target_mean", "target_std"  # in the record
_SAME = 1e-3  # standard deviations: two outputs that are so near mean the same


def deviations(values: Tensor) -> Tensor:
    """Return the standard deviation of each column of (N, D), float64; 1 where all values are equal."""
    values = values.double()  # sums of float32 would lose digits over many rows
    std = values.std(0, correction=0)
    # of equal values the deviation may be a rounding error instead of 0
    return torch.where(values.amin(0) == values.amax(0), 1.0, std)


def near(expected: Tensor, got: Tensor, std_D: Tensor) -> Tensor:
    """Return bool (N,): True where two rows (N, D) differ by less than a thousandth of the deviations.

    Args:
        expected: values.
        got: values in the same unit.
        std_D: standard deviation of each column.
    """
    # Where the mean is far larger than the deviation, float32 itself is coarser than _SAME.
    rounding = 4 * torch.finfo(torch.float32).eps * expected.abs()
    return ((got - expected).abs() <= _SAME * std_D + rounding).all(1)


class TargetScale:
    """The model's outputs have the unit of the targets: nothing is converted."""

    standardises = False

    def in_unit(self, outputs: Tensor) -> Tensor:
        """Return the model's outputs (B, D) in the unit of the targets."""
        return outputs

    def standardised(self, values: Tensor) -> Tensor:
        """Return values (B, D) in the unit of the targets as the model gives them."""
        return values

    def same(self, expected: Tensor, got: Tensor) -> Tensor:
        """Return bool (N,): True where two rows (N, D) in the unit of the targets mean the same."""
        del got
        return expected.new_ones(len(expected), dtype=torch.bool)

    def module(self) -> nn.Module:
        """Return `in_unit` as a module, for export."""
        return nn.Identity()

    def record(self) -> dict[str, Any]:
        """Return what `restored` needs as plain values."""
        return {}


class Standardised(TargetScale):
    """The model's outputs are (value - mean) / std: weights that start near 0 begin near the mean.

    Args:
        mean: (D,), mean of each target in the train split.
        std: (D,), standard deviation; 1 for a constant target.
    """

    standardises = True

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = list(mean), list(std)
        self._module = Rescale(self.mean, self.std)

    @classmethod
    def fit(cls, targets: Tensor) -> Standardised:
        """Return the scale of targets, float32 (N, D)."""
        return cls(targets.double().mean(0).tolist(), deviations(targets).tolist())

    @classmethod
    def restored(cls, recorded: Mapping[str, Any], count: int) -> Standardised:
        """Return the scale of a record.

        Args:
            recorded: holds the entries of `record`.
            count: D.

        Raises:
            ValueError: the record is damaged.
        """
        mean, std = recorded.get(MEAN), recorded.get(STD)
        sound = all(
            isinstance(values, list) and len(values) == count and all(map(_is_finite, values)) for values in (mean, std)
        )
        if mean is None or std is None or not sound or min(std) <= 0:
            raise ValueError(f"it needs task.{MEAN} and task.{STD}, {count} numbers each")
        return cls(mean, std)

    def in_unit(self, outputs: Tensor) -> Tensor:
        rescaled: Tensor = self._on(outputs)(outputs)
        return rescaled

    def standardised(self, values: Tensor) -> Tensor:
        module = self._on(values)
        return (values - module.mean) / module.std

    def deviations(self, like: Tensor) -> Tensor:
        """Return the standard deviation of each target, float32 (D,), on the device of `like`."""
        return self._on(like).std

    def same(self, expected: Tensor, got: Tensor) -> Tensor:
        return near(expected, got, self._on(expected).std)

    def module(self) -> nn.Module:
        return Rescale(self.mean, self.std)  # a new one: an export moves and freezes it

    def record(self) -> dict[str, Any]:
        return {MEAN: self.mean, STD: self.std}

    def _on(self, like: Tensor) -> Rescale:
        # Moved once, not for each batch. A resumed run may begin with a validation, whose tensors autograd cannot use.
        if self._module.mean.device != like.device:
            with torch.inference_mode(False):
                self._module = self._module.to(like.device)
        return self._module


class Rescale(nn.Module):
    """y * std + mean for (B, D), in float32 also if the outputs are 16-bit floats.

    Args:
        mean: (D,).
        std: (D,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        # buffers, not parameters: exporters store them as constants
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, outputs: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return outputs * self.std + self.mean


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
