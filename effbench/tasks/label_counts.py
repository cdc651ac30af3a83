"""Counts of predicted labels, to warn about a model that gives all samples the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from effbench.metrics import LabelAccuracy
from effbench.tasks.class_counts import LEAST_FOR_ONE, LEAST_FOR_SHARE
from effbench.tasks.task import SummedCheck
from effbench.units import percent


class LabelCounts(SummedCheck):
    """Counts labels in one evaluation: of all samples, those predicted, those present."""

    def __init__(self) -> None:
        super().__init__()
        self._labels = 0  # of a sample

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._labels = outputs.shape[1]
        parts_BK = torch.ones_like(targets), outputs > 0, targets > 0.5
        return torch.stack([part_BK.sum(dtype=torch.float64) for part_BK in parts_BK])

    def complaint(
        self, which: str, values: Mapping[str, float], classes: Sequence[str], unit: str = "image", seen: bool = True
    ) -> str | None:
        if self._sums is None:
            return None
        labels, predicted, present = map(int, self._sums.tolist())
        samples = labels // self._labels
        # where all labels are absent, or all present, predicting just that is right
        if present in (0, labels) or samples < LEAST_FOR_ONE:
            return None
        if seen and predicted in (0, labels):
            which_labels = "no label for any" if predicted == 0 else "every label for each"
            return (
                f"{which}: the model predicts {which_labels} of the {samples} {unit}s. It has not learnt to "
                f"tell them apart: {_REMEDY}"
            )
        accuracy, usual = values.get(LabelAccuracy.name), max(present, labels - present)
        # labels that are right as a whole number: the product may be 39.999999
        if accuracy is None or samples < LEAST_FOR_SHARE or round(accuracy * labels) > usual:
            return None
        word = "absent" if 2 * present <= labels else "present"
        return (
            f"{which} label accuracy {percent(accuracy)} is no better than predicting every label {word} "
            f"({percent(usual / labels)}): judge by macro_f1, and if that is low, too, {_REMEDY}"
        )


_REMEDY = "train longer (trainer.max_epochs), try another optimizer.lr, or for rare labels a larger loss.pos_weight"
