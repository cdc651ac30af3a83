"""Regression: numbers to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effbench.data.split_checks import kind_of
from effbench.errors import DataError
from effbench.tasks.losses import MeanSquaredError
from effbench.tasks.task import Task


class Regression(Task):
    """Targets float32 (N, D), or (N,) for one value. Outputs (B, D). Evaluated by squared error.

    Outputs have the unit of the targets. `classes` of the dataset are the names of the D values.
    """

    kind = "values"
    answer = "the output itself"
    # No loss_unit: it is the square of the targets' unit, which only the user knows.
    remedy = "Write loss=mse, and metrics such as mae, rmse."
    evaluated_by = MeanSquaredError()

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

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the outputs unchanged."""
        return outputs

    def same_answer(self, expected: Tensor, got: Tensor, tie: float) -> Tensor:
        """Return True for all: the export tolerance alone decides how far outputs may differ."""
        return expected.new_ones(len(expected), dtype=torch.bool)

    def described(self, answers: Sequence[float], names: Sequence[str], top_k: int) -> dict[str, Any]:
        """Return {values: {name: value}}."""
        del top_k
        # not rounded: the size of the numbers is the user's
        return {"values": dict(zip(names, answers, strict=True))}
