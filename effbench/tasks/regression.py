"""Regression: numbers to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.data.split_checks import as_values
from effbench.tasks.task import Task


class Regression(Task):
    """Targets float32 (N, D), or (N,) for one value. Outputs (B, D). Evaluated by squared error.

    Outputs have the unit of the targets. `classes` of the dataset are the names of the D values.
    """

    kind = "values"
    answer = "the output itself"
    remedy = "Write loss=mse, and metrics such as mae, rmse."

    def targets_of(self, name: str, targets: Tensor, num_classes: int) -> Tensor:
        return as_values(name, targets, num_classes)

    def plain_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets, reduction="none").mean(1).sum()

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the outputs unchanged."""
        return outputs

    def same_answer(self, expected: Tensor, got: Tensor, tie: float) -> Tensor:
        """Return True for all: the export tolerance alone decides how far outputs may differ."""
        return expected.new_ones(len(expected), dtype=torch.bool)

    def described(self, answers: Sequence[float], names: Sequence[str], top_k: int) -> dict[str, Any]:
        """Return {values: {name: value}}."""
        del top_k
        return {"values": dict(zip(names, answers, strict=True))}
