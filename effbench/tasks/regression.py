"""Regression: numbers to predict."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effbench.config.monitors import AUTO
from effbench.data.split_checks import kind_of
from effbench.data.splits import Splits
from effbench.errors import ConfigError, DataError, shown
from effbench.metrics import Metric
from effbench.tasks.losses import Loss, MeanSquaredError, OfTorch, checked_sum
from effbench.tasks.target_scale import Standardised, TargetScale, deviations, near
from effbench.tasks.target_spread import TargetSpread
from effbench.tasks.task import Task

log = logging.getLogger(__name__)

_SHOWN = 3  # values in a line of the log


class Regression(Task):
    """Targets float32 (N, D), or (N,) for one value. Outputs (B, D).

    Evaluated by mean squared error in the squared unit of the targets, whatever the loss. `rows`, `answers`, metrics
    and logged losses have the unit of the targets. `classes` of the dataset are the names of the D values. With
    `standardise`, model and training loss work in standard deviations of the train targets from their mean: targets of
    200,000 would need as many steps of the last layer's bias. A loss's option in the unit of the targets, such as
    Huber's delta, then counts in deviations.

    Args:
        loss, metrics, num_outputs: see Task.
        standardise: true, false, or auto until the config is settled, which counts as true.

    Raises:
        ConfigError: standardise is something else.
    """

    kind = "values"
    answer = "the output itself"
    # No loss_unit: it is the square of the targets' unit, which only the user knows.
    remedy = "Write loss=mse, and metrics such as mae, rmse."
    evaluated_by = MeanSquaredError()
    prediction_check = TargetSpread

    def __init__(self, loss: Loss, metrics: Sequence[Metric], num_outputs: int, standardise: bool | str = False):
        super().__init__(loss, metrics, num_outputs)
        if not (isinstance(standardise, bool) or standardise == AUTO):
            raise ConfigError(f"task.standardise must be true, false or auto; got {shown(standardise)}.")
        self.standardise, self.num_outputs = bool(standardise), num_outputs
        self.scale = TargetScale()

    def fit(self, data: Splits) -> None:
        targets_ND = self.targets_of(f"{data.name} train", data.train.labels, len(data.classes))
        _check_constant(data, targets_ND)
        if self.standardise:
            self.scale = Standardised.fit(targets_ND)

    def record(self) -> dict[str, Any]:
        return self.scale.record()

    def restore(self, recorded: Mapping[str, Any]) -> None:
        if self.standardise:
            self.scale = Standardised.restored(recorded, self.num_outputs)

    def note(self, names: Sequence[str]) -> str | None:
        if not isinstance(self.scale, Standardised):
            return None
        found = [
            f"{name} {mean:.6g} and {std:.6g}"
            for name, mean, std in zip(names, self.scale.mean, self.scale.std, strict=True)
        ]
        more = f" … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return (
            f"task.standardise: trained on (target - mean) / deviation of train: {', '.join(found[:_SHOWN])}{more}; "
            f"all figures keep the target's unit{self._width_note(names)}"
        )

    def _width_note(self, names: Sequence[str]) -> str:
        """Return what the option of a loss counts in that is meant in the unit of the targets; '' without one."""
        if not isinstance(self.scale, Standardised) or not isinstance(self.loss, OfTorch) or self.loss.width is None:
            return ""
        key = f"loss.{self.loss.width}"
        value = float(getattr(self.loss.module, self.loss.width))
        stands = [f"{value * std:.6g} for {name}" for name, std in zip(names, self.scale.std, strict=True)]
        text = f"; {key}={value:g} counts in deviations: it is {', '.join(stands[:_SHOWN])}"
        if len(stands) > 1:
            return text + " …" * (len(stands) > _SHOWN)
        return f"{text} (for {value:g} itself write {key}={value / self.scale.std[0]:.3g})"

    def rescaler(self) -> nn.Module:
        return self.scale.module()

    def targets_of(self, name: str, targets: Tensor, num_classes: int) -> Tensor:
        if targets.dtype == torch.int64 and targets.dim() == 1:  # in every task these are classes
            raise DataError(
                f"{name} targets must be numbers to predict for task=regression; they are class numbers. Write "
                "data.targets=values if the data have such a column (text_csv, table_csv), or task=classification."
            )
        values_ND = targets.to(torch.float32)
        # (N,) and outputs (B, 1) would broadcast to (B, B): mse_loss warns, and trains on wrong pairs
        if values_ND.dim() == 1:
            values_ND = values_ND.unsqueeze(1)
        if values_ND.shape[1] != num_classes:
            raise DataError(
                f"{name} targets must be (N, {num_classes}), one number for each name in `classes`, for "
                f"task=regression; got {kind_of(targets)}. Name each value in `classes`."
            )
        # after the conversion: 1e300 is infinite in float32
        odd = (~values_ND.isfinite()).any(1).nonzero().flatten()
        if len(odd):
            first = int(odd[0])
            raise DataError(
                f"{name} targets must be finite for task=regression; sample {first} has "
                f"{values_ND[first].tolist()!s:.60} ({len(odd)} such samples)."
            )
        return values_ND

    def rows(self, outputs: Tensor, targets: Tensor, full: bool = False) -> tuple[Tensor, Tensor]:
        del full
        return self.scale.in_unit(outputs), targets

    def training_loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.scale, Standardised):
            return super().training_loss(outputs, targets)
        standardised = self.scale.standardised
        loss = checked_sum(self.loss, standardised(outputs), standardised(targets))
        # double: the square of 1e20 is infinite in float32
        outputs, targets = outputs.detach().double(), targets.double()
        if isinstance(self.loss, OfTorch) and self.loss.width:
            # its delta counts in deviations: of values in their own unit it would be another function
            unit_D = self.scale.deviations(outputs).double()
            return loss, self.loss.summed_in_unit(standardised(outputs), standardised(targets), unit_D)
        return loss, self.loss.summed(outputs, targets)

    def plain_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.scale.standardises:
            outputs, targets = outputs.double(), targets.double()
        return super().plain_loss(outputs, targets)

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the outputs in the unit of the targets."""
        return self.scale.in_unit(outputs)

    def same_answer(self, expected: Tensor, got: Tensor, tie: float) -> Tensor:
        """Return True where outputs, as of `answers`, differ by less than a thousandth of the targets' deviation.

        Without `standardise` for all: the export tolerance alone decides how far outputs may differ, and where a
        measurement compares runtimes, `same_answer_among`.
        """
        del tie
        return self.scale.same(expected, got)

    def same_answer_among(self, values: Tensor) -> Callable[[Tensor, Tensor, float], Tensor]:
        """Return `same_answer`; where nothing is standardised, with the deviation of the values, (N, D) or (N,)."""
        if self.scale.standardises:
            return self.same_answer
        std_D = deviations(values if values.dim() > 1 else values.unsqueeze(1)).float()
        return lambda expected, got, tie: self.same_answer(expected, got, tie) & near(expected, got, std_D)

    def described(self, answers: Sequence[float], names: Sequence[str], top_k: int) -> dict[str, Any]:
        """Return {values: {name: value}}."""
        del top_k
        # not rounded: the size of the numbers is the user's
        return {"values": dict(zip(names, answers, strict=True))}


def _check_constant(data: Splits, targets_ND: Tensor) -> None:
    """Refuse targets that are all constant in train; warn of some. Raises DataError."""
    constant_D = targets_ND.amin(0) == targets_ND.amax(0)
    found = [f"{data.classes[place]!r} ({float(targets_ND[0, place]):g})" for place in constant_D.nonzero().flatten()]
    if not found:
        return
    one = len(found) == 1
    what = f"the target{'' if one else 's'} {', '.join(found[:_SHOWN])}{' …' * (len(found) > _SHOWN)}"
    what += f" {'has' if one else 'have'} one value in all {len(targets_ND)} {data.modality.unit}s of train"
    if len(found) == len(data.classes):
        raise DataError(f"{data.name}: {what}: there is nothing to learn. Name another target, or give more data.")
    log.warning(f"{data.name}: {what}: there is nothing to learn for {'it' if one else 'them'}")
