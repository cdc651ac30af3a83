"""What is measured. A metric is one class; logs, tables, charts, early stopping and ranking derive from it.

A metric of your own is one file: a subclass of Metric, named in task.metrics=[acc,mylab.metrics.Kappa] with
allow_targets=[mylab.metrics]. Torch is imported only where a metric computes: reports read names and formats alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from effbench.units import percent

if TYPE_CHECKING:
    from torch import Tensor

Mode = Literal["min", "max"]
LOSS, ACCURACY = "loss", "acc"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Display:
    """How a metric reads. title: in charts and results. unit: '' for a share. as_percent: 0.848 is written 84.80 %."""

    title: str
    mode: Mode
    unit: str = ""
    as_percent: bool = False

    @property
    def axis(self) -> str:
        """A chart's title: 'loss (nats)'."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, value: float, spread: float | None = None) -> str:
        """A share in per cent, anything else with four digits; with ± `spread` where there is one."""
        if self.as_percent:
            return percent(value, spread)
        return f"{value:.4f}" if spread is None else f"{value:.4f} ± {spread:.4f}"


class Metric:
    """Sums over samples, and the value that follows from the sums. A subclass is made without arguments.

    name: in log columns, 'acc' in 'val/acc'. display: how its values are written.
    targets: the kinds of targets that it is defined for ('class', 'labels', 'values', see effbench/tasks/task.py).
    """

    name: ClassVar[str]
    display: ClassVar[Display]
    targets: ClassVar[tuple[str, ...]] = ("class",)

    def size(self, num_outputs: int) -> int:
        """How many numbers are summed for a model of so many outputs."""
        del num_outputs
        return 1

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sums over a batch, added up over batches, micro-batches and processes; nothing is read from the device.

        Args:
            outputs: float (B, K), the model's, without gradient.
            targets: as the task has them: int64 (B,), or float (B, K); mixed labels of a classification are float.

        Returns:
            float64 (size,) on the device.
        """
        raise NotImplementedError

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        """The metric over `samples` samples; None where it is not defined for them."""
        raise NotImplementedError


def hard_labels(targets: Tensor) -> Tensor:
    """int64 (B,): a mixed label counts by its largest share."""
    return targets if targets.dim() == 1 else targets.argmax(1)


class Accuracy(Metric):
    """Share of samples whose largest output is their class."""

    name = ACCURACY
    display = Display("accuracy", "max", as_percent=True)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == hard_labels(targets)).double().sum().reshape(1)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        return sums[0] / samples


class Top5Accuracy(Metric):
    """Share of samples whose class is among the five largest outputs (of all, where there are fewer)."""

    name = "top5"
    display = Display("top-5 accuracy", "max", as_percent=True)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        top_B5 = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
        return (top_B5 == hard_labels(targets).unsqueeze(1)).any(1).double().sum().reshape(1)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        return sums[0] / samples


class _PerClass(Metric):
    """Sums, for each class: hits, predictions, samples."""

    def size(self, num_outputs: int) -> int:
        return 3 * num_outputs

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        import torch

        predicted_B, true_B = outputs.argmax(1), hard_labels(targets)
        counts_3K = torch.zeros(3, outputs.shape[1], dtype=torch.float64, device=outputs.device)
        ones_B = torch.ones_like(true_B, dtype=torch.float64)
        counts_3K[0].index_add_(0, true_B, (predicted_B == true_B).double())
        counts_3K[1].index_add_(0, predicted_B, ones_B)
        counts_3K[2].index_add_(0, true_B, ones_B)
        return counts_3K.flatten()


class MacroF1(_PerClass):
    """Mean over classes of 2 hits / (predictions + samples); classes that occur in neither are left out."""

    name = "macro_f1"
    display = Display("macro F1", "max", as_percent=True)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        scores = [2 * hits / (found + true) for hits, found, true in _rows(sums) if found + true]
        return sum(scores) / len(scores)


class BalancedAccuracy(_PerClass):
    """Mean over the classes that occur of the share of their samples that are found (recall)."""

    name = "balanced_acc"
    display = Display("balanced accuracy", "max", as_percent=True)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        recalls = [hits / true for hits, _, true in _rows(sums) if true]
        return sum(recalls) / len(recalls)


class LabelAccuracy(Metric):
    """Share of all labels of all samples that are right, an output above 0 being a yes (one minus the Hamming loss)."""

    name = "label_acc"
    display = Display("label accuracy", "max", as_percent=True)
    targets = ("labels",)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs > 0) == (targets > 0.5)).double().mean(1).sum().reshape(1)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        return sums[0] / samples


class LabelMacroF1(Metric):
    """Mean over all labels of 2 hits / (predictions + samples), 0 for a label that occurs in neither."""

    name = "macro_f1"
    display = Display("macro F1", "max", as_percent=True)
    targets = ("labels",)

    def size(self, num_outputs: int) -> int:
        return 3 * num_outputs

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        import torch

        predicted_BK, true_BK = outputs > 0, targets > 0.5
        rows = (predicted_BK & true_BK, predicted_BK, true_BK)
        return torch.cat([row_BK.sum(0, dtype=torch.float64) for row_BK in rows])

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        rows = _rows(sums)
        return sum(2 * hits / (found + true) if found + true else 0.0 for hits, found, true in rows) / len(rows)


class MeanAbsoluteError(Metric):
    """Mean of |output - target| over samples and outputs, in the targets' own unit."""

    name = "mae"
    display = Display("mean absolute error", "min")
    targets = ("values",)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.double() - targets.double()).abs().mean(1).sum().reshape(1)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        return sums[0] / samples


class RootMeanSquaredError(Metric):
    """Root of the mean of (output - target)^2 over samples and outputs, in the targets' own unit."""

    name = "rmse"
    display = Display("root mean squared error", "min")
    targets = ("values",)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.double() - targets.double()).square().mean(1).sum().reshape(1)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        return math.sqrt(sums[0] / samples)


SHIPPED: tuple[type[Metric], ...] = (
    Accuracy, Top5Accuracy, MacroF1, BalancedAccuracy, LabelAccuracy, LabelMacroF1, MeanAbsoluteError,
    RootMeanSquaredError,
)  # fmt: skip
_DISPLAYS = {LOSS: Display(LOSS, "min", "nats"), **{kind.name: kind.display for kind in SHIPPED}}


def shipped(kind: str) -> dict[str, type[Metric]]:
    """Name -> class of the metrics for targets of a kind."""
    return {metric.name: metric for metric in SHIPPED if kind in metric.targets}


def display_of(column: str, recorded: Mapping[str, Any] | None = None) -> Display:
    """How 'val/acc' or 'acc' reads. recorded: what a run's summary says of its metrics, for those of its user's own.

    A name that nobody knows is a loss if it ends like one, else larger is better.
    """
    name = column.rpartition("/")[2]
    about = (recorded or {}).get(name)
    if isinstance(about, Mapping):
        try:
            return Display(**about)
        except TypeError:
            pass  # a record of another version or a damaged one
    return _DISPLAYS.get(name) or Display(name, "min" if name.endswith("loss") else "max")


def recorded_displays(summary: Mapping[str, Any]) -> dict[str, Display]:
    """Metric name -> how it reads, of a run's summary; of one that does not say, by the names of its metrics."""
    task = summary.get("task")
    recorded = task.get("metrics") if isinstance(task, Mapping) else None
    recorded = recorded if isinstance(recorded, Mapping) else {}
    metrics = summary.get("metrics") or {}
    names = dict.fromkeys([*recorded, *(column.partition("/")[2] for column in metrics if "/" in column)])
    return {name: display_of(name, recorded) for name in names}


def primary(displays: Mapping[str, Display]) -> str:
    """The metric that a run is judged by beside the loss: the task's first."""
    return next((name for name in displays if name != LOSS), LOSS)


def shipped_mode(column: str) -> Mode | None:
    """Which values of 'val/acc' are better; None for a metric that is not effbench's."""
    display = _DISPLAYS.get(column.rpartition("/")[2])
    return display.mode if display else None


def as_recorded(displays: Mapping[str, Display]) -> dict[str, dict[str, Any]]:
    """For summary.json; read back by `display_of`."""
    return {name: asdict(display) for name, display in displays.items()}


def _rows(sums: Sequence[float]) -> list[tuple[float, float, float]]:
    """(hits, predictions, samples) of each class."""
    count = len(sums) // 3
    return list(zip(sums[:count], sums[count : 2 * count], sums[2 * count :], strict=True))
