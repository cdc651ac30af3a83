"""What a model answers, counted by class: a model that has learnt nothing answers with one class alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effbench.training.distributed import Ranks
from effbench.units import percent

LEAST_FOR_ONE, LEAST_FOR_SHARE = 10, 20  # evaluated images; with fewer, one answer or a share is mostly chance


class ClassCounts:
    """Predictions and labels of one evaluation; kept on the device, read when asked for."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def add(self, logits_BK: Tensor, targets_B: Tensor) -> None:
        if self._counts is None:
            self._counts = torch.zeros(2, logits_BK.shape[1], dtype=torch.float64, device=logits_BK.device)
        ones = torch.ones_like(targets_B, dtype=torch.float64)
        for row, classes_B in enumerate((logits_BK.argmax(1), targets_B)):
            self._counts[row].index_add_(0, classes_B, ones)

    def agree(self, ranks: Ranks) -> None:
        """Adds up those of all processes."""
        if self._counts is not None:
            self._counts = ranks.sum(self._counts)

    def complaint(self, which: str, accuracy: float, classes: Sequence[str]) -> str | None:
        """What is wrong with a model of such predictions and accuracy on the split `which`; None if nothing is."""
        if self._counts is None:
            return None
        predicted, labels = (list(map(int, row)) for row in self._counts.tolist())
        images, largest = sum(labels), max(labels)
        if largest == images or images < LEAST_FOR_ONE:
            return None
        answers = [name for name, count in zip(classes, predicted, strict=True) if count]
        if len(answers) == 1:
            return f"{which}: the model answers '{answers[0]}' for all of the {images} images{_REMEDY}"
        if images < LEAST_FOR_SHARE or round(accuracy * images) > largest:
            return None
        name = classes[labels.index(largest)]
        return (
            f"{which} accuracy {percent(accuracy)} is no better than always answering '{name}', the largest class "
            f"({largest} of {images} images){_REMEDY}"
        )


_REMEDY = (
    ". It has not learnt to tell the classes apart: train longer (trainer.max_epochs), or try another optimizer.lr"
)
