"""Metrics. A metric is one class; logs, tables, charts, early stopping and ranking derive from it.

To add your own metric, write a subclass of Metric in one file and name it in task.metrics=[acc,mylab.metrics.Kappa]
with allow_targets=[mylab.metrics]. Torch is imported only by metrics that compute, because reports need names and
formats only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from effbench.errors import shown
from effbench.escaping import one_line
from effbench.units import percent

if TYPE_CHECKING:
    from torch import Tensor

Mode = Literal["min", "max"]
LOSS, ACCURACY = "loss", "acc"
SIGNIFICANT = 7  # digits of a number as it is shown: float32 has no more
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Display:
    """How the values of a metric are written.

    Attributes:
        title: name in charts and results.
        mode: 'min' if smaller is better, else 'max'.
        unit: '' for a fraction.
        as_percent: 0.848 is written as 84.80 %.
        digits: digits after the decimal point, 0 to 15, of a value that is not written in percent; fewer of a value
            above 1000.
        is_share: the value is the share of samples that are right, each by itself: Wilson's interval holds for it.

    Raises:
        ValueError: an attribute has another type, or no such value.
    """

    title: str
    mode: Mode
    unit: str = ""
    as_percent: bool = False
    digits: int = 4
    is_share: bool = False

    def __post_init__(self) -> None:
        # A record may come from anyone, and a wrong mode would rank the worst run first.
        if not (isinstance(self.title, str) and isinstance(self.unit, str)):
            raise ValueError(f"title and unit of a metric are texts; got {shown(self.title)}, {shown(self.unit)}")
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode of a metric is min or max; got {shown(self.mode)}")
        if not isinstance(self.as_percent, bool):
            raise ValueError(f"as_percent of a metric is true or false; got {shown(self.as_percent)}")
        if not isinstance(self.is_share, bool):
            raise ValueError(f"is_share of a metric is true or false; got {shown(self.is_share)}")
        if isinstance(self.digits, bool) or self.digits not in range(16):
            raise ValueError(f"digits of a metric are a whole number from 0 to 15; got {shown(self.digits)}")

    @property
    def axis(self) -> str:
        """Title of a chart, such as 'loss (nats)'."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, value: float, spread: float | None = None) -> str:
        """Write a value: a fraction in percent, any other number with `digits`; with ± `spread` if it is given."""
        if self.as_percent:
            return percent(value, spread)
        digits = self.digits
        if 1000 <= abs(value) < math.inf:
            digits = min(digits, max(0, SIGNIFICANT - 1 - int(math.log10(abs(value)))))
        text = f"{value:.{digits}f}"
        return text if spread is None else f"{text} ± {spread:.{digits}f}"

    def with_unit(self, value: float) -> str:
        """Write a value as a sentence has it: '84.80 %', '0.4312 nats'."""
        return f"{self.text(value)} {self.unit}".rstrip()


class Metric:
    """Base of the metrics: sums over samples, and the value that follows from the sums.

    A subclass is constructed without arguments.

    Attributes:
        name: name in log columns: 'acc' in 'val/acc'. Of printable characters except spaces and '/'.
        display: how values are written.
        targets: kinds of targets the metric is defined for: 'class', 'labels', 'values', 'tokens' (see
            effbench/tasks/task.py).
    """

    name: ClassVar[str]
    display: ClassVar[Display]
    targets: ClassVar[tuple[str, ...]] = ("class",)

    def size(self, num_outputs: int) -> int:
        """Return how many numbers are summed for a model with `num_outputs` outputs."""
        del num_outputs
        return 1

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return sums over a batch. They are added up over micro-batches, batches and processes.

        Do not read values from the device here.

        Args:
            outputs: float (B, K), the model's outputs, without gradient.
            targets: as the task has them: int64 (B,) or float (B, K); mixed labels of a classification are float.

        Returns:
            float64 (size,) on the device.
        """
        raise NotImplementedError

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        """Return the metric over `samples` samples, or None if it is not defined for them: by default the mean."""
        return sums[0] / samples

    def value_with_loss(self, sums: Sequence[float], samples: float, loss: float) -> float | None:
        """Return the value of a metric that follows from the summed loss, too; by default it does not.

        Args:
            sums: as in `value`.
            samples: as in `value`.
            loss: the summed loss over these samples: in training that which is minimised.
        """
        del loss
        return self.value(sums, samples)


def hard_labels(targets: Tensor) -> Tensor:
    """Return labels as int64 (B,); a mixed label becomes the class with the largest share."""
    return targets if targets.dim() == 1 else targets.argmax(1)


class Accuracy(Metric):
    """Fraction of samples whose largest output is their class."""

    name = ACCURACY
    display = Display("accuracy", "max", as_percent=True, is_share=True)
    targets = ("class", "tokens")

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # float64 counts exactly; float32 stops at 2^24 samples
        return (outputs.argmax(1) == hard_labels(targets)).double().sum().reshape(1)


class Top5Accuracy(Metric):
    """Fraction of samples whose class is among the five largest outputs (among all, if there are fewer)."""

    name = "top5"
    display = Display("top-5 accuracy", "max", as_percent=True, is_share=True)
    targets = ("class", "tokens")

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # topk refuses more than there are
        top_B5 = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
        return (top_B5 == hard_labels(targets).unsqueeze(1)).any(1).double().sum().reshape(1)


class _PerOutput(Metric):
    """Base for metrics of the hits, predictions and samples of each class or label: K of each, in this order."""

    def size(self, num_outputs: int) -> int:
        return 3 * num_outputs


class _PerClass(_PerOutput):
    """Base for metrics that sum hits, predictions and samples of each class."""

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        import torch

        predicted_B, true_B = outputs.argmax(1), hard_labels(targets)
        # index_add_ instead of bincount, which synchronizes a GPU to find the largest value
        counts_3K = torch.zeros(3, outputs.shape[1], dtype=torch.float64, device=outputs.device)
        ones_B = torch.ones_like(true_B, dtype=torch.float64)
        counts_3K[0].index_add_(0, true_B, (predicted_B == true_B).double())
        counts_3K[1].index_add_(0, predicted_B, ones_B)
        counts_3K[2].index_add_(0, true_B, ones_B)
        return counts_3K.flatten()


class MacroF1(_PerClass):
    """Mean over classes of 2 hits / (predictions + samples); classes without predictions and samples are left out."""

    name = "macro_f1"
    display = Display("macro F1", "max", as_percent=True)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        # 0/0 for a class that neither occurs nor is predicted
        scores = [2 * hits / (found + true) for hits, found, true in _rows(sums) if found + true]
        return sum(scores) / len(scores)


class BalancedAccuracy(_PerClass):
    """Mean recall over the classes that occur."""

    name = "balanced_acc"
    display = Display("balanced accuracy", "max", as_percent=True)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        # 0/0 for a class without samples, which a small split may lack
        recalls = [hits / true for hits, _, true in _rows(sums) if true]
        return sum(recalls) / len(recalls)


class LabelAccuracy(Metric):
    """Fraction of all labels of all samples that are right; an output above 0 means present."""

    name = "label_acc"
    display = Display("label accuracy", "max", as_percent=True)
    targets = ("labels",)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # a logit above 0 is a probability above one half
        return ((outputs > 0) == (targets > 0.5)).double().mean(1).sum().reshape(1)


class LabelMacroF1(_PerOutput):
    """Mean over all labels of 2 hits / (predictions + samples); 0 for a label without predictions and samples."""

    name = "macro_f1"
    display = Display("macro F1", "max", as_percent=True)
    targets = ("labels",)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        import torch

        # float64 counts exactly, as in Accuracy
        predicted_BK, true_BK = outputs > 0, targets > 0.5
        rows = (predicted_BK & true_BK, predicted_BK, true_BK)
        return torch.cat([row_BK.sum(0, dtype=torch.float64) for row_BK in rows])

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        rows = _rows(sums)
        return sum(2 * hits / (found + true) if found + true else 0.0 for hits, found, true in rows) / len(rows)


class MeanAbsoluteError(Metric):
    """Mean of |output - target| over samples and outputs, in the unit of the targets."""

    name = "mae"
    display = Display("mean absolute error", "min")
    targets = ("values",)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # double before the difference: under autocast the outputs are half floats
        return (outputs.double() - targets.double()).abs().mean(1).sum().reshape(1)


class RootMeanSquaredError(Metric):
    """Root of the mean of (output - target)^2 over samples and outputs, in the unit of the targets."""

    name = "rmse"
    display = Display("root mean squared error", "min")
    targets = ("values",)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.double() - targets.double()).square().mean(1).sum().reshape(1)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        return math.sqrt(sums[0] / samples)  # the root is taken once, over all batches


class BitsPerByte(Metric):
    """Summed loss in bits over the UTF-8 bytes of the predicted tokens: it compares models with other tokenizers.

    Of a training loss that is no plain cross-entropy (label smoothing, focal) it is that loss in bits.

    Args:
        token_bytes: UTF-8 bytes of each token number; None before data are read.
    """

    name = "bits_per_byte"
    display = Display("bits per byte", "min", "bits")
    targets = ("tokens",)

    def __init__(self, token_bytes: Sequence[int] | None = None):
        self._token_bytes = token_bytes
        self._table: Tensor | None = None

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        import torch

        if self._table is None:
            if self._token_bytes is None:
                raise ValueError("bits_per_byte needs the bytes of each token, which the dataset's tokenizer gives")
            self._table = torch.tensor(self._token_bytes, dtype=torch.float64)
        self._table = self._table.to(targets.device)
        return self._table[targets].sum().reshape(1)

    def value(self, sums: Sequence[float], samples: float) -> float | None:
        raise NotImplementedError("bits per byte follow from the loss")

    def value_with_loss(self, sums: Sequence[float], samples: float, loss: float) -> float | None:
        return loss / (sums[0] * math.log(2)) if sums[0] else None


SHIPPED: tuple[type[Metric], ...] = (
    Accuracy, Top5Accuracy, MacroF1, BalancedAccuracy, LabelAccuracy, LabelMacroF1, MeanAbsoluteError,
    RootMeanSquaredError, BitsPerByte,
)  # fmt: skip
_FIELDS = frozenset(field.name for field in fields(Display))  # a newer version's record may hold more
# macro_f1 is the name of two classes, whose displays are equal: one entry serves both.
_DISPLAYS = {LOSS: Display(LOSS, "min", "nats"), **{kind.name: kind.display for kind in SHIPPED}}


def shipped(kind: str) -> dict[str, type[Metric]]:
    """Return name -> class of effbench's metrics for a kind of targets."""
    return {metric.name: metric for metric in SHIPPED if kind in metric.targets}


def metric_of(column: str) -> str:
    """Return the metric of a column: METRIC of val/METRIC, and of METRIC."""
    split, slash, name = column.partition("/")
    return name if slash and split in SPLITS else column


def display_of(column: str, recorded: Mapping[str, Any] | None = None) -> Display:
    """Return how the metric of a column is written.

    Args:
        column: val/METRIC or METRIC.
        recorded: the metrics that a run's summary describes, needed for metrics of the user.

    Returns:
        The display, in characters that can be printed. For an unknown name, a loss if the name ends with 'loss'; for
        any other, larger is better.
    """
    name = metric_of(column)
    about = (recorded or {}).get(name)
    if isinstance(about, Mapping):
        try:
            found = Display(**{key: value for key, value in about.items() if key in _FIELDS})
            found = replace(found, title=one_line(found.title), unit=one_line(found.unit))
            return found if "is_share" in about else _completed(found, name)
        except (TypeError, ValueError):
            pass  # the record is damaged: the name alone decides below
    return _DISPLAYS.get(name) or Display(one_line(name), "min" if name.endswith("loss") else "max")


def _completed(found: Display, name: str) -> Display:
    """Return a display of an older record, which does not say whether the metric is a share."""
    own = _DISPLAYS.get(name)
    return own if own and own == replace(found, is_share=own.is_share) else found


def recorded_displays(summary: Mapping[str, Any]) -> dict[str, Display]:
    """Return metric name -> display of a run's summary; a summary without displays is read by its metric names."""
    recorded = _described(summary)
    metrics = summary.get("metrics") or {}
    # columns first seen in `metrics` are of effbench 0.1, whose summaries describe no metric
    names = dict.fromkeys([*recorded, *(metric_of(column) for column in metrics if metric_of(column) != column)])
    return {name: display_of(name, recorded) for name in names}


def _described(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metrics that a record's `task` describes."""
    task = record.get("task")
    recorded = task.get("metrics") if isinstance(task, Mapping) else None
    if not (isinstance(task, Mapping) and isinstance(recorded, Mapping)):
        return {}
    if task.get("name") != "next_token":
        return recorded
    # older records do not say that tokens of a text are no independent samples
    known = {name: about for name, about in recorded.items() if isinstance(about, Mapping)}
    return {name: {"is_share": False, **about} for name, about in known.items()}


def display_in(record: Mapping[str, Any], column: str) -> Display:
    """Return how a metric is written that a record with the key `task` has; by its name if that does not tell.

    Args:
        record: summary.json of a run, bench.json, compression.json or tradeoff.json.
        column: val/METRIC or METRIC.
    """
    return display_of(column, _described(record))


def primary(names: Iterable[str]) -> str:
    """Return the metric, besides the loss, that judges a run: the first of the task."""
    # the order is that of task.metrics, which the user chose
    return next((name for name in names if name != LOSS), LOSS)


def shipped_mode(column: str) -> Mode | None:
    """Return the mode of a column's metric, or None for a metric that is not effbench's."""
    display = _DISPLAYS.get(metric_of(column))
    return display.mode if display else None


def as_recorded(displays: Mapping[str, Display]) -> dict[str, dict[str, Any]]:
    """Return displays as plain containers for summary.json; `display_of` reads them."""
    return {name: asdict(display) for name, display in displays.items()}


def _rows(sums: Sequence[float]) -> list[tuple[float, float, float]]:
    """Return (hits, predictions, samples) of each class."""
    count = len(sums) // 3
    return list(zip(sums[:count], sums[count : 2 * count], sums[2 * count :], strict=True))
