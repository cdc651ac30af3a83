"""A task: what targets look like, the loss that is minimised, what is measured, and what an output means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from effbench.data.splits import Split, Splits
from effbench.errors import ConfigError
from effbench.metrics import LOSS, Display, Metric
from effbench.tasks.losses import Loss
from effbench.tasks.tallies import Tallies


class PredictionCheck:
    """Looks at the predictions of one evaluation; this one at nothing."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """A batch of them, on the device."""

    def agree(self, ranks: Any) -> None:
        """Adds up those of all processes."""

    def complaint(self, which: str, values: Mapping[str, float], classes: Sequence[str]) -> str | None:
        """What is wrong with a model of such predictions on the split `which`; None if nothing is."""


class Task:
    """Base of the tasks.

    kind: of the targets: 'class' (int64 (N,)), 'labels' (float32 (N, K) of 0 and 1) or 'values' (float32 (N, D)).
    loss: what training minimises. metrics: what is measured beside the loss, in training and evaluation.
    num_outputs: of the model, K of its (B, K).
    """

    kind: ClassVar[str]
    answer: ClassVar[str]  # of the outputs, what `answers` gives
    loss_unit: ClassVar[str] = ""
    remedy: ClassVar[str] = ""  # what to write where a loss or a metric does not fit

    def __init__(self, loss: Loss, metrics: Sequence[Metric], num_outputs: int):
        taken = {f"loss={_name(loss)}": loss.targets, **{f"task.metrics={each.name}": each.targets for each in metrics}}
        for part, targets in taken.items():
            if self.kind not in targets:
                raise ConfigError(
                    f"{part} is for targets of kind {' or '.join(targets)}; task={_name(self).lower()} has targets of "
                    f"kind {self.kind}. {self.remedy}"
                )
        self.loss, self.metrics = loss, tuple(metrics)
        self.tallies = Tallies(self.metrics, num_outputs)

    def checked(self, data: Splits) -> Splits:
        """The dataset with targets as this task takes them. Raises DataError where they are something else."""

        def checked(which: str, split: Split) -> Split:
            return Split(split.images, self.targets_of(f"{data.name} {which}", split.labels, len(data.classes)))

        train = checked("train", data.train)
        val = None if data.val is None else checked("val", data.val)
        test = None if data.test is None else checked("test", data.test)
        return replace(data, train=train, val=val, test=test)

    def targets_of(self, name: str, targets: Tensor, num_classes: int) -> Tensor:
        """Targets of one split, checked. name: begins the message."""
        raise NotImplementedError

    def plain_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The summed loss of an evaluation: without smoothing or weights, so that runs on other losses compare."""
        raise NotImplementedError

    def answers(self, outputs: Tensor) -> Tensor:
        """What `predict` gives for float outputs (B, K): float (B, K)."""
        raise NotImplementedError

    def same_answer(self, expected: Tensor, got: Tensor, tie: float) -> Tensor:
        """bool (N,): whether outputs (N, K) mean the same where differences of at most `tie` are none."""
        raise NotImplementedError

    def described(self, answers: Sequence[float], names: Sequence[str], top_k: int) -> dict[str, Any]:
        """One sample's answers for a person. names: of the classes, labels or values."""
        raise NotImplementedError

    def prediction_check(self) -> PredictionCheck:
        """A new one, for one evaluation."""
        return PredictionCheck()

    @property
    def names(self) -> tuple[str, ...]:
        """Of what is measured: the loss, then the metrics."""
        return (LOSS, *(metric.name for metric in self.metrics))

    @property
    def displays(self) -> dict[str, Display]:
        """Metric name -> how it reads, the loss included."""
        loss = Display(LOSS, "min", self.loss_unit)
        return {LOSS: loss, **{metric.name: metric.display for metric in self.metrics}}


def _name(part: Any) -> str:
    return type(part).__name__
