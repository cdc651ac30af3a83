"""Classification: one class a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from effbench.data.split_checks import as_labels, check_range
from effbench.tasks.by_class import ByClass
from effbench.tasks.class_counts import ClassCounts
from effbench.tasks.losses import CrossEntropy
from effbench.tasks.task import Task


class Classification(Task):
    """Targets int64 (N,) in [0, K): class numbers. Outputs (B, K): logits. Evaluated by cross-entropy in nats."""

    kind = "class"
    answer = "softmax over the classes of the output"
    loss_unit = "nats"
    remedy = "Write loss=cross_entropy or loss=focal, and metrics such as acc, top5, macro_f1, balanced_acc."
    evaluated_by = CrossEntropy()
    prediction_check = ClassCounts
    breakdown = ByClass

    def targets_of(self, name: str, targets: Tensor, num_classes: int) -> Tensor:
        # Splits accepts targets (N, K) and floats for other tasks: here they are refused.
        labels = as_labels(name, targets)
        check_range(name, labels, num_classes)
        return labels

    def answers(self, outputs: Tensor) -> Tensor:
        """Return class probabilities."""
        return outputs.softmax(1)

    def same_answer(self, expected: Tensor, got: Tensor, tie: float) -> Tensor:
        """Return True where the top class of `got` is, in `expected`, at most `tie` below the largest output."""
        # Two nearly equal classes may change places by rounding; the loss to the best output shows if it is more.
        best = expected.max(1).values
        chosen = expected.gather(1, got.argmax(1, keepdim=True)).squeeze(1)
        return best - chosen <= tie

    def described(self, answers: Sequence[float], names: Sequence[str], top_k: int) -> dict[str, Any]:
        """Return {class, probability, top_k: [{class, probability}]}, the most probable class first."""
        # stable: of equal probabilities, the first class comes first
        order = sorted(range(len(answers)), key=lambda place: -answers[place])[:top_k]
        # 6 digits: float32 has 7
        ranked = [{"class": names[place], "probability": round(answers[place], 6)} for place in order]
        return {**ranked[0], "top_k": ranked}
