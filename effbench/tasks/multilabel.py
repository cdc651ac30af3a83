"""Multi-label classification: any number of labels a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effbench.data.split_checks import kind_of
from effbench.errors import DataError
from effbench.tasks.by_class import ByLabel
from effbench.tasks.label_counts import LabelCounts
from effbench.tasks.losses import BinaryCrossEntropy
from effbench.tasks.task import Task


class Multilabel(Task):
    """Targets float32 (N, K) of 0 and 1. Outputs (B, K): one logit a label.

    Evaluated by plain binary cross-entropy in nats, without pos_weight, whatever the loss.
    """

    kind = "labels"
    answer = "sigmoid of each label's output"
    loss_unit = "nats"
    remedy = "Write loss=bce, and metrics such as macro_f1, label_acc."
    evaluated_by = BinaryCrossEntropy()
    prediction_check = LabelCounts
    breakdown = ByLabel

    def targets_of(self, name: str, targets: Tensor, num_classes: int) -> Tensor:
        if targets.dtype == torch.int64 and targets.dim() == 1:  # in every task these are classes
            raise DataError(
                f"{name} labels must be (N, {num_classes}) of 0 and 1 for task=multilabel; they are class numbers. "
                "Write data.targets=labels if the data have such columns (text_csv, table_csv), or task=classification."
            )
        if targets.dim() != 2 or targets.shape[1] != num_classes:
            raise DataError(
                f"{name} labels must be (N, {num_classes}) of 0 and 1, one column for each name in `classes`, for "
                f"task=multilabel; got {kind_of(targets)}."
            )
        # not a range check: 0.3 would train as a soft label, which no metric could count
        odd = ((targets != 0) & (targets != 1)).any(1).nonzero().flatten()
        if len(odd):
            first = int(odd[0])
            raise DataError(
                f"{name} labels must be 0 or 1 for task=multilabel; sample {first} has "
                f"{targets[first].tolist()!s:.60} ({len(odd)} such samples)."
            )
        # binary_cross_entropy_with_logits refuses integer targets
        return targets.to(torch.float32)

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the probability of each label."""
        return outputs.sigmoid()

    def same_answer(self, expected: Tensor, got: Tensor, tie: float) -> Tensor:
        """Return True where the same labels are present; outputs within `tie` of 0 count as equal."""
        # an output of 0 is a probability of 0.5, the threshold of `described`
        return (((expected > 0) == (got > 0)) | (expected.abs() <= tie)).all(1)

    def described(self, answers: Sequence[float], names: Sequence[str], top_k: int) -> dict[str, Any]:
        """Return {labels: those with a probability above 0.5, probabilities: {label: probability}}."""
        del top_k
        # rounded first: a label printed with 0.5 must not be among those above 0.5
        rounded = {name: round(answer, 6) for name, answer in zip(names, answers, strict=True)}
        return {"labels": [name for name, answer in rounded.items() if answer > 0.5], "probabilities": rounded}
