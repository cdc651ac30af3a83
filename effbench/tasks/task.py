"""The task: the form of the targets, the loss, the metrics, and the meaning of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from effbench.data.modality import Modality
from effbench.data.splits import Splits
from effbench.errors import ConfigError
from effbench.metrics import LOSS, Display, Metric, as_recorded
from effbench.tasks.losses import Loss, checked_sum
from effbench.tasks.tallies import Tallies

if TYPE_CHECKING:
    from effbench.tasks.generation import Sampling


class PredictionCheck:
    """Checks the predictions of one evaluation. This base class checks nothing."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of outputs and targets on the device."""

    def agree(self, ranks: Any) -> None:
        """Add up the counts of all processes."""

    def complaint(
        self, which: str, values: Mapping[str, float], classes: Sequence[str], unit: str = "image", seen: bool = True
    ) -> str | None:
        """Return a warning about the predictions, or None.

        Args:
            which: name of the split.
            values: metric name -> value of this evaluation.
            classes: names of the classes.
            unit: the word for a sample.
            seen: the predictions are of the weights that `values` are of; else the targets alone count.
        """

    def by_class(self, names: Sequence[str]) -> dict[str, Any]:
        """Return counts by class for `effbench eval`, by key, as plain values; {} for none.

        names: of the classes.
        """
        del names
        return {}


class SummedCheck(PredictionCheck):
    """A check of numbers that add up over batches and processes; on the device until they are read."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # None: no sample was evaluated, or some process had none

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the numbers of a batch, in float64."""
        raise NotImplementedError

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        numbers = self.of(outputs, targets)
        self._sums = numbers if self._sums is None else self._sums + numbers

    def agree(self, ranks: Any) -> None:
        # a process without samples cannot tell the shape: the others would wait for it for ever
        missing = ranks.any(self._sums is None)
        self._sums = None if missing or self._sums is None else ranks.sum(self._sums)


class Task:
    """Base of the tasks.

    Args:
        loss: what training minimises.
        metrics: what is measured besides the loss, in training and evaluation.
        num_outputs: outputs of the model, K of (B, K).

    Attributes:
        label: name of the task, as in task=NAME; by default of the class.
        kind: kind of the targets: 'class' (int64 (N,)), 'labels' (float32 (N, K) of 0 and 1), 'values' (float32 (N,
            D)) or 'tokens' (integers (N, T), one of K at each place).
        answer: how `answers` follows from the outputs, in words.
        loss_unit: unit of the evaluated loss, such as 'nats'.
        remedy: what to write if a loss or a metric does not fit.
        evaluated_by: loss of evaluations; see `plain_loss`.
        prediction_check: called without arguments for each evaluation of a training.
        breakdown: called without arguments for `effbench eval`: its `by_class` is what that tells of each class.
        samples: `sample_text` returns a text.
        sampling: how `predict` continues a text, for tasks that do so instead of answering.
        independent: what the metrics count are samples, each drawn by itself; not so for the tokens of a text.
        names: names of what is measured: the loss, then the metrics.
        displays: metric name -> display, with the loss.

    Raises:
        ConfigError: the loss or a metric is for another kind of targets.
    """

    label: ClassVar[str]
    kind: ClassVar[str]
    answer: ClassVar[str]
    loss_unit: ClassVar[str] = ""
    remedy: ClassVar[str] = ""
    # One object for all evaluations of a process: a plain loss has no tensors that belong to a device.
    evaluated_by: ClassVar[Loss]
    prediction_check: ClassVar[type[PredictionCheck]] = PredictionCheck  # which checks nothing
    breakdown: ClassVar[type[PredictionCheck]] = PredictionCheck  # which tells nothing
    samples: bool = False
    sampling: Sampling | None = None
    independent: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "label" not in vars(cls):
            cls.label = cls.__name__.lower()

    def __init__(self, loss: Loss, metrics: Sequence[Metric], num_outputs: int):
        # Checked here: a loss or metric for other targets may compute a number that looks right.
        # By the name of the class: a loss of the user's has no other.
        parts = {f"loss={type(loss).__name__}": loss.targets}
        parts |= {f"task.metrics={metric.name}": metric.targets for metric in metrics}
        for part, targets in parts.items():
            if self.kind not in targets:
                raise ConfigError(
                    f"{part} is for targets of kind {' or '.join(targets)}; task={self.label} has "
                    f"targets of kind {self.kind}. {self.remedy}"
                )
        self.loss, self.metrics = loss, tuple(metrics)
        self.tallies = Tallies(self.metrics, num_outputs)
        # The order of log lines, tables and columns: the loss, then the metrics as configured.
        self.displays = {LOSS: Display(LOSS, "min", self.loss_unit)}
        self.displays |= {metric.name: self._display_of(metric) for metric in self.metrics}
        self.names = tuple(self.displays)

    def _display_of(self, metric: Metric) -> Display:
        return metric.display if self.independent else replace(metric.display, is_share=False)

    def checked(self, data: Splits) -> Splits:
        """Return the dataset with targets as this task takes them. Raise DataError for targets of another kind."""
        self.check_samples(data.modality, data.name)
        changed: dict[str, Any] = {}
        # Every split now: the test split is read at the end, after hours of training.
        for which, split in data.named().items():
            labels = self.targets_of(f"{data.name} {which}", split.labels, len(data.classes))
            changed[which] = replace(split, labels=labels)
        return replace(data, **changed)

    def check_samples(self, modality: type[Modality], name: str) -> None:
        """Refuse samples of a kind whose targets are always of another kind than the task's. Raises ConfigError.

        Args:
            modality: of the samples.
            name: of the dataset.
        """
        wanted = modality.target_kind
        if wanted is not None and wanted != self.kind:
            raise ConfigError(
                f"{name} holds {modality.unit}s with targets of kind {wanted}; task={self.label} is for targets of "
                f"kind {self.kind}. Write {modality.task_words}."
            )

    def targets_of(self, name: str, targets: Tensor, num_classes: int) -> Tensor:
        """Return the checked targets of one split.

        Args:
            name: begins the message of an error.
            targets: as the dataset has them.
            num_classes: number of classes, labels or values.

        Raises:
            DataError: the targets do not fit the task.
        """
        raise NotImplementedError

    def output_shape(self, sample: Sequence[int], num_outputs: int) -> tuple[int, ...]:
        """Return the shape of a model's outputs for one sample: (K,).

        Args:
            sample: shape of a sample.
            num_outputs: K.
        """
        del sample
        return (num_outputs,)

    def example_targets(self, sample: Sequence[int], num_outputs: int) -> Tensor:
        """Return the targets of one sample, with arbitrary values; the arguments are those of `output_shape`."""
        del sample
        return torch.zeros(1, dtype=torch.int64) if self.kind == "class" else torch.zeros(1, num_outputs)

    def fit(self, data: Splits) -> None:
        """Take from the train split what the task needs; by default nothing. Raises DataError."""

    def display_record(self) -> dict[str, Any]:
        """Return the name and how each metric is written, for `task` of a record: see metrics.display_in."""
        return {"name": self.label, "metrics": as_recorded(self.displays)}

    def record(self) -> dict[str, Any]:
        """Return what `restore` needs as plain values, for `task` in summary.json."""
        return {}

    def restore(self, recorded: Mapping[str, Any]) -> None:
        """Take what `fit` found from `task` in a run's summary.json. Raises ValueError if it is damaged."""

    def note(self, names: Sequence[str]) -> str | None:
        """Return a line for the start of a run on what `fit` found, or None. names: of the classes or values."""

    def rescaler(self) -> nn.Module:
        """Return the step from a model's outputs to those of `rows` as a module, for export with the model."""
        return nn.Identity()

    def training_loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the differentiable summed loss that training minimises, and the one that is logged: by default equal.

        Args:
            outputs: from `rows`.
            targets: from `rows`.
        """
        loss = checked_sum(self.loss, outputs, targets)
        return loss, loss.detach()

    def rows(self, outputs: Tensor, targets: Tensor, full: bool = False) -> tuple[Tensor, Tensor]:
        """Return outputs (R, K) and targets (R, ...), a row for each target that counts: by default one a sample.

        Args:
            outputs: of the model.
            targets: of the batch.
            full: every target counts, as in training.
        """
        del full
        return outputs, targets

    def plain_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss of an evaluation, without smoothing or weights: runs with other losses compare."""
        # A sum, () float: the last batch may be smaller, and a mean of means would give its samples more weight.
        return self.evaluated_by.summed(outputs, targets)

    def answers(self, outputs: Tensor) -> Tensor:
        """Return what `predict` reports for float outputs (B, K): float (B, K)."""
        raise NotImplementedError

    def sample_text(self, model: nn.Module, modality: Modality, seed: int, inputs: Tensor) -> str | None:
        """Return a text that shows what a trained model does, for the run's folder; None for none.

        Args:
            model: in eval mode.
            modality: fitted modality.
            seed: determines what is drawn.
            inputs: samples of the train split.
        """

    def same_answer(self, expected: Tensor, got: Tensor, tie: float) -> Tensor:
        """Return bool (N,): True where two outputs mean the same.

        Args:
            expected: float (N, K), outputs of the model.
            got: float (N, K), outputs of the exported file.
            tie: differences up to this are ignored.
        """
        raise NotImplementedError

    def same_answer_among(self, values: Tensor) -> Callable[[Tensor, Tensor, float], Tensor]:
        """Return `same_answer` for samples of which something is known: by default the method itself.

        values: targets of the samples, or outputs for them where there are none, (N, ...).
        """
        del values
        return self.same_answer

    def described(self, answers: Sequence[float], names: Sequence[str], top_k: int) -> dict[str, Any]:
        """Return the answer for one sample as a mapping for people.

        Args:
            answers: one row of `answers`.
            names: names of the classes, labels or values.
            top_k: how many classes to list.
        """
        raise NotImplementedError
