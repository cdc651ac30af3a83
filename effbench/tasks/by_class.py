"""Counts of an evaluation by class or label, of which precision, recall, F1 and the confusion matrix follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from effbench.metrics import LabelMacroF1, MacroF1, Metric, hard_labels
from effbench.tasks.task import SummedCheck

MOST_CLASSES = 200  # whose K x K counts are kept: `eval --json` prints one a line


class _Counts(SummedCheck):
    """Base: hits, predictions and samples of each of K names, as the macro F1 counts them.

    Attributes:
        metric: the macro F1.
        word: what a name is of.
    """

    metric: ClassVar[Metric]
    word: ClassVar[str]

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.metric.sums(outputs, targets)

    def by_class(self, names: Sequence[str]) -> dict[str, Any]:
        """Return {'per_class': a mapping for each name, in their order}, 'per_label' for labels; {} without samples.

        A mapping holds class (or label), precision, recall, f1 (None for 0/0, also where the metric counts 0), samples
        and predictions.
        """
        if self._sums is None:
            return {}
        counts_3K = self._sums[: 3 * len(names)].long()
        columns = counts_3K.view(3, len(names)).tolist()
        return {f"per_{self.word}": [self._row(*row) for row in zip(names, *columns, strict=True)]}

    def _row(self, name: str, hits: int, predictions: int, samples: int) -> dict[str, Any]:
        """Return what follows from the counts of a name; None for 0/0."""
        either = predictions + samples
        return {
            self.word: name,
            "precision": hits / predictions if predictions else None,
            "recall": hits / samples if samples else None,
            "f1": 2 * hits / either if either else None,
            "samples": samples,
            "predictions": predictions,
        }


class ByClass(_Counts):
    """Counts of a classification, with those of each pair of a true and a predicted class."""

    metric = MacroF1()
    word = "class"

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        counts_3K, K = super().of(outputs, targets), outputs.shape[1]
        if K > MOST_CLASSES:
            return counts_3K
        true_B = hard_labels(targets)
        pairs = torch.zeros(K * K, dtype=torch.float64, device=outputs.device)  # float64 counts exactly
        pairs.index_add_(0, true_B * K + outputs.argmax(1), torch.ones_like(true_B, dtype=torch.float64))
        return torch.cat([counts_3K, pairs])

    def by_class(self, names: Sequence[str]) -> dict[str, Any]:
        """Return per_class, and 'confusion': K rows, each the samples of one true class by predicted class.

        None for more than MOST_CLASSES.
        """
        if self._sums is None:
            return {}
        K = len(names)
        pairs = self._sums[3 * K :].long()
        return {**super().by_class(names), "confusion": pairs.view(K, K).tolist() if len(pairs) else None}


class ByLabel(_Counts):
    """Counts of a multi-label classification: an output above 0 is a prediction."""

    metric = LabelMacroF1()
    word = "label"
