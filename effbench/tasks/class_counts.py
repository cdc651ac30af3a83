"""Counts of predicted classes, to warn about a model that predicts one class only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from effbench.metrics import ACCURACY
from effbench.tasks.task import SummedCheck
from effbench.units import percent

LEAST_FOR_ONE, LEAST_FOR_SHARE = 10, 20  # evaluated samples; with fewer, one answer or a fraction is mostly chance


class ClassCounts(SummedCheck):
    """Counts predictions and labels of one evaluation by class."""

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        counts_2K = torch.zeros(2, outputs.shape[1], dtype=torch.float64, device=outputs.device)
        ones_B = torch.ones_like(targets, dtype=torch.float64)  # counts exactly
        for row, classes_B in enumerate((outputs.argmax(1), targets)):
            counts_2K[row].index_add_(0, classes_B, ones_B)
        return counts_2K

    def complaint(
        self, which: str, values: Mapping[str, float], classes: Sequence[str], unit: str = "image", seen: bool = True
    ) -> str | None:
        if self._sums is None:
            return None
        predicted, labels = (list(map(int, row)) for row in self._sums.tolist())
        samples, largest = sum(labels), max(labels)
        # with one class in the split, predicting only that class is right
        if largest == samples or samples < LEAST_FOR_ONE:
            return None
        answers = [name for name, count in zip(classes, predicted, strict=True) if count]
        if seen and len(answers) == 1:
            return f"{which}: the model predicts '{answers[0]}' for all of the {samples} {unit}s{_REMEDY}"
        accuracy = values.get(ACCURACY)
        # hits as a whole number: the product may be 39.999999
        if accuracy is None or samples < LEAST_FOR_SHARE or round(accuracy * samples) > largest:
            return None
        name = classes[labels.index(largest)]
        return (
            f"{which} accuracy {percent(accuracy)} is no better than always predicting '{name}', the largest class "
            f"({largest} of {samples} {unit}s){_REMEDY}"
        )


_REMEDY = (
    ". It has not learnt to distinguish the classes: train longer (trainer.max_epochs), or try another optimizer.lr"
)
